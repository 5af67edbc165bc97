"""Files of named tensors, in safetensors' format: what they hold is known, and can be checked, before it is read.

They are read without torch, which is imported when a tensor is asked for. A name's part before its first dot is the
component of a model that the tensor belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from codec.autoencoders.errors import ModelFileError

if TYPE_CHECKING:
    from torch import Tensor

METADATA = "clric"  # key of a model's description among a file's metadata
FLOATS = ("float16", "bfloat16", "float32")
INTEGERS = ("int8", "int16", "int32")
_TYPES = dict(zip(("F16", "BF16", "F32", "I8", "I16", "I32"), FLOATS + INTEGERS, strict=True))
_BITS = np.dtype("<u2")  # of bfloat16, which NumPy does not have

_FITTING = {"float32": FLOATS, "int64": INTEGERS}


class Typed(Protocol):
    """Anything that has a shape and a type: a tensor, an array, or what a header says of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...


AnyTyped = TypeVar("AnyTyped", bound=Typed)


class Told(NamedTuple):
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: str


def type_of(tensor: Typed) -> str:
    """Name of a tensor's type, as in `FLOATS` and `INTEGERS`."""
    return str(tensor.dtype).removeprefix("torch.")


class Arrays(Mapping[str, "Tensor"]):
    """Tensors by name, which are arrays of NumPy until one is asked for.

    Args:
        arrays: those of bfloat16 as their bits.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> Tensor:
        import torch

        found = self._arrays[name]
        if found.dtype == _BITS:
            return torch.from_numpy(found.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def array(self, name: str) -> NDArray[Any]:
        """One of them as NumPy has it: in float32, if it is of bfloat16."""
        found = self._arrays[name]
        return (found.astype(np.uint32) << 16).view(np.float32) if found.dtype == _BITS else found


def arrays_of(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Tensors as NumPy has them, those of bfloat16 in float32."""
    if isinstance(tensors, Arrays):
        return {name: tensors.array(name) for name in tensors}
    return {n: (tensor.float() if type_of(tensor) == "bfloat16" else tensor).numpy() for n, tensor in tensors.items()}


class TensorFile:
    """A file that is open.

    Attributes:
        metadata: texts by key.
        header: shapes and types of all tensors by name, without values and memory.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self._path, self.metadata = path, dict[str, str](file.metadata() or {})
        self.header: dict[str, Told] = {}
        for name in file.keys():  # noqa: SIM118, it is no mapping
            told = file.get_slice(name)
            if told.get_dtype() not in _TYPES:
                raise ModelFileError(f"{path} holds weights {name} of type {told.get_dtype()}, which no model has")
            self.header[name] = Told(tuple(told.get_shape()), _TYPES[told.get_dtype()])

    def read(self) -> Arrays:
        """Read all tensors."""
        found = dict(deserialize(self._path.read_bytes()))  # type: ignore[no-untyped-call]
        return Arrays({name: _array(found[name]["data"], told) for name, told in self.header.items()})


def _array(data: bytearray, told: Told) -> NDArray[Any]:
    dtype = _BITS if told.dtype == "bfloat16" else np.dtype(told.dtype).newbyteorder("<")
    return np.frombuffer(data, dtype).reshape(told.shape)


@contextmanager
def opened(path: Path) -> Iterator[TensorFile]:
    """Open a file, and read its header.

    Raises:
        ModelFileError: it is no safetensors file, damaged, or has tensors of types that no model has.
    """
    try:
        with safe_open(path, "np") as file:
            yield TensorFile(path, file)
    except ModelFileError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is not a whole safetensors file ({error}): get the file again") from error


def read_safetensors(path: Path) -> tuple[dict[str, str], Arrays]:
    """Metadata and tensors of a file; raises as `opened`."""
    with opened(path) as file:
        return file.metadata, file.read()


def component(tensors: Mapping[str, AnyTyped], name: str) -> dict[str, AnyTyped]:
    """The tensors of one component, by their names without it."""
    parts = {full: full.partition(".") for full in tensors}
    return {rest: tensors[full] for full, (first, _, rest) in parts.items() if first == name}


def check_shapes(tensors: Mapping[str, Typed], expected: Mapping[str, Typed], source: str) -> None:
    """Refuse weights that are not those that are expected, by name and shape.

    Raises:
        ModelFileError: says which of `source` is the first that does not fit.
    """
    wanted, found = ({name: tuple(tensor.shape) for name, tensor in side.items()} for side in (expected, tensors))
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            shapes = (str(side.get(name, "none")) for side in (found, wanted))
            raise ModelFileError("{} does not fit its kind: weights {} are {}, not {}".format(source, name, *shapes))


def check_types(tensors: Mapping[str, Typed], expected: Mapping[str, Typed], source: str) -> None:
    """Refuse weights of other types than are expected.

    Where float32 or int64 is, the widest of their kind, they may be of any of `FLOATS` or `INTEGERS`.

    Raises:
        ModelFileError: says which of `source` is the first that does not fit.
    """
    for name, tensor in sorted(tensors.items()):
        expected_type = type_of(expected[name])
        wanted = _FITTING.get(expected_type, (expected_type,))
        if type_of(tensor) not in wanted:
            types = " or ".join(wanted)
            raise ModelFileError(
                f"{source} does not fit its kind: weights {name} are of type {type_of(tensor)}, not {types}"
            )
