"""Wasserstein distortion: pictures are alike if the local means and deviations of their features are.

Qiu, Ballé and Lee, "Wasserstein distortion: unifying fidelity and realism", 2024. Features that are alike at each place
are what pixel losses ask for; here textures count that look the same, wherever their details lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

LEVELS = 4  # sides of the windows are 1, 2, 4 ... 2**LEVELS samples
STABILISER = 1e-4  # of variances, in those of the features: roots of zero have no gradient


def wasserstein(features: Sequence[Tensor], wanted: Sequence[Tensor], sigma: Tensor) -> Tensor:
    """Distance of the distributions of features in windows, taken for Gaussian ones: (batch,), 0 or more.

    Args:
        features: maps (batch, channels, h, w) of some resolutions, the picture's first; sides are multiples of
            2**LEVELS, or smaller than that.
        wanted: those of the pictures that are to be looked like. Maps count by their own energy: all maps alike.
        sigma: logarithm to base 2 of the windows' sides, in samples of the first map: (batch, 1, any height, any
            width), which is the pictures' extent. At 0 or less features count as they are, at each sample; between
            two sides, both count.
    """
    total = features[0].new_zeros(len(features[0]))
    for found, goal in zip(features, wanted, strict=True):
        energy = goal.square().mean()
        levels = min(LEVELS, min(found.shape[2:]).bit_length() - 1)
        finer = math.log2(features[0].shape[2] / found.shape[2])
        moments = [found, found.square(), goal, goal.square()]
        for level in range(levels + 1):
            if level:
                moments = [F.avg_pool2d(x, 2) for x in moments]
            mean, square, goal_mean, goal_square = moments
            deviation = _deviation(mean, square, energy)
            goal_deviation = _deviation(goal_mean, goal_square, energy)
            error = (mean - goal_mean).square() + (deviation - goal_deviation).square()
            weight = _weights(sigma - finer, level, levels, error)
            total = total + (error * weight).mean((1, 2, 3)) / (len(features) * energy)
    return total


def _weights(sigma: Tensor, level: int, levels: int, error: Tensor) -> Tensor:
    """Part of each window of a level, (batch, 1, h, w) as the error; those of all levels up to `levels` add up to 1."""
    sides = F.interpolate(sigma, error.shape[2:], mode="bilinear").clamp(0, levels)
    return 1 - (sides - level).abs().clamp_max(1)


def _deviation(mean: Tensor, square: Tensor, energy: Tensor) -> Tensor:
    return ((square - mean.square()).clamp_min(0) + STABILISER * energy).sqrt()
