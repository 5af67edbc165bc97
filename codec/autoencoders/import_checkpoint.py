"""Other people's models, as they are distributed: TAESD's pairs of files, and folders of diffusers.

No pickle is executed: `.pth` files are read by torch's restricted loader, which knows tensors only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from codec.autoencoders import model_file, taming
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.k_means import k_means
from codec.autoencoders.model_file import Model, build
from codec.autoencoders.networks import kl, vqgan
from codec.autoencoders.tensor_file import FLOATS, METADATA, opened, read_safetensors, type_of

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
PARTS = ("vae", "vqvae", "movq")  # of pipelines
LEAST = 8  # entries of the smallest codebook that is made of a greater one
Tensors = dict[str, Tensor]


def read(path: Path, name: str | None = None) -> Model:
    """Read a model from whatever it is distributed as, and check that it works with its networks.

    Args:
        path: a file of this package; a folder of diffusers' `AutoencoderKL`, `AutoencoderTiny` or `VQModel`, or a
            pipeline's that holds it as one of `PARTS`; a folder with a `.safetensors` or `.pth` file each for a TAESD
            encoder and decoder, or one of the two files, with the other beside it; a VQGAN's file as
            taming-transformers writes it.
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
    model_file.check(model, str(path))
    build(model)
    return model


def _from_folder(path: Path) -> Model:
    for folder in (path, *(path / part for part in PARTS)):
        if (folder / "config.json").exists():
            return _from_diffusers(folder)
    found = [entry for entry in sorted(path.iterdir()) if entry.suffix in SUFFIXES and "decoder" not in entry.stem]
    if len(found) != 1:
        raise ModelFileError(f"{path} holds neither a config.json of diffusers nor exactly one model: name its file")
    return _from_file(found[0])


def _from_file(path: Path) -> Model:
    if path.suffix == ".safetensors":
        with opened(path) as file:
            ours = METADATA in file.metadata
        if ours:
            return model_file.read(path)
    tensors = _read_tensors(path)
    if any(name.startswith("encoder.layers.") for name in tensors):
        return _tiny(path.stem, *_split_layers(tensors))
    if taming.ENTRIES in tensors:
        return _vqgan(path, *taming.to_diffusers(tensors, str(path)))
    for mine, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if mine in path.stem:
            encoder = path if mine == "encoder" else path.with_name(path.name.replace(mine, other))
            return _from_pair(encoder)
    raise ModelFileError(
        f"{path} is of a kind that is not known: name a folder with its config.json, TAESD's encoder and "
        "decoder, or a VQGAN of taming-transformers"
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
        return _tiny(path.resolve().name, *_split_layers(dict(read_safetensors(weights[0])[1])))
    if kind == "AutoencoderKL":
        return _kl(path, _loaded(path, kind, config, weights[0], kl.check))
    if kind == "VQModel":
        loaded = _loaded(path, kind, config, weights[0], vqgan.check)
        return _vqgan(path.resolve(), _told(loaded.config, vqgan.FIELDS), loaded.state_dict())
    raise ModelFileError(
        f"{path} is a model of class {kind}: only AutoencoderKL, AutoencoderTiny and VQModel are known"
    )


def _loaded(path: Path, kind: str, config: dict[str, Any], weights: Path, check: Callable[[Any], None]) -> Any:
    """The model of a class of diffusers' that is in a folder."""
    variant = weights.name.removesuffix(".safetensors").partition(".")[2] or None
    library = kl.diffusers()
    read_safetensors(weights)  # says more about a damaged file
    try:
        check(config)
        loaded, found = getattr(library, kind).from_pretrained(
            path,
            use_safetensors=True,
            local_files_only=True,
            variant=variant,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ModelFileError(f"{path} is no {kind} that diffusers can load: {error}") from error
    if found["missing_keys"]:  # which the library makes up
        raise ModelFileError(f"{path} is no whole {kind}: it lacks weights {min(found['missing_keys'])}")
    return loaded


def _told(config: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """Fields of a configuration, as JSON has them."""
    return {field: list(v) if isinstance(v := config[field], tuple) else v for field in fields}


def _kl(path: Path, loaded: Any) -> Model:
    channels = loaded.config["latent_channels"]
    try:
        mean = (float(loaded.config.get("shift_factor") or 0),) * channels
        scale = (float(loaded.config.get("scaling_factor") or 1),) * channels
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{path} has a configuration that makes no sense: {error}") from error
    return Model(path.resolve().name, "kl", _told(loaded.config, kl.FIELDS), mean, scale, dict(loaded.state_dict()))


def _vqgan(source: Path, told: dict[str, Any], tensors: Mapping[str, Tensor]) -> Model:
    """A VQGAN in diffusers' names, with codebooks of 8, 16, 32 ... entries made of its own."""
    told = {**told, "vq_embed_dim": told["vq_embed_dim"] or told["latent_channels"]}
    networks = {name: tensor for name, tensor in tensors.items() if name != taming.ENTRIES}
    entries = tensors[taming.ENTRIES].float()

    def model(codebooks: list[Tensor]) -> Model:
        config = {"autoencoder": told, "sizes": [len(codebook) for codebook in codebooks]}
        return Model(source.stem, "vqgan", config, (), (), {**networks, "entries": torch.cat(codebooks)})

    model_file.check(model([entries]), str(source))  # before what takes a while
    sizes = takewhile(lambda size: size < len(entries), (LEAST << i for i in count()))
    return model([*(k_means(entries, size)[0] for size in sizes), entries])


def _read_tensors(path: Path) -> Tensors:
    """All weights in a file of either kind."""
    if path.suffix == ".safetensors":
        return dict(read_safetensors(path)[1])
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ModelFileError(
            f"{path} is damaged or holds other things than weights, which are never executed"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelFileError(f"{path} cannot be read as weights: get the file again") from error
    if isinstance(state, dict):  # a training's: its networks, without what only judges or averages these
        state = state.get("state_dict", state)
    if isinstance(state, dict):
        state = {name: state[name] for name in state if not str(name).startswith(("loss.", "model_ema."))}
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) and type_of(t) in FLOATS for t in state.values()):
        raise ModelFileError(f"{path} holds other things than weights by name")
    return {str(name): tensor for name, tensor in state.items()}
