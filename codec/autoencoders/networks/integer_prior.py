"""The progressive prior in integers: distributions of symbols that are the same on any machine.

It is made from a `ProgressivePrior` (`quantisation.py`). Activations are integers of 9 bits, in units of 1 / SCALE;
sums are exact by proof (`codec/entropy/layers.py`). Quality is a position among the knots, in 1 / STEPS of the distance
between two of them. All logarithms are natural ones in 1 / LOG.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders.networks.coding_order import BLOCKS, LIMIT, OFFSETS, SCALE, Preset
from codec.entropy.coder import LIMIT as SYMBOL_LIMIT
from codec.entropy.layers import Depthwise, Integers, Linear, Proven, Whole
from codec.entropy.tables import EXP_BITS, FRACTIONS, LOG_SCALE_FRACTIONS, LOG_SCALE_MIN_EIGHTHS, SCALES, exp_fixed
from codec.runtime import cached_property

STEPS = 256
LOG = 1024
OUTPUT = 128  # of the networks' outputs: what stands for 1.0 in logarithms of scales
MEAN = 512  # and in means
IN_SHIFT, OUT_SHIFT = 16, 24  # fractional bits of factors from symbols to activations, from outputs to means
LOG_LIMIT = 8 * LOG  # of logarithms of gains and of units
OUTPUT_LIMIT = 1 << 20  # of the networks' outputs


def exponential(logarithms: Integers, factor: int) -> Integers:
    """floor(factor * exp(x / LOG)) of each x."""
    return np.array([exp_fixed(int(x), LOG) * factor >> EXP_BITS for x in logarithms], np.int64)


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


class IntegerContext(Proven):
    """A `Context` of the trained priors; activations are integers, held in floating point, channels last."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.embed = Linear(hidden, inputs)
        self.context = [IntegerBlock(hidden) for _ in range(BLOCKS)]

    def embedded(self, known: Whole, condition: Integers) -> Whole:
        """(h, w, inputs), (hidden,) to (h, w, hidden)."""
        x = bounded(self.embed(known) + condition.astype(np.float32))
        for block in self.context:
            x = block(x)
        return x


class IntegerStep(IntegerContext):
    """A `Step` of the trained prior."""

    def __init__(self, bounds: list[int], inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        pairs = list(pairwise(bounds))
        self.earlier = [Linear(hidden, start) for start, _ in pairs[1:]]
        self.mix = [Linear(hidden, hidden) for _ in pairs]
        self.output = [Linear(2 * (end - start), hidden) for start, end in pairs]

    def outputs(self, group: int, context: Whole, earlier: Whole) -> Whole:
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
        return self.output[group](context + x.clip(0, LIMIT))


class IntegerBlock(Proven):
    """A `Block` of the trained prior."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix_in, self.mix_out = Linear(channels, channels), Linear(channels, channels)
        self.mix = Depthwise(channels, 3)
        self.hidden, self.output = Linear(channels, channels), Linear(channels, channels)

    def __call__(self, x: Whole) -> Whole:
        """(h, w, channels) to the same."""
        x = bounded(x + self.mix_out(bounded(self.mix(self.mix_in(x).clip(0, LIMIT)))))
        return bounded(x + self.output(self.hidden(x).clip(0, LIMIT)))


def bounded(x: Whole) -> Whole:
    """Activations within -LIMIT..LIMIT."""
    return x.clip(-LIMIT, LIMIT)


def check_bound(name: str, numbers: Integers, limit: int) -> None:
    """Refuse numbers with which results could be beyond 64 bits.

    Raises:
        ValueError: an absolute value is above the limit.
    """
    if max(-int(numbers.min()), int(numbers.max())) > limit:
        raise ValueError(f"{name} must be within -{limit}..{limit}, that all results are exact")


class IntegerPrior(Proven):
    """Prior for one preset, made without numbers: it is complete once a state that `quantised` made is loaded.

    Args:
        channels: of the latent.
        knots: among which there are positions.
        hidden: channels of the networks.
    """

    log_unit: Integers
    condition: Integers
    log_scale: Integers
    mean: Integers

    def __init__(self, preset: Preset, channels: int, knots: int, hidden: int) -> None:
        halvings, offsets = preset.halvings, len(OFFSETS)
        super().__init__(
            log_unit=(channels,), mean=(channels,), condition=(halvings, offsets, knots, hidden),
            log_scale=(1 + halvings, offsets, knots, channels),
        )  # fmt: skip
        self.preset, self.channels = preset, channels
        bounds = preset.bounds(channels)
        self.groups = [slice(a, b) for a, b in pairwise(bounds)]
        self.steps = [IntegerStep(bounds, inputs, hidden) for inputs in preset.inputs(channels)]

    def prove(self) -> None:
        check_bound("log_unit", self.log_unit, LOG_LIMIT)
        for name in ("condition", "log_scale", "mean"):
            check_bound(name, getattr(self, name), OUTPUT_LIMIT)

    def at(self, position: int, log_gain: Integers) -> Conditioned:
        """The prior for a position among the knots, 0..STEPS * (knots - 1).

        Args:
            log_gain: (knots, channels), logarithms of the gains.
        """
        return Conditioned(self, position, log_gain)


def between(knots: Integers, position: int) -> Integers:
    """Values between two knots of (..., knots, n) at a position, rounded: (..., n)."""
    knot = min(position // STEPS, knots.shape[-2] - 2)
    part = position - STEPS * knot
    mixed: Integers = knots[..., knot, :] * (STEPS - part) + knots[..., knot + 1, :] * part
    return (mixed + STEPS // 2) // STEPS


class Conditioned:
    """A prior for one position among the knots."""

    def __init__(self, prior: IntegerPrior, position: int, log_gain: Integers) -> None:
        self.prior, self.position = prior, position
        self.units = Units(between(log_gain, position) + prior.log_unit)

    @cached_property
    def _log_scale(self) -> Integers:
        return between(self.prior.log_scale, self.position)

    def first(self) -> tuple[Integers, Integers]:
        """Means and indices of scales (channels,) of what is left after all halvings."""
        everything = slice(None)
        scales = self.units.scales(self._log_scale[self.prior.preset.halvings, 0], everything)
        return self.units.means(self.prior.mean, everything), scales

    def context(self, halving: int, offset: int, known: Whole) -> Whole:
        """Features that distributions at an offset depend on, but for the same position: `IntegerContext.embedded`."""
        condition = between(self.prior.condition[halving, offset], self.position)
        return self.prior.steps[offset].embedded(known, condition)

    def distributions(
        self, halving: int, offset: int, group: int, context: Whole, earlier: NDArray[np.float32]
    ) -> tuple[Integers, Integers]:
        """Means of symbols in 1 / FRACTIONS, and indices of their scales, (n, channels of the group) both.

        Args:
            context: (n, hidden)
            earlier: (n, channels before the group), activations, as whole numbers in floating point.
        """
        outputs = self.prior.steps[offset].outputs(group, context, earlier).clip(-OUTPUT_LIMIT, OUTPUT_LIMIT)
        channels = self.prior.groups[group]
        means, logarithms = np.split(outputs.astype(np.int64), 2, 1)
        logarithms = LOG // OUTPUT * logarithms + self._log_scale[halving, offset, channels]
        return self.units.means(means, channels), self.units.scales(logarithms, channels)
