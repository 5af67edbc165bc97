"""Rate-distortion curves from files of results."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from codec.metrics import decibels
from codec.training.bd_rate import Curve

# As results call them, and as people do.
METRICS = {"psnr": "PSNR", "msssim": "MS-SSIM", "ssimulacra2": "SSIMULACRA2", "lpips": "LPIPS"}


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
        pairs.append((bpp, decibels(value) if metric == "msssim" else value))
    return Curve.of(name, pairs)


def _by_image(points: list[dict[str, Any]]) -> dict[str, dict[float, dict[str, Any]]]:
    table: dict[str, dict[float, dict[str, Any]]] = defaultdict(dict)
    for point in points:
        table[point["image"]][point["quality"]] = point
    return table


def _complete(points: dict[str, dict[float, dict[str, Any]]]) -> set[str]:
    qualities = {quality for image in points.values() for quality in image}
    return {name for name, image in points.items() if image.keys() == qualities}
