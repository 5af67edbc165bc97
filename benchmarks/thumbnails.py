"""Time that small versions of a large photo take, beside the full-size one, and their distance from it.

python benchmarks/thumbnails.py PHOTO --megapixels 12 --json thumbnails.json
"""

from __future__ import annotations

import math
import time
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import metrics
import torch
from common import machine, photo, table, write
from PIL import Image

import pillow_clric
from codec import SCALES

THUMBNAIL = 128  # pixels


def enlarged(image: Image.Image, megapixels: float) -> Image.Image:
    """A photo of so many pixels: this one many times, each a little larger than before, so that no two are alike."""
    factor = math.sqrt(megapixels * 1e6 / (image.width * image.height))
    large = Image.new(image.mode, (round(factor * image.width), round(factor * image.height)))
    for i, y in enumerate(range(0, large.height, image.height)):
        for j, x in enumerate(range(0, large.width, image.width)):
            size = tuple(round(side * (1 + 0.1 * i + 0.02 * j)) for side in image.size)
            large.paste(image.resize((size[0], size[1])).crop((0, 0, *image.size)), (x, y))
    return large


def small_version(data: bytes, scale: int) -> Image.Image:
    """The image, smaller by `scale`, as `Image.draft` gives it."""
    image = Image.open(BytesIO(data))
    image.draft(None, (image.width // scale, image.height // scale))
    image.load()
    return image


def thumbnail(data: bytes) -> Image.Image:
    """Thumbnail that a file manager shows."""
    image = Image.open(BytesIO(data))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


@click.command()
@click.argument("path", metavar="PHOTO", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--megapixels", default=12.0, show_default=True)
@click.option("--profile", default="clric", show_default=True)
@click.option("--quality", default=60.0, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--json", "out", metavar="OUT", type=click.Path(path_type=Path), required=True, help="File of results.")
def main(path: Path, megapixels: float, profile: str, quality: float, threads: int, out: Path) -> None:
    """Measure small versions of PHOTO, made as large as asked for: processor time and PSNR against the full size."""
    torch.set_num_threads(threads)
    data = pillow_clric.encode(enlarged(photo(path), megapixels), profile=profile, quality=quality, effort=1)
    thumbnail(data)  # so that what a process does once is in no time
    start = time.process_time()
    full = pillow_clric.decode(data)
    seconds = time.process_time() - start
    results: dict[str, Any] = {"machine": machine(threads), "size": full.size, "bytes": len(data), "profile": profile}
    results["whole_s"], results["points"] = seconds, []
    small = full.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    cases = [(f"1/{scale}", partial(small_version, data, scale), full.reduce(scale)) for scale in SCALES]
    for name, make, wanted in [*cases, (f"thumbnail, {THUMBNAIL}", partial(thumbnail, data), small)]:
        start = time.process_time()
        made = make()
        taken = time.process_time() - start
        psnr = metrics.measure(wanted, made, None)["psnr"]
        results["points"].append({"name": name, "seconds": taken, "times_faster": seconds / taken, "psnr": psnr})
    write(out, results)
    rows = [["version", "processor s", "times faster", "PSNR, dB"], ["whole", f"{seconds:.2f}", "1.0", ""]]
    rows += [
        [p["name"], f"{p['seconds']:.2f}", f"{p['times_faster']:.1f}", f"{p['psnr']:.1f}"] for p in results["points"]
    ]
    click.echo(table(rows))


if __name__ == "__main__":
    main()
