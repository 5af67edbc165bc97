"""Planes of samples: how many rows to compute at a time, and smaller ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = {"cpu": 1 << 15}  # positions a block: cache-sized on a CPU
BLOCK_ELSEWHERE = 1 << 22


def rows_a_block(device: torch.device, row: int, least: int = 1) -> int:
    """How many rows of so many positions a block has: temporaries stay in the cache, for any size of picture."""
    return max(least, BLOCK.get(device.type, BLOCK_ELSEWHERE) // row)


def shrunk(picture: Tensor, scale: int) -> Tensor:
    """Means of squares of `scale` samples a side, clipped to 0..1; at the lower and right edge of those there are."""
    if scale == 1:
        return picture
    return F.avg_pool2d(picture.clamp(0, 1), scale, ceil_mode=True, count_include_pad=False)
