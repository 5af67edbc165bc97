"""Rate-distortion curves: reading them from results, and comparing them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


METRICS = {"psnr": "PSNR", "msssim": "MS-SSIM", "lpips": "LPIPS"}  # as results call them, and as people do


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


def results_curves(paths: list[Path]) -> tuple[dict[str, list[Curve]], list[str]]:
    """Curves of files written by `rd.py`, by metric, and the names of the images that they are means over.

    These are the images that every file has at all of its qualities, and the metrics that every file has of all of its
    images: others would make curves incomparable.
    """
    loaded = {path.stem: json.loads(path.read_text())["points"] for path in paths}
    metrics = [metric for metric in METRICS if all(metric in p for points in loaded.values() for p in points)]
    files = {name: _by_image(points) for name, points in loaded.items()}
    images = sorted(set.intersection(*(_complete(points) for points in files.values())))
    if not images:
        raise ValueError("there is no image that all of these results have at all of their qualities")
    return {metric: [_mean_curve(*file, images, metric) for file in files.items()] for metric in metrics}, images


def anchor_curves(path: Path) -> list[Curve]:
    """Curves of PSNR from a file that holds {"name": [[bpp, psnr], ...], ...}."""
    return [Curve.of(name, [(bpp, psnr) for bpp, psnr in pts]) for name, pts in json.loads(path.read_text()).items()]


def _mean_curve(name: str, points: dict[str, dict[float, dict[str, Any]]], images: list[str], metric: str) -> Curve:
    pairs = []
    for quality in points[images[0]]:
        bpp, value = (float(np.mean([points[i][quality][key] for i in images])) for key in ("bpp", metric))
        pairs.append((bpp, _decibels(value) if metric == "msssim" else value))
    return Curve.of(name, pairs)


def _decibels(msssim: float) -> float:
    return -10 * math.log10(max(1 - msssim, 1e-10))


def _by_image(points: list[dict[str, Any]]) -> dict[str, dict[float, dict[str, Any]]]:
    table: dict[str, dict[float, dict[str, Any]]] = defaultdict(dict)
    for point in points:
        table[point["image"]][point["quality"]] = point
    return table


def _complete(points: dict[str, dict[float, dict[str, Any]]]) -> set[str]:
    qualities = {quality for image in points.values() for quality in image}
    return {name for name, image in points.items() if image.keys() == qualities}


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
