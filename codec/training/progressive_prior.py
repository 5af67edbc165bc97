"""Multi-scale progressive prior of a latent of many channels, for training.

The latent's grid is halved again and again. What is left at last has fixed distributions; then each scale's missing
positions follow in three steps, the middles of four known ones first, given all that is known; and within a step the
channels in groups, from the strongest on (Zhang et al., "Leveraging progressive model and overfitting for efficient
learned image compression", 2022). There is no hyperprior.

This one only teaches a transform what is cheap. It runs in floating point, each step over a complete grid of positions.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.networks.transform import Block, Pointwise, initialise

SCALES = 4  # halvings; all that is left of 256 x 256 pixels is one position
STEPS = ((1, 1), (0, 1), (1, 0))  # offsets of the positions that are missing in cells of 2 x 2, in their order
GROUPS = (0.05, 0.15, 0.4)  # of the channels, where all groups but the first begin
HIDDEN = 192


def group_bounds(channels: int) -> list[int]:
    """First channel of each group, and the end of the last one; of few channels, there are fewer groups."""
    return sorted({0, *(round(part * channels) for part in GROUPS), channels})


class Step(nn.Module):
    """Distributions of one position of each cell.

    Args:
        channels: of the latent.
        known: positions of the cell that are known before it.
    """

    def __init__(self, channels: int, known: int) -> None:
        super().__init__()
        self.bounds = group_bounds(channels)
        self.embed = Pointwise(known * channels, HIDDEN)
        self.context = nn.Sequential(Block(HIDDEN, 1), Block(HIDDEN, 1))
        self.earlier = nn.ModuleList(Pointwise(start, HIDDEN) for start in self.bounds[1:-1])
        self.mix = nn.ModuleList(Pointwise(HIDDEN, HIDDEN) for _ in self.bounds[1:])
        output = [Pointwise(HIDDEN, 2 * (b - a)) for a, b in pairwise(self.bounds)]
        self.output = nn.ModuleList(output)
        for layer in (self.embed, *self.earlier, *self.mix, *output):
            initialise(layer)
        with torch.no_grad():
            for layer in output:
                layer.weight.mul_(0.1)

    def forward(self, known: Tensor, current: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-scale of `current`, without its bias.

        Args:
            known: (batch, known * channels, h, w)
            current: (batch, channels, h, w); a group's distributions depend on earlier groups only.
            condition: (batch, HIDDEN, 1, 1), of lambda and scale.
        """
        context = self.context(F.silu(self.embed(known) + condition))
        means, scales = [], []
        for i, (start, mix, output) in enumerate(zip(self.bounds, self.mix, self.output, strict=False)):
            x = mix(context)
            if i:
                x = x + self.earlier[i - 1](current[:, :start])
            mean, scale = output(context + F.silu(x)).chunk(2, 1)
            means.append(mean)
            scales.append(scale)
        return torch.cat(means, 1).float(), torch.cat(scales, 1).float()


class ProgressivePrior(nn.Module):
    """Distributions of latents (batch, channels, h, w), whose sides are multiples of 2**SCALES.

    The networks of a step are the same at all scales, but for what they add.

    Args:
        channels: of the latent.
        knots: lambdas for which there are distributions, as `Transform.knot_weights` weighs them.
    """

    def __init__(self, channels: int, knots: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(Step(channels, known) for known in range(1, 1 + len(STEPS)))
        self.condition = nn.Parameter(torch.zeros(SCALES, len(STEPS), knots, HIDDEN))
        self.mean = nn.Parameter(torch.zeros(channels))  # of what is left at last
        self.log_scale = nn.Parameter(torch.zeros(1 + SCALES, len(STEPS), knots, channels))

    @torch.no_grad()
    def start(self, variances: Tensor) -> None:
        """Take distributions as wide as each channel's variance (channels,) suggests."""
        self.log_scale.copy_(variances.clamp_min(1e-5).sqrt().div(2).log())

    def forward(self, latents: Tensor, knots: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-scale of each element, both shaped as the latents.

        Args:
            latents: as a decoder knows them: rounded, with their gains divided out.
            knots: (batch, knots), how much each counts.
        """
        grids = [latents[:, :, :: 2**scale, :: 2**scale] for scale in range(1 + SCALES)]
        log_scale = (knots @ self.log_scale[SCALES, 0])[:, :, None, None].expand_as(grids[-1])
        mean = self.mean[:, None, None].expand_as(grids[-1])
        for scale in reversed(range(SCALES)):
            mean, log_scale = self._refine(scale, grids[scale], knots, mean, log_scale)
        return mean, log_scale

    def _refine(
        self, scale: int, grid: Tensor, knots: Tensor, mean: Tensor, log_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Distributions of a grid, from those of every second of its positions along each axis."""
        known = [grid[:, :, ::2, ::2]]
        cells = {(0, 0): (mean, log_scale)}
        for i, (step, (row, column)) in enumerate(zip(self.steps, STEPS, strict=True)):
            condition = (knots @ self.condition[scale, i])[:, :, None, None]
            bias = (knots @ self.log_scale[scale, i])[:, :, None, None]
            current = grid[:, :, row::2, column::2]
            found, width = step(torch.cat(known, 1), current, condition)
            cells[row, column] = found, width + bias
            known.append(current)
        order = [cells[row, column] for row in (0, 1) for column in (0, 1)]
        return _assemble([m for m, _ in order]), _assemble([s for _, s in order])


def _assemble(cells: list[Tensor]) -> Tensor:
    """Four grids (batch, channels, h, w), by position in their cells, to one (batch, channels, 2 h, 2 w)."""
    return F.pixel_shuffle(torch.stack(cells, 2).flatten(1, 2), 2)
