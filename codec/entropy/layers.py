"""Layers of networks in integers, whose results are the same on any device, in any order of summation.

The integers are held in floating point, for which there are fast matrix products. These are exact as long as no
sum of absolute values can reach 2**24 in float32, or 2**53 in float64. Each layer proves that from its weights and the
range of its inputs when it is made or loaded; it computes in float32 if it can, in float64 if it must, and a layer that
float64 is too small for is refused. Nothing that is set elsewhere may change a result:

- Matrix products in float32 may be made of rounded operands (TF32, bfloat16; `torch.set_float32_matmul_precision`),
  but never of fewer than 8 bits, and their sums are kept in float32. So operands there are at most 2**8, which all of
  these hold exactly. For float64 there are no such modes. Products element by element are never rounded further.
- Convolutions of libraries may be Winograd's or Fourier's, which are not exact. Here they are matrix products of
  shifted copies or, where each channel is on its own, sums of shifted products.
- Autocast is off.

Outputs may be added to each other, if the sum is clamped to less than 2**24 before more is added: what float32 would
round is beyond.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product as pairs
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.entropy.tables import exp_fixed

OPERAND_LIMIT = 1 << 8  # of float32's matrix products
MAX_SHIFT = 52
_WEIGHT_LIMIT = 1 << 31  # that sums of weights can be computed in int64
_BITS = {torch.float32: 24, torch.float64: 53}
_QUANTISED = {torch.float32: (127, 2.0**24), torch.float64: ((1 << 15) - 1, 2.0**52)}  # weights and sums
_ONE = 1 << 96  # of `exp_fixed`


class Definition(NamedTuple):
    """A layer of integers: floor((weight * x + bias) / 2**shift + 1 / 2), but for a shift of 0, which is none.

    Attributes:
        weight: (outputs, inputs), or (outputs, inputs, k, k) of convolutions, int64; so are the others.
        bias: (outputs,), in units of the sums.
        shift: (outputs,), 0..52.
        inputs: (2,), the least and the greatest input; others are clamped to these.
    """

    weight: Tensor
    bias: Tensor
    shift: Tensor
    inputs: Tensor


class Report(NamedTuple):
    """Error of a quantised layer beside the one in floating point, for each output.

    Attributes:
        worst: greatest difference of any inputs within the range, in units of the output; 1 / 2 of it is rounding.
        noise: RMS error of the weights, as a part of the RMS of the weights.
    """

    worst: Tensor
    noise: Tensor


def exact_dtype(bound: int, *, rounded: bool = False) -> torch.dtype:
    """Floating point in which sums of absolute values up to a bound are exact.

    Args:
        rounded: whether operands may be rounded in float32.

    Raises:
        ValueError: there is none.
    """
    if bound < 1 << _BITS[torch.float32] and not rounded:
        return torch.float32
    if bound < 1 << _BITS[torch.float64]:
        return torch.float64
    raise ValueError(
        f"sums may reach {bound}, and those from 2**53 on are not exact: "
        "take smaller weights or shifts, a narrower range of inputs, or fewer inputs"
    )


class Proven(nn.Module):
    """A module whose state is integers, from which it makes what it computes with: again when they are loaded.

    It does so on the device to which it is moved, too, and a change of the type of floating point changes nothing.
    On "meta" there are no numbers yet: it only says of which shapes they are.
    """

    def __init__(self, whole: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, numbers in whole.items():
            self.register_buffer(name, _integers(name, numbers))
        if not any(numbers.is_meta for numbers in self.buffers()):
            self.prove()

    def prove(self) -> None:
        """Make the operands of exact floating-point operations.

        Raises:
            ValueError: there can be none.
        """
        raise NotImplementedError

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name in self._buffers:
            _integers(prefix + name, state.get(prefix + name, torch.tensor(0)))
        super()._load_from_state_dict(state, prefix, *args)
        if not args[-1]:  # errors so far, which torch raises when it is through
            self.prove()

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        before = list(self._buffers.values())
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        if any(new is not old for new, old in zip(self._buffers.values(), before, strict=True)):
            self.prove()
        return self


def _integers(name: str, numbers: Tensor) -> Tensor:
    if numbers.is_floating_point() or numbers.is_complex():
        raise ValueError(f"{name} must be whole numbers of an integer type, not {numbers.dtype}: see `quantise`")
    return numbers.to(torch.int64)


@contextmanager
def _unrounded(x: Tensor) -> Iterator[None]:
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        yield


def _half(shift: int) -> int:
    """Half a unit of what is left after a shift, so that rounding down rounds to the nearest."""
    return (1 << shift) >> 1


class Layer(Proven):
    """Base of linear layers and convolutions.

    Attributes:
        bound: that no sum of absolute values exceeds.
        dtype: in which it computes, and of its outputs.
    """

    weight: Tensor
    bias: Tensor
    shift: Tensor
    inputs: Tensor
    depthwise = False

    def __init__(self, definition: Definition) -> None:
        super().__init__(definition._asdict())

    def prove(self) -> None:
        weight, bias, shift = (_integers(name, getattr(self, name)) for name in ("weight", "bias", "shift"))
        self._check_shapes()
        self._low, self._high = self.inputs.tolist()
        self._check_ranges(weight)
        limit = max(abs(self._low), abs(self._high))
        units = torch.ones_like(shift) << shift
        half = units >> 1  # so that rounding down rounds to the nearest
        sums, rest = weight.abs().flatten(1).sum(1), bias.abs() + half
        if int(sums.max()) * limit < 1 << 62:
            self.bound = int((sums * limit + rest).max())
        else:  # which is refused
            self.bound = int(sums.max()) * limit
        rounded = not self.depthwise and max(limit, int(weight.abs().max())) > OPERAND_LIMIT
        self.dtype = exact_dtype(self.bound, rounded=rounded)
        taps = weight.flatten(2) if weight.dim() > 2 else weight[:, :, None]
        # Powers of two scale exactly, so sums of scaled products are as exact: (taps * inputs, outputs).
        scale = 1 / units.double()
        self._weight = taps.permute(2, 1, 0).flatten(0, 1).to(self.dtype).mul(scale.to(self.dtype)).contiguous()
        self._offset = ((bias + half) * scale).to(self.dtype)

    def _check_shapes(self) -> None:
        shapes = [tuple(t.shape) for t in (self.weight, self.bias, self.shift, self.inputs)]
        if not self.weight.numel() or shapes[1:] != [shapes[0][:1], shapes[0][:1], (2,)]:
            raise ValueError(
                "a layer needs weights, one bias and one shift for each output, and the least and greatest input: "
                f"there are tensors of shapes {shapes}"
            )

    def _check_ranges(self, weight: Tensor) -> None:
        if self._low > self._high:
            raise ValueError(f"the least input, {self._low}, must not be above the greatest, {self._high}")
        least, greatest = int(self.shift.min()), int(self.shift.max())
        if least < 0 or greatest > MAX_SHIFT:
            raise ValueError(f"shifts must be 0 to {MAX_SHIFT}, not {least} to {greatest}")
        if int(weight.min()) <= -_WEIGHT_LIMIT or int(weight.max()) >= _WEIGHT_LIMIT:
            raise ValueError("weights must be within -2**31..2**31")

    def _clamped(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).clamp(self._low, self._high)

    def _product(self, x: Tensor) -> Tensor:
        """Outputs (..., outputs) of inputs (..., taps * inputs)."""
        sums = torch.addmm(self._offset, x.flatten(0, -2), self._weight)
        return sums.floor_().view(*x.shape[:-1], len(self._offset))


class Linear(Layer):
    """A linear layer along the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) integers to (..., outputs), integers too."""
        with _unrounded(x):
            return self._product(self._clamped(x))


class Convolution(Layer):
    """A convolution with square kernels; one of 1 x 1 is a linear layer of channels.

    Args:
        padding: rows and columns by which edges are repeated outwards.
        depthwise: each channel is convolved on its own: weights are (channels, 1, k, k).
    """

    def __init__(self, definition: Definition, *, stride: int = 1, padding: int = 0, depthwise: bool = False) -> None:
        shape = tuple(definition.weight.shape)
        if len(shape) != 4 or shape[2] != shape[3] or (depthwise and shape[1] != 1):
            raise ValueError(f"weights of shape {shape} are none of a convolution with square kernels")
        self.depthwise = depthwise
        self._stride, self._padding, self._size = stride, padding, shape[2]
        super().__init__(definition)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) integers to (batch, outputs, h', w'), integers too, channels last."""
        with _unrounded(x):
            x = self._clamped(x)
            if self._padding:
                x = F.pad(x, (self._padding,) * 4, mode="replicate")
            taps = list(self._taps(x.permute(0, 2, 3, 1)))
            made = self._depthwise(taps) if self.depthwise else self._product(torch.cat(taps, -1))
            return made.permute(0, 3, 1, 2)

    def _taps(self, x: Tensor) -> Iterator[Tensor]:
        """Inputs that each place of the kernel is multiplied with, (batch, h', w', inputs)."""
        height, width = (1 + size - self._size for size in x.shape[1:3])
        if min(height, width) < 1:
            raise ValueError(
                f"inputs of {tuple(x.shape[1:3])}, edges included, are smaller than the kernel's {self._size}"
            )
        for dy, dx in pairs(range(self._size), repeat=2):
            yield x[:, dy : dy + height : self._stride, dx : dx + width : self._stride]

    def _depthwise(self, taps: list[Tensor]) -> Tensor:
        sums = torch.addcmul(self._offset, taps[0], self._weight[0])
        for tap, weight in zip(taps[1:], self._weight[1:], strict=True):
            sums.addcmul_(tap, weight)
        return sums.floor_()


class Table(Proven):
    """Any function of one integer.

    Args:
        values: (n,) integers below 2**24, its values at low, low + 1, ...; those beyond are as at the ends.
    """

    values: Tensor
    low: Tensor

    def __init__(self, values: Tensor, low: int) -> None:
        super().__init__({"values": values, "low": torch.tensor(low)})

    @classmethod
    def silu(cls, inputs: tuple[int, int], scale_in: int, scale_out: int, ceiling: int | None = None) -> Table:
        """SiLU, rounded to the nearest.

        Args:
            inputs: the least and the greatest.
            scale_in, scale_out: integers that stand for 1.0 in inputs and outputs.
            ceiling: greatest value, if there is a bound.
        """
        low, high = inputs
        values = torch.tensor([_silu(x, scale_in, scale_out) for x in range(low, high + 1)])
        return cls(values if ceiling is None else values.clamp_max(ceiling), low)

    def prove(self) -> None:
        values = _integers("values", self.values)
        if values.dim() != 1 or not len(values):
            raise ValueError(f"a table must be a row of numbers, not of shape {tuple(values.shape)}")
        self._low, self._high = int(self.low), int(self.low) + len(values) - 1
        greatest = max(-int(values.min()), int(values.max()), -self._low, self._high)
        if greatest >= 1 << _BITS[torch.float32]:
            raise ValueError(f"numbers of tables must be below 2**24, not {greatest}")
        self._table = values.to(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Integers to float32 of the same shape."""
        index = (x.clamp(self._low, self._high) - self._low).to(torch.int32)
        return self._table.index_select(0, index.flatten()).reshape(x.shape)


def _silu(x: int, scale_in: int, scale_out: int) -> int:
    numerator, denominator = x * scale_out * _ONE, scale_in * (_ONE + exp_fixed(-x, scale_in))
    return (2 * numerator + denominator) // (2 * denominator)


def product(x: Tensor, y: Tensor, shift: int, limits: tuple[int, int]) -> Tensor:
    """floor(x * y / 2**shift + 1 / 2) of integers, element by element: a gate, or a scale of each channel.

    Args:
        shift: 0..52; 0 rounds nothing.
        limits: greatest absolute values of x and y; others are clamped to these.

    Raises:
        ValueError: it may be 2**53 or more, which no floating point has exactly.
    """
    if not 0 <= shift <= MAX_SHIFT:
        raise ValueError(f"shifts must be 0 to {MAX_SHIFT}, not {shift}")
    dtype = exact_dtype(limits[0] * limits[1] + _half(shift))
    x, y = (z.to(dtype).clamp(-limit, limit) for z, limit in zip((x, y), limits, strict=True))
    return x.mul(y).mul_(2.0**-shift).add_(0.5 if shift else 0.0).floor_()


def quantise(
    weight: Tensor,
    bias: Tensor | None,
    inputs: tuple[int, int],
    scale_in: float,
    scale_out: float,
    dtype: torch.dtype = torch.float32,
) -> tuple[Definition, Report]:
    """Quantise a trained layer: weights become integers, and so do inputs and outputs in units of 1 / scale.

    Weights of each output have the greatest power of two as their scale that leaves them small enough, and all sums
    exact. A factor beside it would add nothing: it is in the weights.

    Args:
        weight, bias: of floating point, shaped as those of the layer.
        inputs: the least and the greatest integer that the layer will be given.
        scale_in, scale_out: values that stand for 1.0 in inputs and outputs.
        dtype: in which its sums are to be exact. In float32 weights are of 8 bits, in float64 of 16. Inputs beyond
            -256..256 take float64 anyway, but for depthwise convolutions.

    Raises:
        ValueError: the outputs' scale is too fine for the inputs'.
    """
    exact = weight.detach().to("cpu", torch.float64).flatten(1) * (scale_out / scale_in)
    offset = torch.zeros(len(exact), dtype=torch.float64)
    if bias is not None:
        offset = bias.detach().to("cpu", torch.float64) * scale_out
    limit = max(map(abs, inputs))
    shifts = _shifts(exact, offset, limit, dtype)
    scale = torch.tensor([2.0**s for s in shifts.tolist()], dtype=torch.float64)
    rows, biases = (exact * scale[:, None]).round(), (offset * scale).round()
    error = rows / scale[:, None] - exact
    worst = error.abs().sum(1) * limit + (biases / scale - offset).abs() + 0.5
    noise = error.square().sum(1).div(exact.square().sum(1)).nan_to_num(0).sqrt()
    whole = rows.reshape(weight.shape).long(), biases.long(), shifts, torch.tensor(inputs)
    return Definition(*whole), Report(worst, noise)


def _shifts(weight: Tensor, bias: Tensor, limit: int, dtype: torch.dtype) -> Tensor:
    """The greatest scale of each output's weights, as powers of two."""
    greatest_weight, greatest_sum = _QUANTISED[dtype]
    shifts = torch.full((len(weight),), -1)
    for shift in range(_BITS[dtype] - 2):
        rows, biases = ((t * 2.0**shift).round().abs() for t in (weight, bias))
        bound = rows.sum(1) * limit + biases + _half(shift)
        shifts[(rows.amax(1) <= greatest_weight) & (bound < greatest_sum)] = shift
    if int(shifts.min()) < 0:
        row = int(shifts.argmin())
        raise ValueError(
            f"output {row} cannot be exact in {dtype}: its weights are up to {float(weight[row].abs().max()):.3g} in "
            "units of the output. Take a smaller scale of the outputs, a narrower range of inputs, or float64"
        )
    return shifts


def narrowed(whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Integers in the smallest types that hold them, to be written to a file; modules load them as they are."""
    return {name: numbers.to(_smallest(numbers)) for name, numbers in whole.items()}


def _smallest(numbers: Tensor) -> torch.dtype:
    low, high = int(numbers.min()), int(numbers.max())
    kinds = (torch.int8, torch.int16, torch.int32, torch.int64)
    return next(k for k in kinds if torch.iinfo(k).min <= low and high <= torch.iinfo(k).max)
