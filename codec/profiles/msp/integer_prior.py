"""The progressive prior in integers: distributions of symbols that are the same on any machine.

`ProgressivePrior` (`codec/autoencoders/networks`) is what it was made from, by `quantised`. Activations are integers of
9 bits, in units of 1 / SCALE; sums are exact by proof (`codec/entropy/layers.py`). Quality is a position among the
knots, in 1 / STEPS of the distance between two of them. All logarithms are natural ones in 1 / LOG.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from codec.entropy.layers import Convolution, Definition, Linear, quantise
from codec.entropy.tables import FRACTIONS, LOG_SCALE_FRACTIONS, LOG_SCALE_MIN_EIGHTHS, SCALES, exp_fixed

Integers = NDArray[np.int64]

STEPS = 256
LOG = 1024
OUTPUT = 128  # of the networks' outputs: what stands for 1.0 in logarithms of scales
MEAN = 512  # and in means
IN_SHIFT, OUT_SHIFT = 16, 24  # fractional bits of factors from symbols to activations, from outputs to means
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

    def activations(self, symbols: NDArray[np.int32], channels: slice) -> Integers:
        """Symbols (..., channels) as the networks see them."""
        scaled = (symbols.astype(np.int64) * self._factor_in[channels] + (1 << IN_SHIFT >> 1)) >> IN_SHIFT
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

    def __init__(self, bounds: list[int], tensors: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__()
        self.bounds = bounds

        def linear(name: str) -> Linear:
            return Linear(definition(tensors, f"{prefix}.{name}"))

        def block(name: str) -> nn.ModuleDict:
            mix = Convolution(definition(tensors, f"{prefix}.{name}.mix"), padding=1, depthwise=True)
            layers = {part: linear(f"{name}.{part}") for part in ("mix_in", "mix_out", "hidden", "output")}
            return nn.ModuleDict({**layers, "mix": mix})

        self.embed = linear("embed")
        self.blocks = nn.ModuleList(block(f"context.{i}") for i in range(BLOCKS))
        self.earlier = nn.ModuleList(linear(f"earlier.{i}") for i in range(len(bounds) - 2))
        self.mix = nn.ModuleList(linear(f"mix.{i}") for i in range(len(bounds) - 1))
        self.output = nn.ModuleList(linear(f"output.{i}") for i in range(len(bounds) - 1))

    def context(self, known: Tensor, condition: Tensor) -> Tensor:
        """(h, w, inputs), (HIDDEN,) to (h, w, HIDDEN)."""
        x = _bounded(self.embed(known) + condition)
        for layers in self.blocks:
            assert isinstance(layers, nn.ModuleDict)
            mixed = layers["mix"](layers["mix_in"](x).clamp(0, LIMIT).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
            x = _bounded(x + layers["mix_out"](_bounded(mixed)))
            x = _bounded(x + layers["output"](layers["hidden"](x).clamp(0, LIMIT)))
        return x

    def outputs(self, group: int, context: Tensor, earlier: Tensor) -> Tensor:
        """Means, then logarithms of scales, of a group of channels at some positions.

        Args:
            context: (n, HIDDEN)
            earlier: (n, bounds[group]), the groups before.

        Returns:
            (n, 2 * channels of the group), in units of 1 / MEAN and 1 / OUTPUT.
        """
        x = self.mix[group](context)
        if group:
            x = x + self.earlier[group - 1](earlier)
        outputs: Tensor = self.output[group](context + x.clamp(0, LIMIT))
        return outputs


def _bounded(x: Tensor) -> Tensor:
    return x.clamp(-LIMIT, LIMIT)


def definition(tensors: Mapping[str, Tensor], name: str) -> Definition:
    """A layer's, by its name."""
    return Definition(*(tensors[f"{name}.{field}"].to(torch.int64) for field in Definition._fields))


class IntegerPrior:
    """Prior of a model for one preset, on a device.

    Args:
        log_gain: (knots, channels), logarithms of the gains.
        tensors: what `quantised` made.
    """

    def __init__(
        self, preset: Preset, log_gain: Tensor, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu"
    ) -> None:
        self.preset, self.device = preset, torch.device(device)
        self.channels = log_gain.shape[1]
        self.bounds = preset.bounds(self.channels)
        self.groups = [slice(a, b) for a, b in pairwise(self.bounds)]
        self.steps = [
            IntegerStep(self.bounds, tensors, f"steps.{i}").to(self.device).eval() for i in range(len(OFFSETS))
        ]
        self._log_gain, self._log_unit = _whole(log_gain), _whole(tensors["log_unit"])
        self._condition, self._log_scale = _whole(tensors["condition"]), _whole(tensors["log_scale"])
        self._mean = _whole(tensors["mean"])

    def at(self, position: int) -> Conditioned:
        """The prior for a position among the knots, 0..STEPS * (knots - 1)."""
        return Conditioned(self, position)


class Conditioned:
    """A prior for one position among the knots."""

    def __init__(self, prior: IntegerPrior, position: int) -> None:
        self.prior, self.position = prior, position
        self.units = Units(self._between(prior._log_gain) + prior._log_unit)

    def _between(self, knots: Integers) -> Integers:
        """What lies between two of (..., knots, n), rounded: (..., n)."""
        knot = min(self.position // STEPS, knots.shape[-2] - 2)
        part = self.position - STEPS * knot
        mixed: Integers = knots[..., knot, :] * (STEPS - part) + knots[..., knot + 1, :] * part
        return (mixed + STEPS // 2) // STEPS

    @cached_property
    def _log_scale(self) -> Integers:
        return self._between(self.prior._log_scale)

    def first(self) -> tuple[Integers, Integers]:
        """Means and indices of scales (channels,) of what is left after all halvings."""
        everything = slice(None)
        scales = self.units.scales(self._log_scale[self.prior.preset.halvings, 0], everything)
        return self.units.means(self.prior._mean, everything), scales

    @torch.no_grad()
    def context(self, halving: int, offset: int, known: Tensor) -> Tensor:
        """What the distributions at an offset depend on, but for the same position: see `IntegerStep.context`."""
        condition = torch.from_numpy(self._between(self.prior._condition[halving, offset]))
        return self.prior.steps[offset].context(known.to(self.prior.device), condition.to(self.prior.device))

    @torch.no_grad()
    def distributions(
        self, halving: int, offset: int, group: int, context: Tensor, earlier: Integers
    ) -> tuple[Integers, Integers]:
        """Means of symbols in 1 / FRACTIONS, and indices of their scales, (n, channels of the group) both.

        Args:
            context: (n, HIDDEN)
            earlier: (n, channels before the group), activations.
        """
        before = torch.from_numpy(earlier).to(self.prior.device)
        outputs = self.prior.steps[offset].outputs(group, context, before).cpu().numpy().astype(np.int64)
        channels = self.prior.groups[group]
        means, logarithms = np.split(outputs, 2, 1)
        logarithms = LOG // OUTPUT * logarithms + self._log_scale[halving, offset, channels]
        return self.units.means(means, channels), self.units.scales(logarithms, channels)


def _whole(numbers: Tensor) -> Integers:
    return numbers.to(torch.int64).numpy()


def quantised(prior: ProgressivePrior) -> dict[str, Tensor]:
    """Integers of a trained prior, by name, for `IntegerPrior`.

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
        if ".output." in name and "context" not in name:
            weight, bias, scale = _in_output_units(weight), _in_output_units(bias), OUTPUT
        low = 0 if name.endswith(("mix", "output")) and "context" in name else -LIMIT
        found, _ = quantise(weight, bias, (low, LIMIT), SCALE, scale)
        made |= {f"steps.{name}.{field}": numbers for field, numbers in found._asdict().items()}
    return made


def _in_output_units(rows: Tensor) -> Tensor:
    """Rows of an output layer, those of means as great as MEAN and OUTPUT, the one scale of all, want it."""
    means, logarithms = rows.detach().chunk(2)
    return torch.cat([means * (MEAN / OUTPUT), logarithms])
