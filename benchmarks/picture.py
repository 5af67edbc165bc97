"""A photo beside what is left of it at the size of a `.clric` file: JPEG, WebP, and the file itself.

python benchmarks/picture.py PHOTO FILE.clric -o comparison.png [--crop LEFT,TOP,WIDTH,HEIGHT]
"""

from __future__ import annotations

import io
from pathlib import Path

import click
import common
from PIL import Image, ImageDraw, ImageFont

import pillow_clric

LINE = 26  # pixels of the caption


def at_size(photo: Image.Image, codec: str, size: int) -> tuple[Image.Image, int]:
    """The photo in the best quality that fits, or in the worst there is, and the bytes that it takes."""
    for quality in range(95, -1, -1):
        buffer = io.BytesIO()
        options = {"optimize": True, "progressive": True} if codec == "JPEG" else {"method": 6}
        photo.save(buffer, codec, quality=quality, **options)
        if len(buffer.getvalue()) <= size or quality == 0:
            return Image.open(buffer).convert("RGB"), len(buffer.getvalue())
    raise AssertionError("unreachable")


@click.command()
@click.argument("photo", type=click.Path(exists=True, path_type=Path))
@click.argument("coded", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--crop", metavar="LEFT,TOP,WIDTH,HEIGHT", help="What to show; sizes and PSNR are of the whole photo.")
def main(photo: Path, coded: Path, output: Path, crop: str | None) -> None:
    """Put the same part of several versions of a photo side by side."""
    original = common.photo(photo).convert("RGB")
    data = coded.read_bytes()
    versions = [("original", original, photo.stat().st_size)]
    versions += [(name, *at_size(original, name, len(data))) for name in ("JPEG", "WEBP")]
    versions.append((".clric", pillow_clric.decode(data).convert("RGB"), len(data)))
    left, top, width, height = map(int, crop.split(",")) if crop else (0, 0, *original.size)
    sheet = Image.new("RGB", (len(versions) * width, height + LINE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, (name, version, size) in enumerate(versions):
        sheet.paste(version.crop((left, top, left + width, top + height)), (i * width, LINE))
        quality = "" if version is original else f", {common.psnr(original, version):.1f} dB"
        draw.text((i * width + 4, 4), f"{name}: {size:,} bytes{quality}", "black", font)
    sheet.save(output, optimize=True)


if __name__ == "__main__":
    main()
