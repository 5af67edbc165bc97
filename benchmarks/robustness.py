"""Outcomes of damaged and hostile files: each must be a picture or an `OSError`, soon, and in little memory.

python benchmarks/robustness.py --files 10000
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import click
from common import peak, photo
from PIL import Image, ImageFile

import pillow_clric
from codec.container import DamageWarning, Section, unpack
from codec.profiles import names

sys.path.append(str(Path(__file__).parents[1] / "tests" / "fuzz"))

from harness import edited, opened

ROOT = Path(__file__).parents[1]
SIDE = 1024  # larger pictures are opened and verified only: how long they may take is for applications to say


def sources() -> list[bytes]:
    """The golden files, with their model, and some of small photos with metadata, in all profiles."""
    os.environ["CLRIC_MODELS"] = str(ROOT / "tests" / "golden")
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    options: dict[str, Any] = {"effort": 1, "exif": exif, "icc_profile": b"a profile", "xmp": b"<x:xmpmeta/>"}
    crops = [photo(ROOT / "samples" / "coffee.png").crop((300, 120, 300 + width, 200)) for width in (96, 33)]
    fresh = [
        pillow_clric.encode(crop.convert(mode), profile=profile, **options)
        for crop in crops
        for profile in names()
        for mode in ("RGB", "L")
    ]
    return fresh + [path.read_bytes() for path in sorted((ROOT / "tests" / "golden").glob("*.clric"))]


def changed(random: Random, data: bytes, other: bytes) -> bytes:
    """Some bytes replaced, cut out or put in, at random, alike, or from another file."""
    for _ in range(random.choice((1, 1, 2, 4))):
        at, there, length = random.randint(0, len(data)), random.randrange(len(other)), random.choice((1, 1, 2, 8))
        alike = bytes(length), b"\xff" * length, random.randbytes(length), other[there : there + length]
        data = data[:at] + random.choice((*alike, b"")) + data[at + random.choice((length, length, length, 0)) :]
    return data


def mutant(random: Random, files: list[bytes]) -> tuple[str, bytes]:
    """A file made of one or two others, and how: checksums find the first three kinds and match in the others."""
    kind = random.choice(("bytes", "truncation", "splice", "header", "WEIGHTS", "WEIGHTS", "GRIDS", "EXIF"))
    data, other = random.sample(files, 2)
    if kind == "truncation":
        return kind, data[: random.randrange(len(data))]
    if kind == "splice":
        return kind, data[: random.randrange(len(data))] + other[random.randrange(len(other)) :]
    if kind == "bytes" or (kind == "EXIF" and b"Maker" not in data):
        return "bytes", changed(random, data, other)
    if kind in ("WEIGHTS", "GRIDS") and Section[kind] not in (there := unpack(data).sections):
        kind = "GRIDS" if Section.GRIDS in there else "PACKETS"
    return kind, edited(data, Section.__members__.get(kind), lambda part: changed(random, part, other))


def outcome(data: bytes) -> str:
    """Outcome of a file; raises an error that no file may raise."""
    try:
        with opened(data) as image:
            image.verify()
        with opened(data) as image:
            if max(image.size) > SIDE:
                return "large"
            image.load()
            return "picture"
    except OSError as error:
        return type(error).__name__
    except Image.DecompressionBombError:
        return "large"


def open_times(files: list[bytes], count: int) -> list[float]:
    """Seconds that opening each of so many files on disk takes, headers and metadata alone."""
    times = []
    with TemporaryDirectory() as folder:
        paths = [Path(folder, f"{i}.clric") for i in range(count)]
        for i, path in enumerate(paths):
            path.write_bytes(files[i % len(files)])
        for path in paths:
            start = time.perf_counter()
            with Image.open(path):
                times.append(time.perf_counter() - start)
    return times


@click.command()
@click.option("--files", "count", type=click.IntRange(1), default=10000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder for files that are findings.")
def main(count: int, seed: int, keep: Path | None) -> None:
    """Load and verify many mutants of a few files; then open 1,000 files."""
    for ignored in (Image.DecompressionBombWarning, DamageWarning):
        warnings.simplefilter("ignore", ignored)
    random, files = Random(seed), sources()
    for data in files:
        outcome(data)
    before, found, findings, slowest = peak(), Counter[tuple[str, str]](), 0, (0.0, -1)
    for i in range(count):
        kind, data = mutant(random, files)
        ImageFile.LOAD_TRUNCATED_IMAGES = random.random() < 0.5
        start = time.perf_counter()
        try:
            found[kind, outcome(data)] += 1
        except Exception as error:
            findings += 1
            click.echo(f"file {i} ({kind}): {error!r}", err=True)
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{i}.clric").write_bytes(data)
        slowest = max(slowest, (time.perf_counter() - start, i))
    for (kind, what), number in sorted(found.items()):
        click.echo(f"{kind:12} {what:24} {number:6}")
    times = sorted(open_times(files, 1000))
    half, most, all_of_them = (1000 * times[i] for i in (499, 989, 999))
    click.echo(
        f"{count} files: {findings} findings; the slowest took {slowest[0]:.2f} s (file {slowest[1]}); "
        f"memory grew by {peak() - before:.0f} MB at most, from {before:.0f}\n"
        f"opening: half of 1000 files within {half:.2f} ms, 99 % within {most:.2f} ms, all within {all_of_them:.2f} ms"
    )
    sys.exit(findings > 0)


if __name__ == "__main__":
    main()
