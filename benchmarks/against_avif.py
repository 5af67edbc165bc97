"""Whole files of a profile against AVIF of equal size, by judges that it was not fitted with.

    python benchmarks/against_avif.py FOLDER --profile msp --effort 3 --json msp-effort3.json

Mean PSNR, MS-SSIM in dB and SSIMULACRA2 of the photos in FOLDER by quality, and BD-rates up to 1 bit per pixel, and
from there on, against AVIF as Pillow writes it at speed 4. What AVIF makes is kept in --cache. Times are of one picture
after another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from statistics import mean
from typing import Any

import click
import numpy as np
import torch
from common import ONLY, chosen, machine, numbers, table, write
from numpy.typing import NDArray
from PIL import Image

import codec
from codec.training.data import read_rgb
from codec.training.validation import AVIF_QUALITIES, JUDGES, MOST, avif, compare, judge

ANCHOR = (*AVIF_QUALITIES, 95, 98)
RANGES = {"bd_rate": (0, MOST), "bd_rate_above": (0.9 * MOST, math.inf)}

Point = dict[str, float]
Coding = Callable[[NDArray[np.uint8]], tuple[bytes, NDArray[np.uint8], dict[str, float]]]


def ours(profile: str, effort: int, quality: float) -> Coding:
    """Coding by one of our profiles."""

    def code(picture: NDArray[np.uint8]) -> tuple[bytes, NDArray[np.uint8], dict[str, float]]:
        start = time.monotonic()
        data = codec.encode(picture, profile=profile, effort=effort, quality=quality)
        coded = time.monotonic()
        made = codec.decode(data)
        return data, made, {"encode_s": coded - start, "decode_s": time.monotonic() - coded}

    return code


def theirs(quality: int, cache: Path) -> Coding:
    """Coding by AVIF."""

    def code(picture: NDArray[np.uint8]) -> tuple[bytes, NDArray[np.uint8], dict[str, float]]:
        data = avif(picture, quality, cache)
        return data, read_rgb(BytesIO(data)), {}

    return code


def point(photos: Iterable[NDArray[np.uint8]], code: Coding) -> Point:
    """Means over photos; times are for a megapixel."""
    rows = []
    for photo in photos:
        data, made, times = code(photo)
        pixels = photo[..., 0].size
        each = {name: seconds / pixels * 1e6 for name, seconds in times.items()}
        rows.append({"bpp": 8 * len(data) / pixels, **judge(photo, made), **each})
    return {key: round(mean(row[key] for row in rows), 4) for key in rows[0]}


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--profile", default="msp", show_default=True)
@click.option("--effort", type=int, default=3, show_default=True)
@click.option("--qualities", type=numbers, default="10,25,40,55,70,80,90,97", show_default=True)
@ONLY
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default="avif", show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write all figures.")
def main(
    folder: Path, profile: str, effort: int, qualities: list[float], only: str, threads: int, cache: Path,
    output: Path | None,
) -> None:  # fmt: skip
    """Compare a profile's files with AVIF's, for the photos in FOLDER."""
    torch.set_num_threads(threads)
    cache.mkdir(parents=True, exist_ok=True)
    paths = chosen(folder, only)
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    points: list[Point] = []
    for quality in qualities:
        points.append({"quality": quality, **point(photos, ours(profile, effort, quality))})
        click.echo(points[-1])
    anchor = [point(photos, theirs(quality, cache)) for quality in ANCHOR]
    changes = {
        name: {metric: compare(points, anchor, metric, rates) for metric in JUDGES} for name, rates in RANGES.items()
    }
    click.echo(table([list(points[0]), *([f"{value:.3f}" for value in row.values()] for row in points)]))
    for name, (least, most) in RANGES.items():
        click.echo(f"BD-rate against AVIF from {least:g} to {most:g} bpp, %: {changes[name]}")
    if output:
        figures: dict[str, Any] = {"profile": profile, "effort": effort, "photos": [path.stem for path in paths]}
        write(output, {**machine(threads), **figures, **changes, "points": points, "avif": anchor})


if __name__ == "__main__":
    main()
