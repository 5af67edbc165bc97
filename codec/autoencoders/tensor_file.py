"""Files of named tensors, in safetensors' format: what they hold is known, and can be checked, before it is read.

A name's part before its first dot is the component of a model that the tensor belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from codec.autoencoders.errors import ModelFileError

METADATA = "clric"  # key of a model's description among a file's metadata
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
INTEGERS = (torch.int8, torch.int16, torch.int32)
_TYPES = dict(zip(("F16", "BF16", "F32", "I8", "I16", "I32"), FLOATS + INTEGERS, strict=True))

_FITTING = {torch.float32: FLOATS, torch.int64: INTEGERS}

Tensors = Mapping[str, Tensor]


class TensorFile:
    """A file that is open.

    Attributes:
        metadata: texts by key.
        header: all tensors by name, on the device "meta": their shapes and types, without values and memory.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self._file, self.metadata = file, dict[str, str](file.metadata() or {})
        self.header: dict[str, Tensor] = {}
        for name in file.keys():  # noqa: SIM118, it is no mapping
            told = file.get_slice(name)
            if told.get_dtype() not in _TYPES:
                raise ModelFileError(f"{path} holds weights {name} of type {told.get_dtype()}, which no model has")
            self.header[name] = torch.empty(told.get_shape(), dtype=_TYPES[told.get_dtype()], device="meta")

    def read(self) -> dict[str, Tensor]:
        """Read all tensors."""
        return {name: self._file.get_tensor(name) for name in self.header}


@contextmanager
def opened(path: Path) -> Iterator[TensorFile]:
    """Open a file, and read its header.

    Raises:
        ModelFileError: it is no safetensors file, damaged, or has tensors of types that no model has.
    """
    try:
        with safe_open(path, "pt") as file:
            yield TensorFile(path, file)
    except ModelFileError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is not a whole safetensors file ({error}): get the file again") from error


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file; raises as `opened`."""
    with opened(path) as file:
        return file.metadata, file.read()


def component(tensors: Tensors, name: str) -> dict[str, Tensor]:
    """The tensors of one component, by their names without it."""
    parts = {full: full.partition(".") for full in tensors}
    return {rest: tensors[full] for full, (first, _, rest) in parts.items() if first == name}


def check_shapes(tensors: Tensors, expected: Tensors, source: str) -> None:
    """Refuse weights that are not those that are expected, by name and shape.

    Raises:
        ModelFileError: says which of `source` is the first that does not fit.
    """
    wanted, found = ({name: tuple(tensor.shape) for name, tensor in side.items()} for side in (expected, tensors))
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            shapes = (str(side.get(name, "none")) for side in (found, wanted))
            raise ModelFileError("{} does not fit its kind: weights {} are {}, not {}".format(source, name, *shapes))


def check_types(tensors: Tensors, expected: Tensors, source: str) -> None:
    """Refuse weights of other types than are expected.

    Where float32 or int64 is, the widest of their kind, they may be of any of `FLOATS` or `INTEGERS`.

    Raises:
        ModelFileError: says which of `source` is the first that does not fit.
    """
    for name, tensor in sorted(tensors.items()):
        wanted = _FITTING.get(expected[name].dtype, (expected[name].dtype,))
        if tensor.dtype not in wanted:
            types = " or ".join(str(each).removeprefix("torch.") for each in wanted)
            found = str(tensor.dtype).removeprefix("torch.")
            raise ModelFileError(f"{source} does not fit its kind: weights {name} are of type {found}, not {types}")
