"""Texture, where details may lie elsewhere without anyone's noticing, told from edges and smooth parts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# Squared mean of gradients in their mean square, and how far they are along one direction, both 0..1, from which on a
# patch has no texture to the one at which it has nothing else; and gradients that are those of smooth parts.
DENSE, ALONG, SMOOTH = (0.25, 0.45), (0.75, 0.35), 0.004


def texture(pictures: Tensor, patch: int) -> Tensor:
    """Part of each patch, 0..1, that is texture rather than edges: (batch, 1, h / patch, w / patch).

    Beside an edge few of a patch's gradients, and of those around it, are large, and they have one direction: noise is
    seen there as dots on what is smooth.

    Args:
        pictures: (batch, 3, h, w) in 0..1.
        patch: side of the squares that are told apart, in pixels; bounds were chosen for 8.
    """
    luma = pictures.mean(1, keepdim=True)
    down = F.pad(luma.diff(dim=2), (0, 0, 0, 1))
    right = F.pad(luma.diff(dim=3), (0, 1))

    def around(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.avg_pool2d(x, patch), 3, 1, 1, count_include_pad=False)

    sizes = (down.square() + right.square()).sqrt()
    energy = around(sizes.square()) + SMOOTH**2
    dense = around(sizes).square() / energy
    along = (around(down.square() - right.square()).square() + around(2 * down * right).square()).sqrt() / energy
    found: Tensor = _risen(dense, *DENSE) * _risen(along, *ALONG)
    return found


def _risen(x: Tensor, none: float, all_: float) -> Tensor:
    """Part of the way from one number to another, 0..1."""
    return ((x - none) / (all_ - none)).clamp(0, 1)
