"""A model as a file: one safetensors file with everything in it, and the hash that files name it by."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from codec import files
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.tensor_file import (
    METADATA,
    Told,
    Typed,
    arrays_of,
    check_shapes,
    check_types,
    component,
    opened,
)
from codec.container import MODEL_BYTES, FormatError
from codec.entropy.layers import Proven
from codec.runtime import cached_property

if TYPE_CHECKING:
    from torch import Tensor, nn

    from codec.autoencoders.architectures import Architecture

AnyProven = TypeVar("AnyProven", bound=Proven)
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Model:
    """A pretrained model, not yet on a device.

    Attributes:
        name: for people; not part of its identity.
        architecture: one of `codec.autoencoders.architectures.ARCHITECTURES`.
        config: shape of the networks, as JSON has it.
        mean, scale: by channel; empty unless the networks are an autoencoder's. A latent z is coded as
            (z - mean) * scale, in which equal error should cost about equal distortion.
        tensors: weights by name, as the architecture says: integers, or of one of `FLOATS`.
        function: description of the component "function", the universal function, or None if the model has none.
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
        """Weights of floating point."""
        return {name: tensor for name, tensor in self.tensors.items() if tensor.is_floating_point()}

    def component(self, name: str) -> dict[str, Tensor]:
        """Tensors of one component, such as "decoder", by their names without it; none if the model lacks it."""
        return component(self.tensors, name)

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The tensors as NumPy has them, those of bfloat16 in float32: without torch, if they were read from a file."""
        return arrays_of(self.tensors)

    @cached_property
    def identity(self) -> bytes:
        """SHA-256 of the description and of the weights' values.

        The description counts as JSON with sorted keys and no spaces. Then follow the tensors, sorted by name: each as
        its name in UTF-8, a zero byte, its shape as JSON, a zero byte, and its values: as little-endian float32 those
        of floating point and integers of 16 bits, as little-endian int64 other integers.
        """
        total = sha256(_json(self.description))
        for name, array in sorted(self.arrays.items()):
            total.update(name.encode() + b"\0" + _json(list(array.shape)) + b"\0")
            as_float = array.dtype.kind == "f" or array.dtype == np.int16
            total.update(np.ascontiguousarray(array, "<f4" if as_float else "<i8").data)
        return total.digest()

    @property
    def prefix(self) -> bytes:
        """The part of the identity that `.clric` files hold."""
        return self.identity[:MODEL_BYTES]


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read(path: Path) -> Model:
    """Read a model from a file that `write` made; its header is checked before any tensor is read.

    Raises:
        ModelFileError: the file is no model, damaged, or of a kind that is not known.
        ImportError: the architecture needs an extra that is not installed.
    """
    with opened(path) as file:
        model = _described(path, file.metadata, {})
        _outline(model, file.header, str(path))
        model = replace(model, tensors=file.read())
    _check_values(model, str(path))
    return model


def read_known(path: Path, prefix: str) -> Model:
    """Read a model of which a part of the hash is known: it is the one that was checked when it was written.

    Raises:
        ModelFileError: the file is no model, or another one.
    """
    with opened(path) as file:
        model = _described(path, file.metadata, file.read())
    if model.prefix.hex() != prefix:
        raise ModelFileError(f"{path} is damaged: it is not the model that it was; remove it and add it again")
    return model


def _described(path: Path, metadata: dict[str, str], tensors: Mapping[str, Tensor]) -> Model:
    """The model with this description and these tensors."""
    if METADATA not in metadata:
        raise ModelFileError(f"{path} is no model of this package: add it with `clric-convert models add {path}` first")
    try:
        told = json.loads(metadata[METADATA])
        numbers = {key: tuple(float(v) for v in told[key]) for key in ("mean", "scale")}
        return Model(
            str(told["name"]),
            str(told["architecture"]),
            dict(told["config"]),
            **numbers,
            tensors=tensors,
            function=told.get("function"),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: its description cannot be read: get the file again") from error


def check(model: Model, source: str) -> None:
    """Refuse tensors that do not fit the architecture, and numbers that no model has.

    Raises:
        ModelFileError: says what is wrong with `source`.
        ImportError: the architecture needs an extra that is not installed.
    """
    _outline(model, model.tensors, source)
    _check_values(model, source)
    architecture = _architecture(model, source)
    if architecture.integers:
        loaded(architecture.integers(model.config), model)


def _architecture(model: Model, source: str) -> Architecture:
    from codec.autoencoders.architectures import ARCHITECTURES

    if model.architecture not in ARCHITECTURES:
        raise ModelFileError(f"{source} is of kind {model.architecture!r}: update pillow-clric to use it")
    return ARCHITECTURES[model.architecture]


def _outline(model: Model, tensors: Mapping[str, Typed], source: str) -> nn.Module:
    """The networks of a model without memory, which say names, shapes and types of its tensors. Raises as `check`."""
    import torch

    from codec.autoencoders.networks.interface import Networks
    from codec.device import computing

    architecture = _architecture(model, source)
    try:
        with computing(torch.device("cpu")), torch.device("meta"):  # of float32, whatever the caller's default is
            networks = architecture.build(model.config)
        whole = architecture.integers(model.config).outline() if architecture.integers else {}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelFileError(f"{source} has a configuration that makes no sense: {error}") from error
    channels = networks.channels if isinstance(networks, Networks) else 0
    if not len(model.mean) == len(model.scale) == channels:
        raise ModelFileError(f"{source} needs mean and scale of {channels} channels")
    expected: dict[str, Typed] = {**networks.state_dict()} | {n: Told(shape, "int64") for n, shape in whole.items()}
    for name, optional in architecture.optional.items():
        told, found = model.description.get(name), component(tensors, name)
        try:
            own = {} if told is None else optional(told, channels, found)
        except (FormatError, AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise ModelFileError(f"{source} is damaged: its {name} makes no sense ({error}): get it again") from error
        expected |= {f"{name}.{rest}": tensor for rest, tensor in own.items()}
    check_shapes(tensors, expected, source)
    check_types(tensors, expected, source)
    return networks


def _check_values(model: Model, source: str) -> None:
    with np.errstate(all="ignore"):  # what float32 cannot hold is infinite
        mean, scale = (np.array(v, np.float64).astype(np.float32) for v in (model.mean, model.scale))
        finite = np.isfinite(mean) & np.isfinite(scale) & np.isfinite(1 / scale)
    if not (finite & (scale > 0)).all():
        raise ModelFileError(f"{source} is damaged: mean and scale of its latent are no finite numbers")
    for name, array in model.arrays.items():
        if not np.isfinite(array).all():
            raise ModelFileError(f"{source} is damaged: its weights {name} hold values that are no finite numbers")


def build(model: Model) -> nn.Module:
    """The networks of a model on the CPU, with its weights in float32, but for what it computes in integers.

    Raises:
        ModelFileError: the architecture is not known, or configuration and weights do not fit it.
        ImportError: the architecture needs an extra that is not installed.
    """
    networks = _outline(model, model.tensors, f"model {model.name}")
    weights = {name: model.tensors[name] for name in networks.state_dict()}
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    networks.load_state_dict(weights, assign=True)
    return networks.requires_grad_(False).eval()


def shaped(make: Callable[[Mapping[str, Any]], Made], model: Model) -> Made:
    """Make something of a model's configuration.

    Raises:
        ModelFileError: the configuration makes no sense, or the weights are not those that it asks for.
    """
    try:
        return make(model.config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"model {model.name} has a configuration that makes no sense: {error}") from error


def loaded(part: AnyProven, model: Model, prefix: str = "") -> AnyProven:
    """Integer networks of a model, or a part of them whose integers' names begin with a prefix, with its integers.

    Raises:
        ModelFileError: they do not fit it, or results would not be exact.
    """
    try:
        return part.load(model.arrays, prefix)
    except ValueError as error:
        raise ModelFileError(f"model {model.name} has integers that make no sense: {error}") from error


def write(model: Model, path: Path) -> None:
    """Write a model to a file, for `read`, completely or not at all."""
    from safetensors.torch import save

    metadata = {METADATA: _json({"name": model.name, **model.description}).decode()}
    files.write(path, save({name: tensor.contiguous() for name, tensor in model.tensors.items()}, metadata))
