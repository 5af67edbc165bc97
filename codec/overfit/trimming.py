"""Grids that cost a little less: samples are changed by one where that saves most for what it distorts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.overfit import arm
from codec.overfit.fit import rate
from codec.overfit.function import Function
from codec.overfit.spec import MARGIN

APART = 2 * MARGIN + 1  # samples, at which changes do not disturb each other


@torch.no_grad()
def smaller(function: Function, slopes: list[Tensor], part: Tensor) -> Function:
    """Functions whose grids cost about this part (batch,) of their bits, by changes of some samples by one.

    Grids are changed one after the other, the finest first, and only as far as is needed.
    """
    needed = (1 - part) * rate(function) * function.positions
    for level, grid in enumerate(function.grids):
        if grid.any():
            function, needed = _lowered(function, slopes[level], level, needed)
    return function


def _lowered(function: Function, slope: Tensor, level: int, needed: Tensor) -> tuple[Function, Tensor]:
    """Functions that cost so many bits (batch,) less, by changes in one grid, and what is still needed.

    Changes are tried far apart from each other, as each also changes what is expected of samples around it; kept are
    those that save bits, most first. Where there is a choice, it falls on the sample that adds least to the distortion:
    of that the gradient is known, and the curvature taken to be the same for all samples, as how large gradients still
    are tells it.
    """
    added = 2 * slope.abs().mean((1, 2, 3), keepdim=True) + 1e-30
    for y, x in product(range(APART), repeat=2):
        if (needed <= 0).all():
            break
        bits, means = arm.details(function.grids, function.weights, function.spec, level)
        grid = function.grids[level]
        move = (means.round() - grid).sign() * _lattice(grid, y, x)
        if function.region is not None:
            move = move * function.region.inside[level]
        worth = bits / (move * slope + added).maximum(0.1 * added)
        best = torch.where(move == 0, 0, worth).max(1, keepdim=True)
        there = (best.values > 0).to(grid)
        tried = list(function.grids)
        tried[level] = grid + move * torch.zeros_like(grid).scatter(1, best.indices, there)
        after, _ = arm.details(tried, function.weights, function.spec, level)
        saved = F.avg_pool2d((bits - after).sum(1, keepdim=True), APART, 1, APART // 2) * APART**2
        kept, amount = _best(saved * there, needed)
        tried[level] = torch.where(kept, tried[level], grid)
        function, needed = replace(function, grids=tried), needed - amount
    return function, needed


def _lattice(grid: Tensor, y: int, x: int) -> Tensor:
    """1 at each `APART`th row and column, from these on."""
    rows, columns = (torch.arange(n, device=grid.device) % APART for n in grid.shape[2:])
    return ((rows == y).unsqueeze(1) & (columns == x)).to(grid)


def _best(saved: Tensor, needed: Tensor) -> tuple[Tensor, Tensor]:
    """Mask of the changes to keep, those that save most bits first until it is enough, and the bits (batch,) saved.

    Args:
        saved: bits that each change saves, (batch, 1, height, width); those of half a bit or less are not kept.
        needed: bits that shall be saved, (batch,).
    """
    flat = saved.flatten(1)
    order = flat.sort(1, descending=True)
    before = order.values.clamp(min=0).cumsum(1) - order.values.clamp(min=0)
    keep = (order.values > 0.5) & (before < needed.unsqueeze(1))
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter(1, order.indices, keep)
    return kept.view_as(saved), (flat * kept).sum(1)
