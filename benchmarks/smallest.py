"""Profile vq's files beside those of equal size in profile clric and AVIF, which is made smaller in pixels for that.

    python benchmarks/smallest.py FOLDER --only kodim04,kodim19 --lpips WEIGHTS --sheet smallest.jpg

AVIF cannot be so small in the photo's own resolution. It is given the best by SSIMULACRA2 of some smaller ones, made
large again (bicubic). Profile msp stands beside them in its smallest files, which are larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from common import ONLY, chosen, machine, table, write
from numpy.typing import NDArray
from PIL import Image

import codec
from codec import metrics
from codec.lpips import Lpips
from codec.training.data import middle, read_rgb
from codec.training.validation import AVIF_SPEED, judge

Pixels = NDArray[np.uint8]
Coded = tuple[int, Pixels]

SMALLER = (1.0, 1.5, 2.0, 3.0, 4.0)


def avif(photo: Pixels, size: int, smaller: float) -> Coded | None:
    """The photo as AVIF of at most so many bytes, in fewer pixels; None if it takes more."""
    image = Image.fromarray(photo)
    small = image.resize((round(image.width / smaller), round(image.height / smaller)), Image.Resampling.LANCZOS)
    low, high, found = 0, 100, b""
    while low <= high:
        quality = (low + high) // 2
        buffer = BytesIO()
        small.save(buffer, "AVIF", quality=quality, speed=AVIF_SPEED)
        if buffer.tell() <= size:
            found, low = buffer.getvalue(), quality + 1
        else:
            high = quality - 1
    if not found:
        return None
    made = Image.fromarray(read_rgb(BytesIO(found))).resize(image.size, Image.Resampling.BICUBIC)
    return len(found), np.asarray(made)


def best_avif(photo: Pixels, size: int, smaller: Sequence[float]) -> Coded:
    """The photo as AVIF of at most so many bytes, in the number of pixels that SSIMULACRA2 likes best."""
    found = [made for factor in smaller if (made := avif(photo, size, factor))]
    return max(found, key=lambda made: judge(photo, made[1])["ssimulacra2"])


def coded(photo: Pixels, profile: str, **options: Any) -> Coded:
    """The photo in one of our profiles."""
    data = codec.encode(photo, profile=profile, **options)
    return len(data), codec.decode(data)


def ours(photo: Pixels, profile: str, size: int) -> Coded:
    """The photo in one of our profiles, of at most so many bytes, or as few as there can be."""
    try:
        return coded(photo, profile, target_size=size)
    except codec.BatchError:
        return coded(photo, profile, quality=0)


def codings(photo: Pixels) -> dict[str, Coded]:
    vq = coded(photo, "vq", quality=100)
    others = {profile: ours(photo, profile, vq[0]) for profile in ("clric", "msp")}
    return {"vq": vq, "avif": best_avif(photo, vq[0], SMALLER), **others}


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@ONLY
@click.option("--lpips", type=click.Path(exists=True, path_type=Path), required=True, help="Weights of LPIPS.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write all figures.")
@click.option(
    "--sheet", "picture", type=click.Path(path_type=Path), help="Write middles of the photos, and of all these."
)
def main(folder: Path, only: str, lpips: Path, output: Path | None, picture: Path | None) -> None:
    """Compare profile vq's largest files with others of their size, for the photos in FOLDER."""
    distance, rows, shown = Lpips.load(lpips), dict[str, list[dict[str, float]]](), []
    paths = chosen(folder, only)
    for photo in map(read_rgb, paths):
        made = codings(photo)
        for name, (size, pixels) in made.items():
            figures = {
                "bytes": size,
                **judge(photo, pixels),
                "lpips": metrics.measure(photo, pixels, distance)["lpips"],
            }
            rows.setdefault(name, []).append(figures)
        shown.append(np.hstack([middle(x, 256) for x in (photo, *(pixels for _, pixels in made.values()))]))
    means = {name: {k: round(float(np.mean([f[k] for f in all_])), 3) for k in all_[0]} for name, all_ in rows.items()}
    header = ["", *means["vq"]]
    click.echo(table([header, *([name, *map(str, figures.values())] for name, figures in means.items())]))
    if output:
        write(output, {**machine(torch.get_num_threads()), "photos": [path.stem for path in paths], "means": means})
    if picture:
        Image.fromarray(np.vstack(shown)).save(picture, quality=90)


if __name__ == "__main__":
    main()
