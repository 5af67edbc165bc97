"""Large pictures in overlapping tiles, so that memory is bounded; neighbours fade into each other without a seam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from codec.device import is_out_of_memory


@dataclass(frozen=True)
class Span:
    """A tile's part of one axis, and how far it fades in and out at its ends."""

    start: int
    stop: int
    fade_in: int
    fade_out: int


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Cover an axis with tiles of at most `tile`, as equal as they can be, that overlap by `overlap` or more."""
    if length <= tile:
        return [Span(0, length, 0, 0)]
    count = _count(length, tile, overlap)
    starts = [i * (length - tile) // (count - 1) for i in range(count)]
    shared = [0, *(a + tile - b for a, b in pairwise(starts)), 0]
    return [Span(a, a + tile, *shared[i : i + 2]) for i, a in enumerate(starts)]


def least(length: int, tile: int, overlap: int) -> int:
    """Side of the smallest tiles that cover an axis in as few as those of `tile` do: they overlap by 1 more at most."""
    count = _count(length, tile, overlap) if length > tile else 1
    return -(-(length + (count - 1) * overlap) // count)


def _count(length: int, tile: int, overlap: int) -> int:
    return -(-(length - overlap) // (tile - overlap))


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

    Where there will be gradients, tiles are made anew for these, one at a time; smaller ones are not tried then.

    Args:
        function: maps (batch, c, scales[0] * h, scales[1] * w) to (batch, channels, scales[1] * h, scales[1] * w).
        source: (batch, c, scales[0] * height, scales[0] * width).
        tile, overlap: in units, of which `source` has height x width.
    """

    def once(tile: Tensor) -> Tensor:
        made: Tensor = checkpoint(function, tile, use_reentrant=False) if torch.is_grad_enabled() else function(tile)
        return made

    def joined(rows: list[Span], columns: list[Span]) -> Tensor:
        made = source.new_zeros(len(source), channels, *(axis[-1].stop * scales[1] for axis in (rows, columns)))
        for row, column in product(rows, columns):
            part = once(_cut(source, row, column, scales[0])).float()
            part = part * ramp(row, scales[1], part)[:, None] * ramp(column, scales[1], part)
            _cut(made, row, column, scales[1]).add_(part)
        return made

    lengths = [length // scales[0] for length in source.shape[2:]]
    while True:
        rows, columns = (spans(n, least(n, tile, overlap), overlap) for n in lengths)
        try:
            return function(source) if len(rows) == len(columns) == 1 else joined(rows, columns)
        except Exception as error:
            if torch.is_grad_enabled() or tile < 4 * overlap or not is_out_of_memory(error):
                raise
        tile //= 2


def _cut(x: Tensor, row: Span, column: Span, scale: int) -> Tensor:
    """A view of a tile."""
    return x[:, :, row.start * scale : row.stop * scale, column.start * scale : column.stop * scale]
