"""Large pictures in overlapping tiles, so that memory is bounded; neighbours fade into each other without a seam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from codec.device import is_out_of_memory


@dataclass(frozen=True)
class Span:
    """A tile's part of one axis, and how far it fades in and out at its ends."""

    start: int
    stop: int
    fade_in: int
    fade_out: int


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Cover an axis with as few tiles of at most `tile` as it takes, all equal, that overlap by `overlap` or 1 more."""
    if length <= tile:
        return [Span(0, length, 0, 0)]
    count = -(-(length - overlap) // (tile - overlap))
    side = -(-(length + (count - 1) * overlap) // count)
    starts = [i * (length - side) // (count - 1) for i in range(count)]
    shared = [0, *(a + side - b for a, b in pairwise(starts)), 0]
    return [Span(a, a + side, *shared[i : i + 2]) for i, a in enumerate(starts)]


def ramp(span: Span, scale: int, like: Tensor) -> Tensor:
    """A tile's weight along an axis, `scale` samples a unit.

    It rises and falls in the middle half of what neighbours share: their own edges, where they lack context, do not
    count at all. Weights of neighbours add up to one.
    """
    weight = torch.ones((span.stop - span.start) * scale, device=like.device, dtype=like.dtype)
    for fade, at_start in ((span.fade_in * scale, True), (span.fade_out * scale, False)):
        if fade:
            rising = ((torch.arange(fade, device=like.device, dtype=like.dtype) + 0.5) / fade * 2 - 0.5).clamp(0, 1)
            part = weight[:fade] if at_start else weight[-fade:]
            part *= rising if at_start else 1 - rising
    return weight


def tiled(
    function: Callable[[Tensor], Tensor],
    source: Tensor,
    channels: int,
    scales: tuple[int, int],
    tile: int,
    overlap: int,
) -> Tensor:
    """Apply a function of pictures or latents tile by tile; with smaller tiles where memory does not suffice.

    Gradients need the memory of all tiles at once: where they are computed, smaller ones are no help.

    Args:
        function: maps (batch, c, scales[0] * h, scales[1] * w) to (batch, channels, scales[1] * h, scales[1] * w).
        source: (batch, c, scales[0] * height, scales[0] * width).
        tile, overlap: in units, of which `source` has height x width.
    """
    while True:
        try:
            return _tiled(function, source, channels, scales, tile, overlap)
        except Exception as error:
            if torch.is_grad_enabled() or tile < 4 * overlap or not is_out_of_memory(error):
                raise
        tile //= 2


def _tiled(
    function: Callable[[Tensor], Tensor],
    source: Tensor,
    channels: int,
    scales: tuple[int, int],
    tile: int,
    overlap: int,
) -> Tensor:
    """Apply a function with tiles of this side, as `tiled` does."""
    units = [length // scales[0] for length in source.shape[2:]]
    rows, columns = (spans(length, tile, overlap) for length in units)
    if len(rows) == len(columns) == 1:
        return function(source)
    made = source.new_zeros(len(source), channels, *(length * scales[1] for length in units))
    for row, column in product(rows, columns):
        part = function(_cut(source, row, column, scales[0])).float()
        part = part * ramp(row, scales[1], part)[:, None] * ramp(column, scales[1], part)
        _cut(made, row, column, scales[1]).add_(part)
    return made


def _cut(x: Tensor, row: Span, column: Span, scale: int) -> Tensor:
    """A view of a tile."""
    return x[:, :, row.start * scale : row.stop * scale, column.start * scale : column.stop * scale]
