"""Rate-distortion curves, and how they compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        bpp, values = np.array(sorted(points)).T
        values, first = np.unique(values, return_index=True)
        return cls(name, bpp[first], values)


def bd_rate(curve: Curve, reference: Curve) -> float | None:
    """Bjontegaard's delta: mean change of rate at equal quality, in percent; less than 0 is better than the reference.

    Logarithms of the rates are interpolated over the metric; None if the curves have no range of it in common.
    """
    low, high = max(curve.values[0], reference.values[0]), min(curve.values[-1], reference.values[-1])
    if low >= high:
        return None
    count = 10_000
    values = low + (high - low) * (np.arange(count) + 0.5) / count
    logs = [interpolate(c.values, np.log(c.bpp), values) for c in (curve, reference)]
    return float(100 * np.expm1((logs[0] - logs[1]).mean()))


def interpolate(x: Floats, y: Floats, at: Floats) -> Floats:
    """Piecewise cubic interpolation that keeps to the data's shape (PCHIP; Fritsch and Butland, 1984), within x."""
    h = np.diff(x)
    d = _derivatives(h, np.diff(y) / h)
    i = np.clip(np.searchsorted(x, at) - 1, 0, len(h) - 1)
    t = (at - x[i]) / h[i]
    value: Floats = y[i] * (1 + 2 * t) * (1 - t) ** 2 + y[i + 1] * t**2 * (3 - 2 * t)
    return value + h[i] * t * (1 - t) * (d[i] * (1 - t) - d[i + 1] * t)


def _derivatives(h: Floats, slope: Floats) -> Floats:
    """At each point, from the intervals' lengths and slopes."""
    if len(slope) == 1:
        return np.repeat(slope, 2)
    d = np.zeros(len(h) + 1)
    w1, w2 = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    inner = np.flatnonzero(slope[:-1] * slope[1:] > 0)
    d[inner + 1] = ((w1 + w2)[inner]) / (w1[inner] / slope[inner] + w2[inner] / slope[inner + 1])
    d[0] = _end(h[0], h[1], slope[0], slope[1])
    d[-1] = _end(h[-1], h[-2], slope[-1], slope[-2])
    return d


def _end(h0: float, h1: float, slope0: float, slope1: float) -> float:
    """Derivative at an end: of the parabola through three points, unless that would overshoot."""
    d = ((2 * h0 + h1) * slope0 - h0 * slope1) / (h0 + h1)
    if d * slope0 <= 0:
        return 0.0
    return 3 * slope0 if slope0 * slope1 <= 0 and abs(d) > abs(3 * slope0) else d
