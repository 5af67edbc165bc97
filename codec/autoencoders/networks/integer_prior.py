"""The progressive prior in integers: distributions of symbols that are the same on any machine.

`ProgressivePrior` (`codec/autoencoders/networks`) is what it was made from, by `quantised`. Activations are integers of
9 bits, in units of 1 / SCALE; sums are exact by proof (`codec/entropy/layers.py`). Quality is a position among the
knots, in 1 / STEPS of the distance between two of them. All logarithms are natural ones in 1 / LOG.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.autoencoders.networks.progressive_prior import (
    BLOCKS,
    LIMIT,
    OFFSETS,
    SCALE,
    Preset,
    ProgressivePrior,
)
from codec.entropy.coder import LIMIT as SYMBOL_LIMIT
from codec.entropy.layers import Convolution, Definition, Layer, Linear, Proven, quantise
from codec.entropy.tables import FRACTIONS, LOG_SCALE_FRACTIONS, LOG_SCALE_MIN_EIGHTHS, SCALES, exp_fixed

Integers = NDArray[np.int64]

STEPS = 256
LOG = 1024
OUTPUT = 128  # of the networks' outputs: what stands for 1.0 in logarithms of scales
MEAN = 512  # and in means
IN_SHIFT, OUT_SHIFT = 16, 24  # fractional bits of factors from symbols to activations, from outputs to means
LOG_LIMIT = 8 * LOG  # of logarithms of gains and of units
OUTPUT_LIMIT = 1 << 20  # of the networks' outputs
_ONE_BITS = 96  # of `exp_fixed`


def exponential(logarithms: Integers, factor: int) -> Integers:
    """floor(factor * exp(x / LOG)) of each x."""
    return np.array([exp_fixed(int(x), LOG) * factor >> _ONE_BITS for x in logarithms], np.int64)


class Units:
    """Conversion between symbols, activations and outputs of the networks, for one position among the knots.

    Attributes:
        log_unit: logarithm of each channel's unit in symbols, (channels,).
    """

    def __init__(self, log_unit: Integers) -> None:
        self.log_unit = log_unit
        self._factor_in = exponential(-log_unit, SCALE << IN_SHIFT)
        self._factor_out = exponential(log_unit, (FRACTIONS << OUT_SHIFT) // MEAN)

    def activations(self, symbols: NDArray[np.signedinteger], channels: slice, fractions: int = 1) -> Integers:
        """Symbols (..., channels), or what they are expected to be in 1 / `fractions`, as the networks see them."""
        one = fractions << IN_SHIFT
        scaled = (symbols.astype(np.int64) * self._factor_in[channels] + one // 2) // one
        return scaled.clip(-LIMIT, LIMIT)

    def means(self, outputs: Integers, channels: slice) -> Integers:
        """Means of symbols in 1 / FRACTIONS, from those in 1 / MEAN of a channel's unit."""
        means = (outputs * self._factor_out[channels] + (1 << OUT_SHIFT >> 1)) >> OUT_SHIFT
        return means.clip(-FRACTIONS * SYMBOL_LIMIT, FRACTIONS * SYMBOL_LIMIT)

    def scales(self, logarithms: Integers, channels: slice) -> Integers:
        """Indices of scales, from logarithms of scales in a channel's unit."""
        unit = LOG // LOG_SCALE_FRACTIONS
        index = (logarithms + self.log_unit[channels] + unit // 2) // unit - LOG_SCALE_MIN_EIGHTHS
        return index.clip(0, SCALES - 1)


class IntegerStep(nn.Module):
    """Networks of one offset; activations are integers, held in floating point, channels last."""

    def __init__(self, bounds: list[int], inputs: int, hidden: int) -> None:
        super().__init__()
        pairs = list(pairwise(bounds))
        self.embed = linear(hidden, inputs)
        self.context = nn.ModuleList(IntegerBlock(hidden) for _ in range(BLOCKS))
        self.earlier = nn.ModuleList(linear(hidden, start) for start, _ in pairs[1:])
        self.mix = nn.ModuleList(linear(hidden, hidden) for _ in pairs)
        self.output = nn.ModuleList(linear(2 * (end - start), hidden) for start, end in pairs)

    def embedded(self, known: Tensor, condition: Tensor) -> Tensor:
        """Context of a group of channels: (h, w, inputs), (hidden,) to (h, w, hidden)."""
        x = _bounded(self.embed(known) + condition)
        for block in self.context:
            x = block(x)
        return x

    def outputs(self, group: int, context: Tensor, earlier: Tensor) -> Tensor:
        """Means, then logarithms of scales, of a group of channels at some positions.

        Args:
            context: (n, hidden)
            earlier: (n, channels of the groups before).

        Returns:
            (n, 2 * channels of the group), in units of 1 / MEAN and 1 / OUTPUT.
        """
        x = self.mix[group](context)
        if group:
            x = x + self.earlier[group - 1](earlier)
        outputs: Tensor = self.output[group](context + x.clamp(0, LIMIT))
        return outputs


class IntegerBlock(nn.Module):
    """A `Block` of the trained prior."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix_in, self.mix_out = linear(channels, channels), linear(channels, channels)
        self.mix = Convolution(_layer(channels, 1, 3, 3), padding=1, depthwise=True)
        self.hidden, self.output = linear(channels, channels), linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(h, w, channels) to the same."""
        mixed = self.mix(self.mix_in(x).clamp(0, LIMIT).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
        x = _bounded(x + self.mix_out(_bounded(mixed)))
        return _bounded(x + self.output(self.hidden(x).clamp(0, LIMIT)))


def _bounded(x: Tensor) -> Tensor:
    return x.clamp(-LIMIT, LIMIT)


def undefined(*shape: int) -> Tensor:
    """Integers without numbers, which a state is loaded into."""
    return torch.empty(shape, dtype=torch.int64, device="meta")


def check_bound(name: str, numbers: Tensor, limit: int) -> None:
    """Refuse numbers with which results could be beyond 64 bits.

    Raises:
        ValueError: an absolute value is above the limit.
    """
    if max(-int(numbers.min()), int(numbers.max())) > limit:
        raise ValueError(f"{name} must be within -{limit}..{limit}, that all results are exact")


def _layer(*shape: int) -> Definition:
    return Definition(undefined(*shape), undefined(shape[0]), undefined(shape[0]), undefined(2))


def linear(outputs: int, inputs: int) -> Linear:
    """A layer without numbers, which a state is loaded into."""
    return Linear(_layer(outputs, inputs))


class IntegerPrior(Proven):
    """Prior for one preset, made without numbers: it is complete once a state that `quantised` made is loaded.

    Args:
        channels: of the latent.
        knots: among which there are positions.
        hidden: channels of the networks.
    """

    log_unit: Tensor
    condition: Tensor
    log_scale: Tensor
    mean: Tensor

    def __init__(self, preset: Preset, channels: int, knots: int, hidden: int) -> None:
        halvings, offsets = preset.halvings, len(OFFSETS)
        shapes = {
            "log_unit": (channels,), "mean": (channels,), "condition": (halvings, offsets, knots, hidden),
            "log_scale": (1 + halvings, offsets, knots, channels),
        }  # fmt: skip
        super().__init__({name: undefined(*shape) for name, shape in shapes.items()})
        self.preset, self.channels = preset, channels
        bounds = preset.bounds(channels)
        self.groups = [slice(a, b) for a, b in pairwise(bounds)]
        self.steps = nn.ModuleList(IntegerStep(bounds, inputs, hidden) for inputs in preset.inputs(channels))

    def prove(self) -> None:
        check_bound("log_unit", self.log_unit, LOG_LIMIT)
        for name in ("condition", "log_scale", "mean"):
            check_bound(name, getattr(self, name), OUTPUT_LIMIT)

    def at(self, position: int, log_gain: Tensor) -> Conditioned:
        """The prior for a position among the knots, 0..STEPS * (knots - 1).

        Args:
            log_gain: (knots, channels), logarithms of the gains.
        """
        return Conditioned(self, position, log_gain)


def between(knots: Tensor, position: int) -> Integers:
    """What lies between two knots of (..., knots, n) at a position, rounded: (..., n)."""
    knot = min(position // STEPS, knots.shape[-2] - 2)
    part = position - STEPS * knot
    low, high = (knots[..., k, :].cpu().numpy().astype(np.int64) for k in (knot, knot + 1))
    mixed: Integers = low * (STEPS - part) + high * part
    return (mixed + STEPS // 2) // STEPS


class Conditioned:
    """A prior for one position among the knots."""

    def __init__(self, prior: IntegerPrior, position: int, log_gain: Tensor) -> None:
        self.prior, self.position = prior, position
        self.units = Units(between(log_gain, position) + _numbers(prior.log_unit))

    @cached_property
    def _log_scale(self) -> Integers:
        return between(self.prior.log_scale, self.position)

    def first(self) -> tuple[Integers, Integers]:
        """Means and indices of scales (channels,) of what is left after all halvings."""
        everything = slice(None)
        scales = self.units.scales(self._log_scale[self.prior.preset.halvings, 0], everything)
        return self.units.means(_numbers(self.prior.mean), everything), scales

    @torch.no_grad()
    def context(self, halving: int, offset: int, known: Tensor) -> Tensor:
        """What the distributions at an offset depend on, but for the same position: see `IntegerStep.embedded`."""
        condition = torch.from_numpy(between(self.prior.condition[halving, offset], self.position))
        return self._step(offset).embedded(known.to(self._device), condition.to(self._device))

    @property
    def _device(self) -> torch.device:
        return self.prior.mean.device

    def _step(self, offset: int) -> IntegerStep:
        step = self.prior.steps[offset]
        assert isinstance(step, IntegerStep)
        return step

    @torch.no_grad()
    def distributions(
        self, halving: int, offset: int, group: int, context: Tensor, earlier: NDArray[np.float32]
    ) -> tuple[Integers, Integers]:
        """Means of symbols in 1 / FRACTIONS, and indices of their scales, (n, channels of the group) both.

        Args:
            context: (n, hidden)
            earlier: (n, channels before the group), activations, as whole numbers in floating point.
        """
        before = torch.from_numpy(earlier).to(self._device)
        outputs = self._step(offset).outputs(group, context, before).clamp(-OUTPUT_LIMIT, OUTPUT_LIMIT)
        channels = self.prior.groups[group]
        means, logarithms = np.split(_numbers(outputs), 2, 1)
        logarithms = LOG // OUTPUT * logarithms + self._log_scale[halving, offset, channels]
        return self.units.means(means, channels), self.units.scales(logarithms, channels)


def _numbers(buffer: Tensor) -> Integers:
    return buffer.cpu().numpy().astype(np.int64)


def quantised(prior: ProgressivePrior) -> dict[str, Tensor]:
    """State of an `IntegerPrior` made from a trained one.

    Raises:
        ValueError: its weights are too great for sums to be exact.
    """
    made: dict[str, Tensor] = {
        "log_unit": (prior.unit.log() * LOG).round(),
        "condition": (prior.condition * SCALE).round(),
        "log_scale": (prior.log_scale * LOG).round(),
        "mean": (prior.mean * MEAN).round(),
    }
    made = {name: numbers.detach().cpu().to(torch.int64) for name, numbers in made.items()}
    for name, layer in prior.steps.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            continue
        weight, bias, scale = layer.weight, layer.bias, SCALE
        assert bias is not None
        if _gives_distributions(name):
            weight, bias, scale = _in_output_units(weight), _in_output_units(bias), OUTPUT
        low = 0 if name.endswith(("mix", "output")) and "context" in name else -LIMIT
        made |= layer_state(f"steps.{name}", weight, bias, low, scale)
    return made


def layer_state(name: str, weight: Tensor, bias: Tensor, low: int, scale: int) -> dict[str, Tensor]:
    """State of a trained layer in integers, whose inputs are `low`..LIMIT in units of 1 / SCALE.

    Args:
        scale: what stands for 1.0 in outputs.

    Raises:
        ValueError: sums would not be exact.
    """
    found, _ = quantise(weight, bias, (low, LIMIT), SCALE, scale)
    return {f"{name}.{field}": numbers for field, numbers in found._asdict().items()}


def _in_output_units(rows: Tensor) -> Tensor:
    """Rows of an output layer, those of means as great as MEAN and OUTPUT, the one scale of all, want it."""
    means, logarithms = rows.detach().chunk(2)
    return torch.cat([means * (MEAN / OUTPUT), logarithms])


def dequantised(prior: IntegerPrior) -> ProgressivePrior:
    """The prior in floating point, differentiable, that integers stand for."""
    knots, hidden = prior.condition.shape[2:]
    with torch.device("meta"):  # without random numbers
        made = ProgressivePrior(prior.preset, prior.channels, knots, hidden)
    state = {
        "unit": (prior.log_unit / LOG).exp(), "condition": prior.condition / SCALE,
        "log_scale": prior.log_scale / LOG, "mean": prior.mean / MEAN,
    }  # fmt: skip
    for name, layer in prior.steps.named_modules():
        if not isinstance(layer, Layer):
            continue
        factor = torch.exp2(-layer.shift.double()) / SCALE
        if _gives_distributions(name):
            means, logarithms = (factor * SCALE).chunk(2)
            factor = torch.cat([means / MEAN, logarithms / OUTPUT])
        rows = layer.weight.flatten(1) * factor[:, None] * SCALE
        state |= {f"steps.{name}.weight": rows.reshape(layer.weight.shape), f"steps.{name}.bias": layer.bias * factor}
    made.load_state_dict({name: numbers.float() for name, numbers in state.items()}, assign=True)
    return made.requires_grad_(False)


def _gives_distributions(name: str) -> bool:
    """Whether a layer of this name is one whose outputs are means and logarithms of scales."""
    return ".output." in name and ".context." not in name
