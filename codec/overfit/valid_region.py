"""Pictures of different sizes in one batch: all share one shape, in which each has the upper left corner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.runtime import cached_property


@dataclass(frozen=True, eq=False)
class ValidRegion:
    """Valid region of each picture of a batch: the upper left part of their common shape.

    Attributes:
        sizes: (batch, 2), heights and widths.
        shape: height and width of all of them, at least the largest of each.
        levels: number of resolutions, each half as fine as the one before, that `inside` and `extended` serve.
    """

    sizes: Tensor
    shape: tuple[int, int]
    levels: int = 1

    @classmethod
    def of(
        cls, pictures: Sequence[NDArray[np.uint8]], device: torch.device, levels: int = 1, scale: int = 1
    ) -> ValidRegion | None:
        """Valid region of the batch that `codec.tensors.to_tensor` makes of pictures; None if all are of one size.

        Args:
            scale: pixels for one sample of the region along each axis.
        """
        sizes = [tuple(-(-n // scale) for n in picture.shape[:2]) for picture in pictures]
        if len(set(sizes)) == 1:
            return None
        shape = max(h for h, _ in sizes), max(w for _, w in sizes)
        return cls(torch.tensor(sizes, device=device), shape, levels)

    @property
    def positions(self) -> Tensor:
        """Number of positions of each picture, (batch,), float32."""
        positions: Tensor = self.sizes.prod(1)
        return positions.to(torch.float32)

    def at(self, level: int) -> Tensor:
        """Heights and widths (batch, 2) at a resolution."""
        sizes: Tensor = -(-self.sizes // 2**level)
        return sizes

    @cached_property
    def inside(self) -> list[Tensor]:
        """Mask by level: 1 where a picture is and 0 elsewhere, (batch, 1, height, width)."""
        masks = [[(i < n).float() for i, n in self._axes(level)] for level in range(self.levels)]
        return [(rows * columns).unsqueeze(1) for rows, columns in masks]

    @cached_property
    def _last(self) -> list[list[Tensor]]:
        """Mask by level and axis: 1 at a picture's last row or column."""
        return [[(i == n - 1).float().unsqueeze(1) for i, n in self._axes(level)] for level in range(self.levels)]

    def _axes(self, level: int) -> list[tuple[Tensor, Tensor]]:
        """Indices along an axis and the pictures' lengths of it, such that they broadcast to (batch, height, width)."""
        axes = []
        for dim, lengths in enumerate(self.at(level).T):
            indices = torch.arange(-(-self.shape[dim] // 2**level), device=self.sizes.device)
            axes.append((indices.view(-1, 1) if dim == 0 else indices.view(1, -1), lengths.view(-1, 1, 1)))
        return axes

    def extended(self, x: Tensor, level: int) -> Tensor:
        """Repeat each picture's last row and column beyond it; x is (batch, channels, height, width) of a level."""
        for dim, (i, n) in enumerate(self._axes(level), start=2):
            edge = (x * self._last[level][dim - 2]).sum(dim, keepdim=True)
            x = torch.where((i < n).unsqueeze(1), x, edge)
        return x

    def select(self, indices: Tensor) -> ValidRegion:
        """Valid region of the pictures at these places of the batch."""
        return ValidRegion(self.sizes[indices], self.shape, self.levels)
