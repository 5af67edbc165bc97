"""Other people's models, as they are distributed: TAESD's pairs of files, and folders of diffusers.

No pickle is executed: `.pth` files are read by torch's restricted loader, which knows tensors only.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from codec.autoencoders import model as files
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.model import Model, build
from codec.autoencoders.networks import kl
from codec.autoencoders.tensor_file import FLOATS, METADATA, opened, read_safetensors

SUFFIXES = (".safetensors", ".pth", ".pt")
Tensors = dict[str, Tensor]


def read(path: Path, name: str | None = None) -> Model:
    """Read a model from whatever it is distributed as, and check that it works with its networks.

    Args:
        path: a file of this package; a folder of diffusers' `AutoencoderKL` or `AutoencoderTiny`, or a pipeline's that
            holds it as `vae`; a folder with a `.safetensors` or `.pth` file each for a TAESD encoder and decoder, or
            one of the two files, with the other beside it.
        name: the model's name; that of the file or the folder by default.

    Raises:
        FileNotFoundError: there is nothing.
        ModelFileError: it is no model, a damaged one, or of a kind that is not known.
        ImportError: it needs an extra that is not installed.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a model's file or folder")
    model = _from_folder(path) if path.is_dir() else _from_file(path)
    if name is None and path.is_dir():
        name = path.resolve().name
    if name is not None:
        model = replace(model, name=name)
    files.check(model, str(path))
    build(model)
    return model


def _from_folder(path: Path) -> Model:
    inner = path / "vae"
    if not (path / "config.json").exists() and (inner / "config.json").exists():
        return _from_folder(inner)
    if (path / "config.json").exists():
        return _from_diffusers(path)
    found = [entry for entry in sorted(path.iterdir()) if entry.suffix in SUFFIXES and "decoder" not in entry.stem]
    if len(found) != 1:
        raise ModelFileError(f"{path} holds neither a config.json of diffusers nor exactly one model: name its file")
    return _from_file(found[0])


def _from_file(path: Path) -> Model:
    if path.suffix == ".safetensors":
        with opened(path) as file:
            ours = METADATA in file.metadata
        if ours:
            return files.read(path)
    tensors = _read_tensors(path)
    if any(name.startswith("encoder.layers.") for name in tensors):
        return _tiny(path.stem, *_split_layers(tensors))
    for mine, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if mine in path.stem:
            encoder = path if mine == "encoder" else path.with_name(path.name.replace(mine, other))
            return _from_pair(encoder)
    raise ModelFileError(
        f"{path} is of a kind that is not known: name a folder with its config.json, or TAESD's encoder and decoder"
    )


def _from_pair(encoder: Path) -> Model:
    """A TAESD model from its encoder's file; the decoder's is named alike."""
    name = encoder.stem.replace("encoder", "").strip("-_. ") or encoder.resolve().parent.name
    decoder = encoder.with_name(encoder.name.replace("encoder", "decoder"))
    for path in (encoder, decoder):
        if not path.exists():
            raise ModelFileError(f"{path} is missing: encoder and decoder must lie side by side")
    return _tiny(name, _read_tensors(encoder), _read_tensors(decoder))


def _split_layers(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """diffusers' `AutoencoderTiny`, whose decoder does not count its first layer, by the original's names."""
    parts: tuple[Tensors, Tensors] = ({}, {})
    for name, tensor in tensors.items():
        which, _, rest = name.partition(".layers.")
        number, _, rest = rest.partition(".")
        if which not in ("encoder", "decoder") or not number.isdecimal():
            raise ModelFileError(f"weights {name} belong to no AutoencoderTiny that is known")
        parts[which == "decoder"][f"{int(number) + (which == 'decoder')}.{rest}"] = tensor
    return parts


def _tiny(name: str, encoder: Tensors, decoder: Tensors) -> Model:
    first = decoder.get("1.weight")
    if first is None or first.dim() != 4:
        raise ModelFileError(f"{name} is no model of the TAESD family: its decoder has no first convolution")
    config = {"latent": first.shape[1], "pooling": any(".pool." in key for key in decoder)}
    tensors = {f"encoder.{key}": tensor for key, tensor in encoder.items()}
    tensors |= {f"decoder.{key}": tensor for key, tensor in decoder.items()}
    return Model(name, "tiny", config, (0.0,) * first.shape[1], (1.0,) * first.shape[1], tensors)


def _from_diffusers(path: Path) -> Model:
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text())
        kind = config["_class_name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path / 'config.json'} is no configuration of diffusers: get the file again") from error
    weights = sorted(path.glob("*.safetensors"), key=lambda entry: len(entry.name))  # before .fp16.safetensors
    if not weights:
        raise ModelFileError(f"{path} holds no .safetensors file: get the model in that form")
    if kind == "AutoencoderTiny":
        return _tiny(path.resolve().name, *_split_layers(read_safetensors(weights[0])[1]))
    if kind == "AutoencoderKL":
        return _kl(path, config, weights[0])
    raise ModelFileError(f"{path} is a model of class {kind}: only AutoencoderKL and AutoencoderTiny are known")


def _kl(path: Path, config: dict[str, Any], weights: Path) -> Model:
    variant = weights.name.removesuffix(".safetensors").partition(".")[2] or None
    library = kl.diffusers()
    read_safetensors(weights)  # says more about a damaged file
    try:
        kl.check(config)
        loaded = library.AutoencoderKL.from_pretrained(
            path,
            use_safetensors=True,
            local_files_only=True,
            variant=variant,
            low_cpu_mem_usage=False,
        )
        channels = loaded.config["latent_channels"]
        mean = (float(loaded.config.get("shift_factor") or 0),) * channels
        scale = (float(loaded.config.get("scaling_factor") or 1),) * channels
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ModelFileError(f"{path} is no AutoencoderKL that diffusers can load: {error}") from error
    told = {field: loaded.config[field] for field in kl.FIELDS}
    told["block_out_channels"] = list(told["block_out_channels"])
    return Model(path.resolve().name, "kl", told, mean, scale, dict(loaded.state_dict()))


def _read_tensors(path: Path) -> Tensors:
    """All weights in a file of either kind."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)[1]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ModelFileError(
            f"{path} is damaged or holds other things than weights, which are never executed"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelFileError(f"{path} cannot be read as weights: get the file again") from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) and t.dtype in FLOATS for t in state.values()):
        raise ModelFileError(f"{path} holds other things than weights by name")
    return {str(name): tensor for name, tensor in state.items()}
