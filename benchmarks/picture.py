"""A photo beside what is left of it at the size of a `.clric` file: JPEG, WebP, AVIF, and the file itself.

python benchmarks/picture.py PHOTO FILE.clric -o comparison.png [--crop LEFT,TOP,WIDTH,HEIGHT]
"""

from __future__ import annotations

from bisect import bisect_right
from io import BytesIO
from pathlib import Path

import click
import numpy as np
from common import OTHERS, encode, photo
from PIL import Image, ImageDraw, ImageFont

import pillow_clric
from codec.training.validation import judge

NAMES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}
CAPTION = 46  # pixels above each version, for two lines
METADATA = ("colour", "exif", "icc", "xmp")


def at_size(image: Image.Image, codec: str, size: int) -> bytes:
    """The file of the best quality that fits, or of the worst there is."""

    def coded(quality: int) -> bytes:
        return encode(image, codec, quality, OTHERS[codec])

    best = bisect_right(range(101), size, key=lambda quality: len(coded(quality))) - 1
    return coded(max(0, best))


def caption(name: str, size: int, near: dict[str, float]) -> str:
    """Name and size of a version, and how near it is to the original."""
    return f"{name}: {size:,} bytes\n{near['psnr']:.1f} dB, SSIMULACRA2 {near['ssimulacra2']:.0f}"


def sheet(versions: dict[str, Image.Image], left: int, top: int, width: int, height: int) -> Image.Image:
    """The same part of each version, below its caption."""
    page = Image.new("RGB", (len(versions) * width, height + CAPTION), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for i, (text, version) in enumerate(versions.items()):
        page.paste(version.crop((left, top, left + width, top + height)), (i * width, CAPTION))
        draw.text((i * width + 4, 4), text, "black", font)
    return page


@click.command()
@click.argument("source", metavar="PHOTO", type=click.Path(exists=True, path_type=Path))
@click.argument("coded", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--crop", metavar="LEFT,TOP,WIDTH,HEIGHT", help="What to show; sizes and figures are of the whole photo.")
def main(source: Path, coded: Path, output: Path, crop: str | None) -> None:
    """Put the same part of several versions of a photo side by side."""
    original, data = photo(source).convert("RGB"), coded.read_bytes()
    sections = pillow_clric.info(data).sections
    size = len(data) - sum(sections.get(name, 0) for name in METADATA)
    others = {name: at_size(original, codec, size) for codec, name in NAMES.items()}
    versions = [(name, len(file), Image.open(BytesIO(file)).convert("RGB")) for name, file in others.items()]
    versions.append((".clric", size, pillow_clric.decode(data).convert("RGB")))
    shown = {f"original: {source.stat().st_size:,} bytes": original}
    pixels = np.asarray(original)
    shown |= {caption(name, count, judge(pixels, np.asarray(made))): made for name, count, made in versions}
    box = map(int, crop.split(",")) if crop else (0, 0, *original.size)
    sheet(shown, *box).save(output, optimize=True)


if __name__ == "__main__":
    main()
