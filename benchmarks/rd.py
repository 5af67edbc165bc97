"""Rate and distortion of a folder of photos, through Pillow as a user would.

    python benchmarks/rd.py FOLDER --qualities 10,30,50,70,90 --effort 5 --jobs 4 --json rd.json

A run that was interrupted goes on where it was when the same command is given again.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import click
from common import machine, numbers, photo, psnr, table, write
from PIL import Image

import pillow_clric  # registers the format, in spawned processes too: they import this module

SUFFIXES = {".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Task:
    """One photo at one quality."""

    path: Path
    quality: float

    @property
    def key(self) -> tuple[str, float]:
        return self.path.stem, self.quality


def measure(task: Task, options: dict[str, Any]) -> dict[str, Any]:
    """Encode and decode; metadata are left out, so that bytes are those of the picture."""
    image, buffer = photo(task.path), BytesIO()
    bare = {"exif": None, "icc_profile": None, "xmp": None}
    start = time.perf_counter()
    image.save(buffer, "CLRIC", quality=task.quality, **bare, **options)
    encoded = time.perf_counter()
    with Image.open(buffer) as decoded:
        decoded.decoderconfig = (options["device"],)
        decoded.load()
        end = time.perf_counter()
        decibels = psnr(image, decoded)
    info = pillow_clric.info(buffer.getvalue())
    return {
        "image": task.path.stem,
        "quality": task.quality,
        "width": info.width,
        "height": info.height,
        "bytes": info.file_size,
        "sections": info.sections,
        "bpp": info.bpp,
        "psnr": decibels,
        "encode_s": encoded - start,
        "decode_s": end - encoded,
    }


def start_worker(threads: int) -> None:
    """Do in advance what a process does once, so that it is not in the first photo's times."""
    import torch

    torch.set_num_threads(threads)
    tiny = pillow_clric.encode(Image.new("RGB", (64, 64)), effort=1)
    pillow_clric.decode(tiny)


def resume(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What the file holds so far."""
    if not out.exists():
        return {"settings": settings, "runs": [], "points": []}
    results: dict[str, Any] = json.loads(out.read_text())
    if results.get("settings") != settings:
        raise click.UsageError(f"{out} holds results of {results.get('settings')}, not {settings}: name another file")
    return results


def run(tasks: list[Task], results: dict[str, Any], out: Path, jobs: int, threads: int) -> None:
    """Measure what is missing in the results, and write them after each point."""
    known = {(point["image"], point["quality"]) for point in results["points"]}
    todo = [task for task in tasks if task.key not in known]
    if not todo:
        return
    results["runs"].append({"jobs": jobs, **machine(threads)})
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for NumPy in the processes that start now
    with ProcessPoolExecutor(jobs, get_context("spawn"), start_worker, (threads,)) as pool:
        futures = [pool.submit(measure, task, results["settings"]) for task in todo]
        try:
            for count, future in enumerate(as_completed(futures), 1):
                point = future.result()
                results["points"].append({**point, "run": len(results["runs"]) - 1})
                write(out, results)
                line = "{image} at {quality:g}: {bpp:.4f} bpp, {psnr:.3f} dB, {encode_s:.1f} s".format(**point)
                click.echo(f"{count}/{len(todo)} {line}", err=True)
        finally:
            pool.shutdown(cancel_futures=True)


def summary(points: list[dict[str, Any]]) -> str:
    """Means over photos, a row a quality."""
    by_quality: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for point in points:
        by_quality[point["quality"]].append(point)
    rows = [["quality", "photos", "bpp", "PSNR, dB", "header", "weights", "grids", "encode, s", "decode, s"]]
    for quality, group in sorted(by_quality.items()):
        sizes = [f"{mean(p['sections'][name] for p in group):.0f}" for name in ("header", "weights", "grids")]
        bpp, psnr, *times = (mean(p[name] for p in group) for name in ("bpp", "psnr", "encode_s", "decode_s"))
        times_cells = [f"{seconds:.2f}" for seconds in times]
        rows.append([f"{quality:g}", str(len(group)), f"{bpp:.4f}", f"{psnr:.3f}", *sizes, *times_cells])
    return table(rows)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--qualities", type=numbers, default="10,30,50,70,90", show_default=True)
@click.option("--effort", type=click.IntRange(1, 9), default=5, show_default=True)
@click.option("--profile", default="coolchic", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps ...")
@click.option("--images", metavar="NAMES", help="Only these, by name without suffix, with commas between them.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of each process.")
@click.option("--json", "out", metavar="OUT", type=click.Path(path_type=Path), required=True, help="File of results.")
def main(
    folder: Path, qualities: list[float], effort: int, profile: str, device: str, images: str | None, jobs: int,
    threads: int, out: Path,
) -> None:  # fmt: skip
    """Measure rate and distortion of the photos in FOLDER; resumes what OUT holds."""
    paths = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    names = images.split(",") if images else list(paths)
    if missing := [name for name in names if name not in paths]:
        raise click.UsageError(f"{folder} has no photos {', '.join(missing)}")
    results = resume(out, {"profile": profile, "effort": effort, "device": device})
    tasks = [Task(paths[name], quality) for name, quality in product(names, qualities)]
    run(tasks, results, out, jobs, threads)
    click.echo(summary(results["points"]))


if __name__ == "__main__":
    main()
