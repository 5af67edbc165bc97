"""Quantisation of weights in which those that follow make up for the error of each.

The optimal brain surgeon (Hassibi & Stork, 1992) applied to rounding (Frantar et al., "Optimal brain compression",
2022), with the bits of what is rounded to in the balance. NumPy only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from codec.entropy.integer_arm import WEIGHT_BITS
from codec.entropy.tables import HIGH_RATE_SLOPE
from codec.overfit.bitstream import magnitude_bits, weight_bits

DAMPING = 1e-3  # curvature that is added to all weights, relative to their mean
FINER = 1  # by how many exponents steps are finer than theory has them for weights that are rounded alone
PASSES = 2  # the first one finds how probable magnitudes are

Floats = NDArray[np.float64]


def compensated(
    differences: list[Floats], curvature: Floats, price: float, bounds: list[int]
) -> tuple[list[int], list[NDArray[np.int32]]]:
    """Exponents of the steps of some tensors, and the integers that they are quantised to.

    Args:
        differences: of the tensors to their origins.
        curvature: (n, n), second derivatives of the cost in all n weights, one tensor after the other.
        price: cost of a bit.
        bounds: greatest magnitude by exponent.
    """
    sizes = [tensor.size for tensor in differences]
    upper = _factor(curvature, price)
    ends = np.cumsum(sizes)[:-1]
    exponents = [_exponent(np.median(spreads), price) for spreads in np.split(upper.diagonal(), ends)]
    steps = [np.exp2(-exponent) for exponent in exponents]
    limits = [bounds[exponent] for exponent in exponents]
    integers = [
        np.clip(np.rint(tensor / step), -limit, limit).astype(np.int32)
        for tensor, step, limit in zip(differences, steps, limits, strict=True)
    ]
    flat, each = np.concatenate([tensor.reshape(-1) for tensor in differences]), np.repeat(steps, sizes)
    for _ in range(PASSES):
        costs = [price * magnitude_bits(weight_bits(tensor)[1]) for tensor in integers]
        chosen = _rounded(flat, upper, each, np.repeat(limits, sizes), np.repeat(np.arange(len(sizes)), sizes), costs)
        integers = [
            part.reshape(tensor.shape) for part, tensor in zip(np.split(chosen, ends), differences, strict=True)
        ]
    return exponents, integers


def _factor(curvature: Floats, price: float) -> Floats:
    """Upper Cholesky factor U of the inverse: an error e in weight i costs (e / U[i, i])**2 / 2, as those after adapt.

    Damped so that a weight on which nothing depends is worth half a bit for each unit, squared, that it moves.
    """
    damping = DAMPING * curvature.diagonal().mean() + price
    factor: Floats = np.linalg.cholesky(np.linalg.inv(curvature + damping * np.eye(len(curvature)))).T
    return factor


def _exponent(spread: float, price: float) -> int:
    """Exponent of the step at which a finer one would cost as many bits more as it spares error."""
    step = math.sqrt(2 * price / HIGH_RATE_SLOPE) * spread
    return min(max(round(-math.log2(step)) + FINER, 0), WEIGHT_BITS)


def _rounded(
    differences: Floats, upper: Floats, steps: Floats, limits: NDArray[np.int64], owners: NDArray[np.int64],
    costs: list[Floats],
) -> NDArray[np.int32]:  # fmt: skip
    """Integers for all weights, one after the other; `costs` are those of magnitudes, by tensor."""
    left, chosen = differences.copy(), np.zeros(len(differences), np.int32)
    for i, (step, limit) in enumerate(zip(steps.tolist(), limits.tolist(), strict=True)):
        value, spread, of_magnitude = left[i] / step, upper[i, i], costs[owners[i]]
        nearest = min(max(round(value), -limit), limit)
        tried = {nearest, nearest - (nearest > 0) + (nearest < 0), 0}
        last = len(of_magnitude) - 1
        chosen[i] = min(tried, key=lambda k: ((value - k) * step / spread) ** 2 / 2 + of_magnitude[min(abs(k), last)])
        left[i:] -= (left[i] - chosen[i] * step) / spread * upper[i, i:]
    return chosen
