"""Planes of samples: how many rows to compute at a time, larger and smaller ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = {"cpu": 1 << 15}  # positions a block: cache-sized on a CPU
BLOCK_ELSEWHERE = 1 << 22
BAND = 1 << 13  # cells of a band, if they are of one row or more


def positions_a_block(device: torch.device) -> int:
    """Number of positions of a block: its temporaries stay in the cache, for any size of picture."""
    return BLOCK.get(device.type, BLOCK_ELSEWHERE)


def slices(length: int, at_once: int) -> Iterator[slice]:
    """Yield slices of `at_once` that cover a length; the last one may be shorter."""
    for start in range(0, length, at_once):
        yield slice(start, min(start + at_once, length))


def bands(rows: int, columns: int) -> Iterator[slice]:
    """Rows of cells that are coded together, of a grid with one column at least. Files of profile msp depend on it."""
    return slices(rows, max(1, BAND // columns))


def to_multiple(x: Tensor, side: int) -> Tensor:
    """Planes (batch, channels, h, w), last rows and columns repeated until h and w are multiples of a side."""
    import torch.nn.functional as F

    below, right = (-length % side for length in x.shape[2:])
    return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x


def shrunk(picture: Tensor, scale: int) -> Tensor:
    """Means over blocks of `scale` x `scale` samples that are clipped to 0..1; the lower and right edge cut blocks off.

    A scale of 1 gives the picture as it is.
    """
    import torch.nn.functional as F

    if scale == 1:
        return picture
    return F.avg_pool2d(picture.clamp(0, 1), scale, ceil_mode=True, count_include_pad=False)
