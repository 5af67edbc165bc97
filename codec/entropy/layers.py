"""Layers of networks in integers, whose results are the same on any machine, in any order of summation.

The integers are held in floating point, for which there are fast matrix products. These are exact as long as no
sum of absolute values can reach 2**24 in float32, or 2**53 in float64. Each layer proves that from its weights and the
range of its inputs when they are loaded; it computes in float32 if it can, in float64 if it must, and a layer that
float64 is too small for is refused. Nothing that is set elsewhere may change a result:

- Libraries may make matrix products in float32 of operands that they round first (oneMKL does so on request), but never
  to fewer than 8 bits, and sums are kept in float32. So operands there are at most 2**8, which all of these hold
  exactly. For float64 there are no such modes. Products element by element are never rounded further.
- Convolutions, in which each channel is on its own, are sums of shifted products.

Outputs may be added to each other, if the sum is clamped to less than 2**24 before more is added: what float32 would
round is beyond.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

OPERAND_LIMIT = 1 << 8  # of float32's matrix products
MAX_SHIFT = 52
_WEIGHT_LIMIT = 1 << 31  # that sums of weights can be computed in int64
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_BITS = {_FLOAT32: 24, _FLOAT64: 53}
_QUANTISED = 127  # weights that `quantise` makes are at most

Integers = NDArray[np.int64]
Whole = NDArray[np.floating]  # integers in floating point
Shape = tuple[int, ...]


class Definition(NamedTuple):
    """A layer of integers: floor((weight * x + bias) / 2**shift + 1 / 2), but for a shift of 0, which is none.

    Attributes:
        weight: (outputs, inputs), or (channels, 1, k, k) of convolutions, int64; so are the others.
        bias: (outputs,), in units of the sums.
        shift: (outputs,), 0..52.
        inputs: (2,), the least and the greatest input; others are clamped to these.
    """

    weight: Integers
    bias: Integers
    shift: Integers
    inputs: Integers


def exact_dtype(bound: int, *, rounded: bool = False) -> np.dtype[Any]:
    """Floating point in which sums of absolute values up to a bound are exact.

    Args:
        rounded: whether operands may be rounded in float32.

    Raises:
        ValueError: there is none.
    """
    for dtype in (_FLOAT64,) if rounded else (_FLOAT32, _FLOAT64):
        if bound < 1 << _BITS[dtype]:
            return dtype
    raise ValueError(
        f"sums may reach {bound}, and those from 2**53 on are not exact: "
        "take smaller weights or shifts, a narrower range of inputs, or fewer inputs"
    )


class Proven:
    """Object that has integers by name, its own and those of its parts, and computes with them once they are loaded.

    Parts are attributes that are `Proven`, or lists or dicts of these. The integers of one have its name before theirs,
    as in a `state_dict` of torch.

    Args:
        shapes: of its own integers, which become attributes of these names.
    """

    def __init__(self, **shapes: Shape) -> None:
        self._shapes = shapes

    def outline(self) -> dict[str, Shape]:
        """Shapes of all integers by name, before and after they are loaded."""
        found = dict(self._shapes)
        for name, part in self.parts():
            found |= {f"{name}.{rest}": shape for rest, shape in part.outline().items()}
        return found

    def parts(self) -> Iterator[tuple[str, Proven]]:
        """Parts by name, without theirs."""
        for name, held in vars(self).items():
            held = dict(enumerate(held)) if isinstance(held, list) else held
            for key, part in held.items() if isinstance(held, dict) else [("", held)]:
                if isinstance(part, Proven):
                    yield f"{name}.{key}".removesuffix("."), part

    def layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Layers among the parts, and the parts of these, by name."""
        for name, part in self.parts():
            if isinstance(part, Layer):
                yield prefix + name, part
            yield from part.layers(f"{prefix}{name}.")

    def load(self, state: Mapping[str, NDArray[Any]], prefix: str = "") -> Self:
        """Take integers of any types, whose names begin with a prefix, and make what to compute with.

        Raises:
            ValueError: they are others than the outline says, or it cannot be proven that results are exact.
        """
        for name, shape in self._shapes.items():
            numbers = state.get(prefix + name)
            if numbers is None or numbers.shape != shape:
                found = "missing" if numbers is None else f"of shape {numbers.shape}"
                raise ValueError(f"{prefix}{name} must be of shape {shape}, and is {found}")
            setattr(self, name, _integers(prefix + name, numbers))
        for name, part in self.parts():
            part.load(state, f"{prefix}{name}.")
        self.prove()
        return self

    def prove(self) -> None:
        """Make the operands of exact floating-point operations, if it has any integers of its own.

        Raises:
            ValueError: there can be none.
        """


def _integers(name: str, numbers: NDArray[Any]) -> Integers:
    if numbers.dtype.kind != "i":
        raise ValueError(f"{name} must be whole numbers of an integer type, not {numbers.dtype}: see `quantise`")
    return numbers.astype(np.int64)


def _half(shift: int) -> int:
    """Half a unit of what is left after a shift, so that rounding down rounds to the nearest."""
    return (1 << shift) >> 1


class Layer(Proven):
    """Base of linear layers and convolutions, made of the weights' shape: complete once it is loaded.

    Attributes:
        bound: that no sum of absolute values exceeds.
        dtype: in which it computes, and of its outputs.
    """

    weight: Integers
    bias: Integers
    shift: Integers
    inputs: Integers
    products = True  # of matrices, whose operands may be rounded in float32

    def __init__(self, *shape: int) -> None:
        super().__init__(weight=shape, bias=shape[:1], shift=shape[:1], inputs=(2,))

    def prove(self) -> None:
        if not self.weight.size:
            raise ValueError(f"a layer needs weights: there are none in {self.weight.shape}")
        self._low, self._high = self.inputs.tolist()
        self._check_ranges()
        limit = max(abs(self._low), abs(self._high))
        units = np.int64(1) << self.shift
        half = units >> 1  # so that rounding down rounds to the nearest
        sums, rest = np.abs(self.weight).reshape(len(units), -1).sum(1), np.abs(self.bias) + half
        if int(sums.max()) * limit < 1 << 62:
            self.bound = int((sums * limit + rest).max())
        else:  # which is refused
            self.bound = int(sums.max()) * limit
        rounded = self.products and max(limit, int(np.abs(self.weight).max())) > OPERAND_LIMIT
        self.dtype = exact_dtype(self.bound, rounded=rounded)
        # Powers of two scale exactly, so sums of scaled products are as exact: (inputs, outputs), or (k * k, channels).
        scale = 1 / units.astype(np.float64)
        rows = self.weight.reshape(len(units), -1).T
        self._weight = rows.astype(self.dtype) * scale.astype(self.dtype)
        self._offset = ((self.bias + half) * scale).astype(self.dtype)

    def _check_ranges(self) -> None:
        if self._low > self._high:
            raise ValueError(f"the least input, {self._low}, must not be above the greatest, {self._high}")
        least, greatest = int(self.shift.min()), int(self.shift.max())
        if least < 0 or greatest > MAX_SHIFT:
            raise ValueError(f"shifts must be 0 to {MAX_SHIFT}, not {least} to {greatest}")
        if int(self.weight.min()) <= -_WEIGHT_LIMIT or int(self.weight.max()) >= _WEIGHT_LIMIT:
            raise ValueError("weights must be within -2**31..2**31")

    def _clamped(self, x: NDArray[Any]) -> Whole:
        return x.astype(self.dtype, copy=False).clip(self._low, self._high)


class Linear(Layer):
    """A linear layer along the last axis, made of numbers of outputs and inputs."""

    def __call__(self, x: NDArray[Any]) -> Whole:
        """(..., inputs) integers to (..., outputs), integers too."""
        sums: Whole = self._clamped(x).reshape(-1, x.shape[-1]) @ self._weight
        sums += self._offset
        np.floor(sums, out=sums)
        return sums.reshape(*x.shape[:-1], sums.shape[1])


class Depthwise(Layer):
    """A convolution of each channel on its own, edges repeated outwards.

    Args:
        size: rows and columns of the kernel, odd.
    """

    products = False

    def __init__(self, channels: int, size: int) -> None:
        super().__init__(channels, 1, size, size)
        self._size = size

    def __call__(self, x: NDArray[Any]) -> Whole:
        """(h, w, channels) integers to as many, integers too."""
        (height, width), margin = x.shape[:2], (self._size // 2,) * 2
        padded = np.pad(self._clamped(x), (margin, margin, (0, 0)), "edge")
        places = product(range(self._size), repeat=2)
        taps = (padded[dy : dy + height, dx : dx + width] for dy, dx in places)
        sums: Whole = next(taps) * self._weight[0]
        sums += self._offset
        for tap, weight in zip(taps, self._weight[1:], strict=True):
            sums += tap * weight
        return np.floor(sums, out=sums)


def quantise(
    weight: NDArray[np.floating],
    bias: NDArray[np.floating] | None,
    inputs: tuple[int, int],
    scale_in: float,
    scale_out: float,
) -> Definition:
    """Quantise a trained layer: weights become integers of 8 bits, inputs and outputs those in units of 1 / scale.

    Weights of each output have the greatest power of two as their scale that leaves them small enough, and all sums
    exact in float32. A factor beside it would add nothing: it is in the weights.

    Args:
        weight, bias: of floating point, shaped as those of the layer.
        inputs: the least and the greatest integer that the layer will be given.
        scale_in, scale_out: values that stand for 1.0 in inputs and outputs.

    Raises:
        ValueError: the outputs' scale is too fine for the inputs'.
    """
    exact = weight.astype(np.float64).reshape(len(weight), -1) * (scale_out / scale_in)
    offset = np.zeros(len(exact)) if bias is None else bias.astype(np.float64) * scale_out
    shifts = _shifts(exact, offset, max(map(abs, inputs)))
    scale = 2.0**shifts
    rows, biases = np.rint(exact * scale[:, None]), np.rint(offset * scale)
    whole = (numbers.astype(np.int64) for numbers in (rows.reshape(weight.shape), biases, shifts, np.array(inputs)))
    return Definition(*whole)


def _shifts(weight: NDArray[np.float64], bias: NDArray[np.float64], limit: int) -> Integers:
    """The greatest scale of each output's weights, as powers of two."""
    shifts = np.full(len(weight), -1)
    for shift in range(_BITS[_FLOAT32] - 2):
        rows, biases = (np.abs(np.rint(numbers * 2.0**shift)) for numbers in (weight, bias))
        bound = rows.sum(1) * limit + biases + _half(shift)
        shifts[(rows.max(1) <= _QUANTISED) & (bound < 1 << _BITS[_FLOAT32])] = shift
    if shifts.min() < 0:
        row = int(shifts.argmin())
        raise ValueError(
            f"output {row} cannot be exact in float32: its weights are up to {float(np.abs(weight[row]).max()):.3g} in "
            "units of the output. Take a smaller scale of the outputs, or a narrower range of inputs"
        )
    return shifts


def narrowed(whole: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Integers in the smallest types that hold them, to be written to a file; they are loaded as they are."""
    return {name: numbers.astype(_smallest(numbers)) for name, numbers in whole.items()}


def _smallest(numbers: NDArray[Any]) -> type[np.signedinteger]:
    low, high = int(numbers.min()), int(numbers.max())
    kinds = (np.int8, np.int16, np.int32, np.int64)
    return next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
