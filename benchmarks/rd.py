"""Rate and distortion of a folder of photos, through Pillow as a user would.

    python benchmarks/rd.py FOLDER --qualities 10,30,50,70,90 --jobs 4 --lpips WEIGHTS --json clric.json
    python benchmarks/rd.py FOLDER --qualities 10,30,50,70,90 --jobs 4 --lpips WEIGHTS --json avif.json --codec avif

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
import metrics
import torch
from common import ONLY, OTHERS, chosen, encode, machine, numbers, photo, size, table, write
from PIL import Image

import pillow_clric  # registers the format, in spawned processes too: they import this module
from codec.profiles.options import TUNES
from pillow_clric.compare.codecs import register_others

COLUMNS = {
    "bpp": ("bpp", 4),
    "psnr": ("PSNR, dB", 3),
    "msssim": ("MS-SSIM", 5),
    "ssimulacra2": ("SSIMULACRA2", 2),
    "lpips": ("LPIPS", 4),
    "encode_s": ("encode, s", 2),
    "decode_s": ("decode, s", 2),
}  # of the table: titles and digits


@dataclass(frozen=True)
class Coder:
    """The codec that is measured, LPIPS's weights if that is to be measured too, and the tune to show pictures for."""

    codec: str
    options: dict[str, Any]
    weights: Path | None
    tune: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        tune = {} if self.tune is None else {"tune": self.tune}
        return {"codec": self.codec, **self.options, **tune, "lpips": self.weights is not None}

    def decode(self, data: bytes) -> Image.Image:
        if self.codec == "clric":
            return pillow_clric.decode(data, device=self.options["device"], tune=self.tune)
        with Image.open(BytesIO(data)) as image:
            image.load()
            return image


@dataclass(frozen=True)
class Task:
    """One photo at one quality."""

    path: Path
    quality: float
    crop: tuple[int, int] | None

    @property
    def key(self) -> tuple[str, float]:
        return self.path.stem, self.quality


def measure(task: Task, coder: Coder) -> dict[str, Any]:
    """Encode and decode; without metadata, so that bytes are those of the picture."""
    image = photo(task.path, task.crop)
    start = time.perf_counter()
    data = encode(image, coder.codec, task.quality, coder.options)
    encoded = time.perf_counter()
    decoded = coder.decode(data)
    end = time.perf_counter()
    return {
        "image": task.path.stem,
        "quality": task.quality,
        "width": image.width,
        "height": image.height,
        "bytes": len(data),
        **({"sections": pillow_clric.info(data).sections} if coder.codec == "clric" else {}),
        "bpp": 8 * len(data) / (image.width * image.height),
        **metrics.measure(image, decoded.convert(image.mode), coder.weights),
        "encode_s": encoded - start,
        "decode_s": end - encoded,
    }


def start_worker(threads: int, coder: Coder) -> None:
    """Do in advance what a process does once, so that it is not in the first photo's times."""
    torch.set_num_threads(threads)
    register_others()
    quickest = {"effort": 1} if coder.codec == "clric" else {}
    coder.decode(encode(Image.new("RGB", (64, 64)), coder.codec, 50, coder.options | quickest))


def resume(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Results that the file holds so far."""
    if not out.exists():
        return {"settings": settings, "runs": [], "points": []}
    results: dict[str, Any] = json.loads(out.read_text())
    if results.get("settings") != settings:
        raise click.UsageError(f"{out} holds results of {results.get('settings')}, not {settings}: name another file")
    return results


def run(tasks: list[Task], coder: Coder, results: dict[str, Any], out: Path, jobs: int, threads: int) -> None:
    """Measure what is missing in the results, and write them after each point."""
    known = {(point["image"], point["quality"]) for point in results["points"]}
    todo = [task for task in tasks if task.key not in known]
    if not todo:
        return
    results["runs"].append({"jobs": jobs, **machine(threads)})
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for NumPy in the processes that start now
    with ProcessPoolExecutor(jobs, get_context("spawn"), start_worker, (threads, coder)) as pool:
        futures = [pool.submit(measure, task, coder) for task in todo]
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
    columns = {name: form for name, form in COLUMNS.items() if all(name in point for point in points)}
    sections = [name for name in ("header", "weights", "grids") if all(name in p.get("sections", ()) for p in points)]
    rows = [["quality", "photos", *(title for title, _ in columns.values()), *sections]]
    for quality, group in sorted(by_quality.items()):
        means = [f"{mean(p[name] for p in group):.{digits}f}" for name, (_, digits) in columns.items()]
        sizes = [f"{mean(p['sections'][name] for p in group):.0f}" for name in sections]
        rows.append([f"{quality:g}", str(len(group)), *means, *sizes])
    return table(rows)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--qualities", type=numbers, default="10,30,50,70,90", show_default=True)
@click.option("--codec", type=click.Choice(["clric", *OTHERS]), default="clric", show_default=True)
@click.option("--profile", default="msp", show_default=True)
@click.option("--model", help="That of the profile by default.")
@click.option("--effort", type=click.Choice([*"123456789", "paper"]), default="3", show_default=True, metavar="N")
@click.option("--tune", type=click.Choice(TUNES), help="What pictures are shown for: that of the file by default.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps ...")
@click.option(
    "--lpips", "weights", metavar="WEIGHTS", type=click.Path(exists=True, path_type=Path), help="Measure LPIPS too."
)
@click.option("--crop", type=size, metavar="WxH", help="Only the middle of each photo.")
@ONLY
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of each process.")
@click.option("--json", "out", metavar="OUT", type=click.Path(path_type=Path), required=True, help="File of results.")
def main(
    folder: Path, qualities: list[float], codec: str, profile: str, model: str | None, effort: str, tune: str | None,
    device: str, weights: Path | None, crop: tuple[int, int] | None, only: str, jobs: int, threads: int,
    out: Path,
) -> None:  # fmt: skip
    """Measure rate and distortion of the photos in FOLDER; resumes what OUT holds.

    Profile, model, effort, tune and device are those of the codec clric; other codecs have their settings fixed.
    """
    ours = {"profile": profile, "effort": int(effort) if effort.isdigit() else effort, "device": device}
    ours |= {} if model is None else {"model": model}
    coder = Coder(codec, ours if codec == "clric" else OTHERS[codec], weights, tune)
    results = resume(out, {**coder.settings, **({"crop": list(crop)} if crop else {})})
    tasks = [Task(path, quality, crop) for path, quality in product(chosen(folder, only), qualities)]
    run(tasks, coder, results, out, jobs, threads)
    click.echo(summary(results["points"]))


if __name__ == "__main__":
    main()
