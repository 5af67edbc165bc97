"""Sizes of files beside those that are asked for, and the time that it takes.

python benchmarks/targets.py FOLDER --pairs 100 --effort 1 --json targets.json
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

import click
from common import chosen, machine, photo, write

import pillow_clric


def measure(path: Path, bpp: float, options: dict[str, Any]) -> dict[str, Any]:
    """One photo at one target, beside a plain encode of about that size."""
    image = photo(path)
    target = int(bpp * image.width * image.height / 8)
    start = time.perf_counter()
    try:
        size = len(pillow_clric.encode(image, target_size=target, **options))
    except ValueError as error:
        return {"image": path.stem, "target": target, "error": str(error)}
    middle = time.perf_counter()
    pillow_clric.encode(image, quality=50, **options)
    seconds = {"seconds": middle - start, "plain_seconds": time.perf_counter() - middle}
    return {"image": path.stem, "target": target, "size": size, "gap": 1 - size / target, **seconds}


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--pairs", type=click.IntRange(1), default=100, show_default=True)
@click.option("--bpp", nargs=2, type=float, default=(0.04, 0.35), show_default=True, help="Least and greatest target.")
@click.option("--profile", default="clric", show_default=True)
@click.option("--effort", type=click.IntRange(1, 9), default=5, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), required=True, help="File of results.")
def main(folder: Path, pairs: int, bpp: tuple[float, float], profile: str, effort: int, seed: int, out: Path) -> None:
    """Code random photos of FOLDER to random sizes, evenly distributed in their logarithm."""
    random = Random(seed)
    paths = chosen(folder)
    options: dict[str, Any] = {"profile": profile, "effort": effort}
    pillow_clric.encode(photo(paths[0]).resize((64, 64)), **options)  # what a process does once
    points = []
    for _ in range(pairs):
        part = random.random()
        points.append(measure(random.choice(paths), bpp[0] ** (1 - part) * bpp[1] ** part, options))
        click.echo(points[-1], err=True)
    write(out, {"machine": machine(1), "options": options, "bpp": bpp, "points": points})
    found = [point for point in points if "size" in point]
    gaps = sorted(point["gap"] for point in found)
    ratio = sum(p["seconds"] for p in found) / sum(p["plain_seconds"] for p in found)
    click.echo(
        f"{len(found)} of {pairs} possible; over: {sum(gap < 0 for gap in gaps)}; gap: median {median(gaps):.2%}, "
        f"mean {mean(gaps):.2%}, largest {gaps[-1]:.2%}, more than 3 %: {sum(gap > 0.03 for gap in gaps)}; "
        f"{ratio:.2f} times as long as plain encodes"
    )


if __name__ == "__main__":
    main()
