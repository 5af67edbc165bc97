"""Pictures as patches of PATCH x PATCH pixels, whose samples are channels in the order of torch's `pixel_unshuffle`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders.networks.transform_config import PATCH, PIXELS

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Rows = TypeVar("Rows", Floats, "Tensor")


def means(rows: Rows, scale: int) -> Rows:
    """Means of the rows (PIXELS, n) that belong to areas of scale x scale pixels: (PIXELS / scale**2, n).

    Args:
        rows: an array or a tensor.
    """
    side = PATCH // scale
    found: Rows = rows.reshape(3, side, scale, side, scale, -1).mean((2, 4)).reshape(3 * side**2, -1)
    return found


def of_patches(patches: Floats) -> Floats:
    """Picture (3, side * h, side * w) of patches (h, w, 3 * side**2)."""
    height, width, count = patches.shape
    side = math.isqrt(count // 3)
    parts = patches.reshape(height, width, 3, side, side).transpose(2, 0, 3, 1, 4)
    return parts.reshape(3, height * side, width * side)


def to_patches(picture: Floats) -> Floats:
    """Patches (h, w, PIXELS) of a picture (3, height, width), whose last rows and columns are repeated."""
    below, right = (-length % PATCH for length in picture.shape[1:])
    picture = np.pad(picture, ((0, 0), (0, below), (0, right)), "edge")
    rows, columns = (length // PATCH for length in picture.shape[1:])
    return picture.reshape(3, rows, PATCH, columns, PATCH).transpose(1, 3, 0, 2, 4).reshape(rows, columns, PIXELS)
