"""Photos a second of `clric-convert`, by engine and number of workers, and what a million of them take to plan.

python benchmarks/throughput.py FOLDER --counts 12,48 --workers local:1,local:2,ray:1,ray:2 --json throughput.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from common import chosen, machine, numbers, peak, photo, write

from pillow_clric.convert.plan import make_plan

_OBJECTS = 100_000  # that are planned


def converted(
    folder: Path, out: Path, engine: str, jobs: int, options: list[str]
) -> tuple[float, list[dict[str, Any]]]:
    """Seconds that converting a folder takes from start to end, and its records."""
    command = [sys.executable, "-m", "pillow_clric.cli", str(folder), "-o", str(out), "--engine", engine]
    start = time.perf_counter()
    found = subprocess.run(
        [*command, "-j", str(jobs), "--json", "--quiet", *options], stdout=subprocess.PIPE, text=True, check=True
    )
    return time.perf_counter() - start, [json.loads(line) for line in found.stdout.splitlines()]


def measure(photos: list[Path], counts: list[int], engine: str, jobs: int, options: list[str]) -> dict[str, Any]:
    """Seconds for each number of photos; between the first and the last number, photos and megapixels a second."""
    seconds, used, pixels = list[float](), list[float](), list[int]()
    with TemporaryDirectory() as folder:
        for count in counts:
            inputs, coded = Path(folder, f"in{count}"), Path(folder, f"out{count}")
            inputs.mkdir()
            for i in range(count):
                path = photos[i % len(photos)]
                (inputs / f"{i:06}{path.suffix}").symlink_to(path.resolve())
            before = _cpu_seconds()
            taken, records = converted(inputs, coded, engine, jobs, options)
            seconds.append(taken)
            used.append(_cpu_seconds() - before)
            pixels.append(sum(record["width"] * record["height"] for record in records))
    between = seconds[-1] - seconds[0]
    return {
        "engine": engine,
        "workers": jobs,
        "counts": counts,
        "seconds": seconds,
        "photos_per_second": (counts[-1] - counts[0]) / between,
        "megapixels_per_second": (pixels[-1] - pixels[0]) / 1e6 / between,
        # Ray's workers are nobody's children.
        "cpu_seconds_per_photo": None if engine == "ray" else (used[-1] - used[0]) / (counts[-1] - counts[0]),
        "start": seconds[0] - counts[0] * between / (counts[-1] - counts[0]),
    }


def _cpu_seconds() -> float:
    """Processor time of all processes that this one has started, and that have ended."""
    used = os.times()
    return used.children_user + used.children_system


def planned() -> dict[str, float]:
    """Seconds and bytes that planning takes for each object of a store that is in memory."""
    import fsspec

    store = fsspec.filesystem("memory")
    for i in range(_OBJECTS):
        store.pipe_file(f"/bucket/in/{i // 1000:03}/{i:08}.jpg", b"")
    before, start = peak(), time.perf_counter()
    plan = make_plan(["memory://bucket/in"], "memory://bucket/out/", recursive=True, overwrite=False)
    seconds, after = time.perf_counter() - start, peak()
    assert len(plan.jobs) == _OBJECTS
    return {"seconds": seconds / _OBJECTS, "bytes": 1e6 * (after - before) / _OBJECTS}


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--counts", default="12,48", show_default=True, help="Numbers of photos; speed is that between them.")
@click.option(
    "--workers", default="local:1,local:2,ray:1,ray:2", show_default=True, help="Engines and workers of each."
)
@click.option("--options", default="--device cpu", show_default=True, help="Others of clric-convert.")
@click.option("--json", "out", type=click.Path(path_type=Path), required=True, help="File of results.")
def main(folder: Path, counts: str, workers: str, options: str, out: Path) -> None:
    """Convert the photos of FOLDER, each as often as it takes."""
    photos = chosen(folder)
    click.echo(f"{sum(photo(path).width * photo(path).height for path in photos) / 1e6 / len(photos):.2f} MP a photo")
    results: dict[str, Any] = {"machine": machine(1), "options": options, "plan": planned(), "runs": []}
    for engine, jobs in (given.split(":") for given in workers.split(",")):
        results["runs"].append(measure(photos, [*map(int, numbers(counts))], engine, int(jobs), options.split()))
        click.echo(results["runs"][-1])
        write(out, results)
    click.echo(results["plan"])


if __name__ == "__main__":
    main()
