"""Time of `clric-convert` by number, size and sharing of files: no batch should take longer than in one process.

    python benchmarks/batches.py PHOTOS [--repeat N] [--json FILE]

For folders of 1, 2, 10 and 100 crops of 192 x 128 and 1, 2 and 10 of 1024 x 1024, encoded and decoded: seconds in one
process (`--jobs 1`), and those by default and with `--jobs 64` as ratios to it. Each is the least of N runs, in turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from common import chosen, machine, write
from PIL import Image

CASES = [((192, 128), n) for n in (1, 2, 10, 100)] + [((1024, 1024), n) for n in (1, 2, 10)]
JOBS = {"one process": ["--jobs", "1"], "default": [], "64": ["--jobs", "64"]}


def crops(photos: list[Path], size: tuple[int, int], count: int, folder: Path) -> None:
    """Write crops of so many pixels, or what is made larger to have so many."""
    width, height = size
    for i in range(count):
        with Image.open(photos[i % len(photos)]) as photo:
            picture = photo.convert("RGB")
        factor = max(width / picture.width, height / picture.height, 1)
        picture = picture.resize((round(factor * picture.width), round(factor * picture.height)))
        x, y = (i * 37 % (picture.width - width + 1), i * 53 % (picture.height - height + 1))
        picture.crop((x, y, x + width, y + height)).save(folder / f"{i}.png")


def seconds(source: Path, options: list[str]) -> float:
    """Time of a conversion of a folder, in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "pillow_clric.cli", str(source), "-o", out, "--quiet", *options]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        return time.perf_counter() - start


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--repeat", type=click.IntRange(1), default=2, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="File of results.")
def main(folder: Path, repeat: int, out: Path | None) -> None:
    """Compare conversions of the photos in FOLDER, or crops of them."""
    photos, rows = chosen(folder), []
    for size, count in CASES:
        with tempfile.TemporaryDirectory() as name:
            source, coded = Path(name) / "in", Path(name) / "coded"
            source.mkdir()
            crops(photos, size, count, source)
            command = [sys.executable, "-m", "pillow_clric.cli", str(source), "-o", str(coded), "--quiet"]
            subprocess.run(command, check=True)
            for direction, given in (("encode", source), ("decode", coded)):
                runs = [{jobs: seconds(given, how) for jobs, how in JOBS.items()} for _ in range(repeat)]
                least = {jobs: min(run[jobs] for run in runs) for jobs in JOBS}
                one = least["one process"]
                rows.append({"size": size, "files": count, "direction": direction, "seconds": least})
                ratios = ", ".join(f"{jobs} x {least[jobs] / one:.2f}" for jobs in JOBS if jobs != "one process")
                print(f"{count:4} of {size[0]} x {size[1]}, {direction}: {one:.2f} s; {ratios}", flush=True)
    if out:
        write(out, {"machine": machine(os.cpu_count() or 1), "rows": rows})


if __name__ == "__main__":
    main()
