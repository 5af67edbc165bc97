"""Multi-scale progressive prior of a latent of many channels: by it a transform learns, and files are coded.

The latent's grid is halved again and again. What is left at last has distributions of its own; then each halving's
missing positions follow, the middles of four known ones first, given all that is known; and within a step the channels
in groups, from the strongest on. There is no hyperprior (Zhang et al., "Leveraging progressive model and overfitting
for efficient learned image compression", 2022).

Activations are what integers of 9 bits hold, rounded with the gradient of the identity. So the same
networks can be evaluated in integers (`integer_prior.py`), where results are the same on any machine; these compute in
floating point.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.networks.coding_order import BLOCKS, LIMIT, OFFSETS, SCALE, Preset, phase_masks
from codec.autoencoders.networks.transform import Pointwise, Spatial, initialise, spread
from codec.blocks import to_multiple

HIDDEN = 192
SPREAD = 1.5  # deviations of a channel that stand for 1.0 are this less


class Bounded(torch.autograd.Function):
    """Activations that integers hold; the gradient passes where they are within the bounds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: int) -> Tensor:
        scaled = x.float() * SCALE
        ctx.save_for_backward((scaled > low) & (scaled < LIMIT))
        return scaled.round_().clamp_(low, LIMIT).div_(SCALE)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (within,) = ctx.saved_tensors
        return gradient * within, None


def bounded(x: Tensor, low: int = -LIMIT) -> Tensor:
    """Activations rounded to multiples of 1 / SCALE, within low / SCALE..LIMIT / SCALE, in float32."""
    result: Tensor = Bounded.apply(x, low)  # type: ignore[no-untyped-call]
    return result


class Block(nn.Module):
    """Spatial mixing by a depthwise convolution, then a layer at each position; both are added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix_in, self.mix_out = Pointwise(channels, channels), Pointwise(channels, channels)
        self.mix = Spatial(channels, channels, groups=channels)
        self.hidden, self.output = Pointwise(channels, channels), Pointwise(channels, channels)
        for layer in (self.mix_in, self.mix, self.hidden):
            initialise(layer)
        for layer in (self.mix_out, self.output):  # a block starts as the identity
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) to the same."""
        x = bounded(x + self.mix_out(bounded(self.mix(bounded(self.mix_in(x), 0)))))
        return bounded(x + self.output(bounded(self.hidden(x), 0)))


class Context(nn.Module):
    """Features that all distributions of one position of each cell depend on. Derived classes initialise `embed`.

    Args:
        inputs: channels of all that is known.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.embed = Pointwise(inputs, hidden)
        self.context = nn.Sequential(*(Block(hidden) for _ in range(BLOCKS)))

    def embedded(self, known: Tensor, condition: Tensor) -> Tensor:
        """(batch, inputs, h, w), (batch, hidden, 1, 1) to (batch, hidden, h, w)."""
        context: Tensor = self.context(bounded(self.embed(known) + condition))
        return context


class Step(Context):
    """Distributions of one position of each cell.

    Args:
        bounds: of the groups of channels.
        inputs: channels of all that is known.
    """

    def __init__(self, bounds: list[int], inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.bounds = bounds
        self.earlier = nn.ModuleList(Pointwise(start, hidden) for start in bounds[1:-1])
        self.mix = nn.ModuleList(Pointwise(hidden, hidden) for _ in bounds[1:])
        output = [Pointwise(hidden, 2 * (b - a)) for a, b in pairwise(bounds)]
        self.output = nn.ModuleList(output)
        for layer in (self.embed, *self.earlier, *self.mix, *output):
            initialise(layer)
        with torch.no_grad():
            for layer in output:
                layer.weight.mul_(0.1)

    def forward(self, known: Tensor, current: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-scale of `current`, without its bias.

        Args:
            known: (batch, inputs, h, w)
            current: (batch, channels, h, w); a group's distributions depend on earlier groups only.
            condition: (batch, hidden, 1, 1), of lambda and halving.
        """
        context = self.embedded(known, condition)
        means, scales = [], []
        for i, (start, mix, output) in enumerate(zip(self.bounds, self.mix, self.output, strict=False)):
            x = mix(context)
            if i:
                x = x + self.earlier[i - 1](current[:, :start])
            mean, scale = output(bounded(context + bounded(x, 0))).chunk(2, 1)
            means.append(mean)
            scales.append(scale)
        return torch.cat(means, 1).float(), torch.cat(scales, 1).float()


class Distributions(NamedTuple):
    """Of each element of a grid (batch, channels, h, w): mean, in units of the latent, and logarithm of the scale."""

    mean: Tensor
    log_scale: Tensor

    def scaled(self, gains: Tensor) -> Distributions:
        """Return those of the elements times gains."""
        return Distributions(self.mean * gains, self.log_scale + gains.log())


class ProgressivePrior(nn.Module):
    """Distributions of latents (batch, channels, h, w).

    The networks of a step are the same at all halvings, but for what they add.

    Args:
        channels: of the latent.
        knots: lambdas for which there are distributions, as `Transform.knot_weights` weighs them.
        hidden: channels of the networks.
    """

    unit: Tensor

    def __init__(self, preset: Preset, channels: int, knots: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.preset = preset
        halvings, bounds, offsets = preset.halvings, preset.bounds(channels), len(OFFSETS)
        self.steps = nn.ModuleList(Step(bounds, inputs, hidden) for inputs in preset.inputs(channels))
        self.condition = nn.Parameter(torch.zeros(halvings, offsets, knots, hidden))
        self.mean = nn.Parameter(torch.zeros(channels))  # of what is left at last, as all means in units of `unit`
        self.log_scale = nn.Parameter(torch.zeros(1 + halvings, offsets, knots, channels))
        self.register_buffer("unit", torch.ones(channels))

    @property
    def cell(self) -> int:
        """Positions along each side of the area of which one is left at last."""
        return 1 << self.preset.halvings

    @torch.no_grad()
    def start(self, variances: Tensor) -> None:
        """Take distributions as wide as each channel's variance (channels,) suggests, and units of about that."""
        deviation = variances.clamp_min(1e-5).sqrt()
        self.unit.copy_(deviation.clamp_min(0.05) / SPREAD)
        self.log_scale.copy_(deviation.div(2).log() - self.unit.log())

    def forward(self, latents: Tensor, knots: Tensor) -> Distributions:
        """Distributions of each element of a latent.

        Args:
            latents: as a decoder knows them: rounded, with their gains divided out.
            knots: (batch, knots), how much each counts.
        """
        height, width = latents.shape[2:]
        unit = self.unit[:, None, None]
        grid = bounded(to_multiple(latents, self.cell) / unit)
        grids = [grid[:, :, :: 2**halving, :: 2**halving] for halving in range(1 + self.preset.halvings)]
        log_scale = spread(knots @ self.log_scale[-1, 0]).expand_as(grids[-1])
        found = Distributions(self.mean[:, None, None].expand_as(grids[-1]), log_scale)
        for halving in reversed(range(self.preset.halvings)):
            found = self._refine(halving, grids[halving], knots, found)
        return Distributions(*((t[:, :, :height, :width]) for t in (found.mean * unit, found.log_scale + unit.log())))

    def _refine(self, halving: int, grid: Tensor, knots: Tensor, coarse: Distributions) -> Distributions:
        """Distributions of a grid, from those of every second of its positions along each axis."""
        known = [grid[:, :, ::2, ::2]]
        cells = {(0, 0): coarse}
        for i, (step, (row, column)) in enumerate(zip(self.steps, OFFSETS, strict=True)):
            condition = spread(knots @ self.condition[halving, i])
            current = grid[:, :, row::2, column::2]
            found = self._phased(step, torch.cat(known, 1), current, condition, self.preset.phases[halving])
            bias = spread(knots @ self.log_scale[halving, i])
            cells[row, column] = Distributions(found.mean, found.log_scale + bias)
            known.append(current)
        order = [cells[row, column] for row in (0, 1) for column in (0, 1)]
        return Distributions(
            *(F.pixel_shuffle(torch.stack(four, 2).flatten(1, 2), 2) for four in zip(*order, strict=True))
        )

    def _phased(self, step: nn.Module, known: Tensor, current: Tensor, condition: Tensor, phases: int) -> Distributions:
        """Distributions of one offset, whose cells are coded in so many phases."""
        if not self.preset.phased:
            return Distributions(*step(known, current, condition))
        height, width = current.shape[2:]
        before, mean, log_scale = torch.zeros_like(current[:, :1]), torch.zeros_like(current), torch.zeros_like(current)
        for cells in phase_masks(phases, height, width):
            mask = torch.from_numpy(cells).to(current)
            found = step(torch.cat([known, current * before, before], 1), current, condition)
            mean, log_scale = mean + found[0] * mask, log_scale + found[1] * mask
            before = before + mask
        return Distributions(mean, log_scale)


def laplace_bits(values: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Bits of each value under a Laplace distribution integrated over unit intervals; far off, they grow linearly."""
    inverse = torch.exp(-log_scale.clamp(-4, 6))
    distance = (values - mean).abs()
    near = distance - 0.5
    # Each branch gets arguments that are harmless to the gradient of the other.
    tail = math.log(2) + near.clamp(min=0) * inverse - torch.log(-torch.expm1(-inverse))
    inside = 0.5 * (torch.exp(near.clamp(max=0) * inverse) + torch.exp(-(distance + 0.5) * inverse))
    return torch.where(near > 0, tail, -torch.log1p(-inside)) / math.log(2)
