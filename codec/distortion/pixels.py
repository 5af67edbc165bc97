"""Distortions of samples: squared and structural errors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

WINDOW, STRIDE, SCALES = 8, 4, 4
LEAST = WINDOW << (SCALES - 1)  # side of pictures that have a structural error
STABILISER = 0.03**2
STRUCTURE = 0.01  # weight of the structural error beside the squared one
COARSE, SIDES = 0.5, (4, 8, 16, 32)  # weight of the coarse error, and the sides of its squares


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error of pictures (batch, 3, h, w): (batch,)."""
    return (a - b).square().mean((1, 2, 3))


def structural_error(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of 1 - SSIM's contrast and structure over scales, of pictures (batch, 3, h, w) in 0..1: (batch,), 0 to 2.

    Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", 2003, with square
    windows and no term for luminance. Sides must be at least `LEAST`; weights (batch, 1, h, w) are all 1 by default.
    """
    a, b = a.contiguous(), b.contiguous()  # which pooling is faster for, of so few channels
    total = a.new_zeros(len(a))
    for scale in range(SCALES):
        if scale:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
            weights = None if weights is None else F.avg_pool2d(weights, 2)
        mean_a, mean_b = _pooled(a), _pooled(b)
        variances = _pooled(a * a + b * b) - mean_a.square() - mean_b.square()
        covariance = _pooled(a * b) - mean_a * mean_b
        similarity = (2 * covariance + STABILISER) / (variances + STABILISER)
        missing = (1 - similarity) if weights is None else (1 - similarity) * _pooled(weights)
        total = total + missing.mean((1, 2, 3)) / SCALES
    return total


def coarse_error(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Squared errors of means over squares of some sides, summed, of pictures (batch, 3, h, w): (batch,).

    The finer a pattern, the less of an error in it is seen; and a shift of a whole region, which the structural error
    does not know, is seen before any grain of the same energy.

    Args:
        weights: of each pixel's error, (batch, 1, h, w); all 1 by default.
    """
    difference, total = a - b, a.new_zeros(len(a))
    for side in SIDES:
        squares = _means(difference, side).square()
        total = total + (squares if weights is None else squares * _means(weights, side)).mean((1, 2, 3))
    return total


def picture_error(made: Tensor, picture: Tensor, weights: Tensor | None = None) -> Tensor:
    """Distortion of pictures (batch, 3, h, w): squared, coarse and, if they are large enough for one, structural error.

    Args:
        weights: of each pixel's error, (batch, 1, h, w); all 1 by default.

    Returns:
        (batch,)
    """
    squares = (made - picture).square()
    error = (squares if weights is None else squares * weights).mean((1, 2, 3))
    error = error + COARSE * coarse_error(made, picture, weights)
    if min(made.shape[2:]) < LEAST:
        return error
    return error + STRUCTURE * structural_error(made, picture, weights)


def _pooled(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, WINDOW, STRIDE)


def _means(x: Tensor, side: int) -> Tensor:
    """Means over squares (batch, c, ceil(h / side), ceil(w / side)); those at the edges may be smaller."""
    return F.avg_pool2d(x, side, ceil_mode=True, count_include_pad=False)
