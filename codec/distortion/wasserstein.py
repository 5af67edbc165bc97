"""Wasserstein distortion: pictures are alike if the local means and deviations of their features are.

Qiu, Ballé and Lee, "Wasserstein distortion: unifying fidelity and realism", 2024. Features that are alike at each place
are what pixel losses ask for; here textures count that look the same, wherever their details lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

LEVELS = 4  # sides of the windows are 2, 4 ... 2**LEVELS samples
STABILISER = 1e-4  # of variances, in those of the features: roots of zero have no gradient


def wasserstein(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Distance of the distributions of features in windows, taken for Gaussian ones: (batch,), 0 or more.

    Args:
        features: maps (batch, channels, h, w) of some resolutions, sides multiples of 2**LEVELS or smaller than that.
        wanted: those of the pictures that are to be looked like. Maps count by their own energy: all maps alike.
    """
    total = features[0].new_zeros(len(features[0]))
    for found, goal in zip(features, wanted, strict=True):
        energy = goal.square().mean()
        (mean, square), (goal_mean, goal_square) = (found, found.square()), (goal, goal.square())
        for _ in range(min(LEVELS, min(found.shape[2:]).bit_length() - 1)):
            mean, square, goal_mean, goal_square = (F.avg_pool2d(x, 2) for x in (mean, square, goal_mean, goal_square))
            deviation = _deviation(mean, square, energy)
            goal_deviation = _deviation(goal_mean, goal_square, energy)
            error = (mean - goal_mean).square() + (deviation - goal_deviation).square()
            total = total + error.mean((1, 2, 3)) / (LEVELS * len(features) * energy)
    return total


def _deviation(mean: Tensor, square: Tensor, energy: Tensor) -> Tensor:
    return ((square - mean.square()).clamp_min(0) + STABILISER * energy).sqrt()
