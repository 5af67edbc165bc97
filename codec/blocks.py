"""The rows of a plane that are computed at a time: their temporaries stay in the cache, for any size of picture."""

from __future__ import annotations

import torch

BLOCK = {"cpu": 1 << 15}  # positions a block: cache-sized on a CPU
BLOCK_ELSEWHERE = 1 << 22


def rows_a_block(device: torch.device, row: int, least: int = 1) -> int:
    """How many rows of so many positions a block has."""
    return max(least, BLOCK.get(device.type, BLOCK_ELSEWHERE) // row)
