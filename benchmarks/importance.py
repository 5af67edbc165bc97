"""Importance: PSNR inside and outside of a mask at equal bytes, with the mask as `importance=` and without.

    python benchmarks/importance.py FOLDER --json importance.json --pictures OUT

FOLDER has Kodak's photos. Masks are ellipses with a soft edge over a face or the main thing, 16 to 23 % of the area;
for slow profiles, of the middle of the ellipse, a square of 256 pixels with a disc. Inside is where the mask is white
and outside where it is black, each weighted by that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from common import machine, table, write
from numpy.typing import NDArray
from PIL import Image

import pillow_clric
from codec.importance import RATIO

Pixels = NDArray[np.uint8]

# Centre and radii of ellipses, in parts of width and height
ELLIPSES = {
    "kodim04": (0.52, 0.42, 0.25, 0.24),  # a face
    "kodim14": (0.44, 0.58, 0.38, 0.18),  # a raft
    "kodim15": (0.645, 0.5, 0.21, 0.33),  # a face
    "kodim18": (0.55, 0.55, 0.17, 0.38),  # a person
    "kodim19": (0.62, 0.32, 0.2, 0.27),  # a lighthouse
    "kodim23": (0.70, 0.43, 0.19, 0.36),  # a parrot
}
DISC = 0.5, 0.5, 0.26, 0.26
FEATHER = 0.15  # of the radii, on both sides of the edge
CROP = 256


class Case(NamedTuple):
    """Settings of an encode, sizes in bits per pixel, and whether a crop is coded."""

    profile: str
    effort: int
    sizes: tuple[float, ...]
    photos: tuple[str, ...]
    crop: bool = False


SOME = "kodim04", "kodim14", "kodim23"
CASES = [
    Case("msp", 3, (0.1, 0.3), tuple(ELLIPSES)),
    Case("vq", 3, (0.01, 0.015), tuple(ELLIPSES)),
    Case("clric", 5, (0.1,), SOME, crop=True),
    Case("coolchic", 1, (0.3,), SOME, crop=True),
    Case("msp", 5, (0.1,), SOME),
]


def ellipse(height: int, width: int, x: float, y: float, across: float, down: float) -> Pixels:
    """Mask of an ellipse, 255 inside."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot((columns / width - x) / across, (rows / height - y) / down)
    samples: Pixels = np.rint(255 * np.clip((1 + FEATHER - distance) / (2 * FEATHER), 0, 1)).astype(np.uint8)
    return samples


def pair(path: Path, crop: bool) -> tuple[Image.Image, Pixels]:
    """A photo and its mask, or the middle of what is masked and a disc."""
    with Image.open(path) as image:
        photo = image.convert("RGB")
    x, y, *_ = ELLIPSES[path.stem]
    if not crop:
        return photo, ellipse(photo.height, photo.width, *ELLIPSES[path.stem])
    left, top = max(0, int(x * photo.width) - CROP // 2), max(0, int(y * photo.height) - CROP // 2)
    return photo.crop((left, top, left + CROP, top + CROP)), ellipse(CROP, CROP, *DISC)


def psnr(one: Image.Image, other: Image.Image, weights: NDArray[np.floating]) -> float:
    """PSNR in dB, of pixels by their weights."""
    squares = np.square(np.asarray(one).astype(float) - np.asarray(other)).mean(-1)
    return 10 * math.log10(255**2 * weights.sum() / (squares * weights).sum())


def measured(case: Case, name: str, bpp: float, folder: Path, pictures: Path | None) -> dict[str, Any]:
    """Figures of one photo, without importance and with it."""
    photo, mask = pair(folder / f"{name}.png", case.crop)
    inside, row = mask / 255, {"photo": name, "area": round(float(mask.mean()) / 255, 3)}
    for key, importance in (("without", None), ("with", mask)):
        start = time.monotonic()
        data = pillow_clric.encode(
            photo, profile=case.profile, effort=case.effort, target_bpp=bpp, importance=importance
        )
        seconds = time.monotonic() - start
        made = pillow_clric.decode(data)
        row[key] = {
            "bytes": len(data), "seconds": round(seconds, 1), "inside": round(psnr(made, photo, inside), 2),
            "outside": round(psnr(made, photo, 1 - inside), 2),
            "all": round(psnr(made, photo, np.ones_like(inside)), 2),
        }  # fmt: skip
        if pictures:
            made.save(pictures / f"{case.profile}{case.effort}-{name}-{bpp}-{key}.png")
    return row


def results(folder: Path, pictures: Path | None) -> Iterator[dict[str, Any]]:
    """Figures of each case and size."""
    for case in CASES:
        for bpp in case.sizes:
            rows = [measured(case, name, bpp, folder, pictures) for name in case.photos]
            yield {**case._asdict(), "sizes": None, "bpp": bpp, "photos": rows}


def summary(result: dict[str, Any]) -> list[str]:
    """A row of the table."""
    change = {
        key: mean(row["with"][key] - row["without"][key] for row in result["photos"])
        for key in ("inside", "outside", "all")
    }
    part = mean(row["with"]["bytes"] / row["without"]["bytes"] for row in result["photos"])
    least, most = (f(row["with"]["inside"] - row["without"]["inside"] for row in result["photos"]) for f in (min, max))
    crop = f", {CROP} x {CROP}" if result["crop"] else ""
    return [
        f"`{result['profile']}`, effort {result['effort']}{crop}", str(len(result["photos"])), f"{result['bpp']:g}",
        f"{100 * part:.1f} %", f"{change['inside']:+.2f}", f"{least:+.2f} to {most:+.2f}",
        f"{change['outside']:+.2f}", f"{change['all']:+.2f}",
    ]  # fmt: skip


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write all figures.")
@click.option("--pictures", type=click.Path(path_type=Path), help="Write decoded pictures to this folder.")
def main(folder: Path, threads: int, output: Path | None, pictures: Path | None) -> None:
    """Measure what importance does to Kodak's photos in FOLDER."""
    torch.set_num_threads(threads)
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    found = []
    for result in results(folder, pictures):
        found.append(result)
        click.echo(" | ".join(summary(result)))
        if output:
            write(output, {**machine(threads), "ratio": RATIO, "results": found})
    header = ["", "photos", "bpp", "bytes", "inside, dB", "of each", "outside, dB", "all, dB"]
    click.echo(table([header, *map(summary, found)]))


if __name__ == "__main__":
    main()
