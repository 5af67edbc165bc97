"""A model as a file: one safetensors file with everything in it, and the hash that files name it by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from codec.autoencoders.errors import ModelFileError
from codec.container import MODEL_BYTES

METADATA = "clric"  # key of the description among a file's metadata
FUNCTION = "function."
FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, eq=False)
class Model:
    """A pretrained autoencoder, not yet on a device.

    Attributes:
        name: for people; not part of its identity.
        architecture: kind of its networks, one of `codec.autoencoders.networks.ARCHITECTURES`.
        config: shape of the networks, as JSON has it.
        mean, scale: by channel. A latent z is coded as (z - mean) * scale, in which equal error should cost about
            equal distortion.
        tensors: weights by name, of one of `FLOATS`; names with the prefix `FUNCTION` belong to the universal function,
            in integers of 16 bits.
        function: description of the universal function, or None if the model has none.
    """

    name: str
    architecture: str
    config: Mapping[str, Any]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    tensors: Mapping[str, Tensor]
    function: Mapping[str, Any] | None = None

    @property
    def description(self) -> dict[str, Any]:
        """Description of how the weights are used, as JSON has it; part of the identity."""
        told = {"architecture": self.architecture, "config": self.config, "mean": self.mean, "scale": self.scale}
        return told if self.function is None else {**told, "function": self.function}

    @property
    def networks(self) -> dict[str, Tensor]:
        """Weights of the networks."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith(FUNCTION)}

    @cached_property
    def identity(self) -> bytes:
        """SHA-256 of the description and of the weights' values, whatever type they are stored in.

        The description counts as JSON with sorted keys and no spaces. Then follow the tensors, sorted by name: each as
        its name in UTF-8, a zero byte, its shape as JSON, a zero byte, and its values as little-endian float32.
        """
        total = sha256(_json(self.description))
        for name, tensor in sorted(self.tensors.items()):
            total.update(name.encode() + b"\0" + _json(list(tensor.shape)) + b"\0")
            total.update(tensor.float().contiguous().numpy().astype("<f4", copy=False).data)
        return total.digest()

    @property
    def prefix(self) -> bytes:
        """The part of the identity that `.clric` files hold."""
        return self.identity[:MODEL_BYTES]


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read(path: Path) -> Model:
    """Read a model from a file that `write` made.

    Raises:
        ModelFileError: the file is no model, damaged, or holds weights that are no finite numbers.
    """
    return describe(path, *read_safetensors(path))


def describe(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> Model:
    """The model that a file holds, from what `read_safetensors` found in it; raises as `read`."""
    if METADATA not in metadata:
        raise ModelFileError(f"{path} is no model of this package: add it with `clric-convert models add {path}` first")
    try:
        told = json.loads(metadata[METADATA])
        numbers = {key: tuple(float(v) for v in told[key]) for key in ("mean", "scale")}
        model = Model(
            str(told["name"]),
            str(told["architecture"]),
            dict(told["config"]),
            **numbers,
            tensors=tensors,
            function=told.get("function"),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: its description cannot be read: get the file again") from error
    check(model, str(path))
    return model


def check(model: Model, source: str) -> None:
    """Refuse numbers that no model has.

    Raises:
        ModelFileError: says what is wrong with `source`.
    """
    mean, scale = (torch.tensor(values, dtype=torch.float64).float() for values in (model.mean, model.scale))
    if not (mean.isfinite().all() and (scale > 0).all() and (scale.isfinite() & (1 / scale).isfinite()).all()):
        raise ModelFileError(f"{source} is damaged: mean and scale of its latent are no finite numbers")
    for name, tensor in model.tensors.items():
        if not tensor.isfinite().all():
            raise ModelFileError(f"{source} is damaged: its weights {name} hold values that are no finite numbers")


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are not those that networks have, by name and shape.

    Raises:
        ModelFileError: says which of `source` is the first that does not fit.
    """
    wanted, found = ({name: tuple(tensor.shape) for name, tensor in side.items()} for side in (expected, tensors))
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            shapes = (str(side.get(name, "none")) for side in (found, wanted))
            raise ModelFileError("{} does not fit its kind: weights {} are {}, not {}".format(source, name, *shapes))


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    Raises:
        ModelFileError: it is none, or has tensors that are not of `FLOATS`.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is not a whole safetensors file ({error}): get the file again") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS and not (name.startswith(FUNCTION) and tensor.dtype == torch.int16):
            raise ModelFileError(f"{path} holds weights {name} of type {tensor.dtype}, which no model has")
    return metadata, tensors


def write(model: Model, path: Path) -> None:
    """Write a model to a file, for `read`."""
    metadata = {METADATA: _json({"name": model.name, **model.description}).decode()}
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in model.tensors.items()}, metadata))
