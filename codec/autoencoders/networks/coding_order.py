"""Order in which a latent is coded, and units of what its prior computes: all that files depend on but weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

OFFSETS = ((1, 1), (0, 1), (1, 0))  # of the positions that are missing in cells of 2 x 2, in their order
SCALE = 32  # of activations: the integer that stands for 1.0
LIMIT = 256  # of those integers' absolute values
PARTS = 192  # of the channels: what `Preset.groups` counts in
BLOCKS = 2  # of the networks of each offset: rows and columns around a cell that these see


@dataclass(frozen=True)
class Preset:
    """Order in which a latent is coded.

    Attributes:
        halvings: of the grid, until the positions that are left have distributions of their own.
        groups: where all groups of channels but the first begin, in 1 / PARTS of them.
        phases: parts that the cells of a halving are coded in, finest halving first, for each offset.
    """

    halvings: int
    groups: tuple[int, ...]
    phases: tuple[int, ...]

    def bounds(self, channels: int) -> list[int]:
        """First channel of each group, and the end of the last one; of few channels, there are fewer groups."""
        return sorted({0, *(round(Fraction(part * channels, PARTS)) for part in self.groups), channels})

    def inputs(self, channels: int) -> list[int]:
        """Channels that a step of each offset knows: of the offsets before; with phases, of its own, and where."""
        own = channels + 1 if self.phased else 0
        return [(1 + offset) * channels + own for offset in range(len(OFFSETS))]

    @property
    def phased(self) -> bool:
        """Whether networks are told which cells of the same offset are known."""
        return max(self.phases) > 1


PRESETS = {
    "baseline": Preset(3, (), (1, 1, 1)),
    "normal": Preset(3, (16, 80), (1, 1, 1)),
    "extra": Preset(3, (3, 12, 36, 96), (4, 2, 2)),
}


def phase_masks(phases: int, height: int, width: int) -> Iterator[NDArray[np.bool_]]:
    """Cells (height, width) of each phase: all, those of a checkerboard, or those of a quarter."""
    row, column = np.arange(height)[:, None] % 2, np.arange(width) % 2
    order = {1: 0 * (row + column), 2: (row + column) % 2, 4: 2 * (row ^ column) + row}[phases]
    for phase in range(phases):
        yield order == phase
