"""Rate-distortion curves, and how they compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Mean of a metric over mean bits per pixel, by the metric's rising values; rates may rise or fall with them."""

    name: str
    bpp: Floats
    values: Floats

    @classmethod
    def of(cls, name: str, points: list[tuple[float, float]]) -> Curve:
        """From (bpp, value) in any order; of equal values, the one of the least rate counts."""
        bpp, values = np.array(sorted(points)).reshape(-1, 2).T
        values, first = np.unique(values, return_index=True)
        return cls(name, bpp[first], values)


def bd_rate(curve: Curve, reference: Curve) -> float | None:
    """Bjontegaard's delta: mean change of rate at equal quality, in percent; less than 0 is better than the reference.

    Logarithms of the rates are interpolated over the metric, piecewise cubic so that they keep to the data's shape
    (PCHIP). None if the curves have no range of the metric in common.
    """
    if not (len(curve.values) and len(reference.values)):
        return None
    low, high = max(curve.values[0], reference.values[0]), min(curve.values[-1], reference.values[-1])
    if low >= high:
        return None
    logs = [PchipInterpolator(c.values, np.log(c.bpp)).integrate(low, high) / (high - low) for c in (curve, reference)]
    return float(100 * np.expm1(logs[0] - logs[1]))
