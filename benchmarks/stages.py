"""Time encoding and decoding by stage.

    python benchmarks/stages.py PHOTO... --qualities 10,50,90 --effort 5 --json stages.json

OMP_NUM_THREADS sets the number of threads.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from io import BytesIO
from pathlib import Path
from pkgutil import resolve_name
from statistics import mean
from typing import Any
from unittest.mock import patch

import click
from common import machine, numbers, photo, table, write
from PIL import Image

import pillow_clric

# Functions that are timed, and the stage that each stands for. What they have in common goes to the innermost.
ENCODE = {
    "codec.overfit.initialisation.trained": "starting point",
    "codec.overfit.fit.Fit._warm_up": "choice of a beginning",
    "codec.overfit.fit.Fit._descend": "annealing",
    "codec.overfit.fit.Fit._settle": "settling",
    "codec.overfit.quantise._Search.run": "quantisation",
    "codec.autoencoders.autoencoder.Autoencoder.encode": "autoencoder's encoder",
    "codec.autoencoders.autoencoder.Autoencoder.decode": "autoencoder's decoder",
    "codec.overfit.arm.rate": "rate",
    "codec.overfit.bitstream.write": "entropy coding",
    "codec.overfit.bitstream.read": "verification",
}
DECODE = {
    "codec.unpack": "header, checksum",
    "codec.overfit.bitstream._code_differences": "weights",
    "codec.overfit.bitstream.read": "grids: wavefront",
    "codec.entropy.integer_arm.IntegerARM.__call__": "grids: probability model",
    "codec.entropy.wavefront.code_laplace": "grids: symbols",
    "codec.overfit.synthesis.synthesise": "synthesis",
    "codec.autoencoders.autoencoder.Autoencoder.decode": "autoencoder's decoder",
}
OTHER = "other"
DECODES = 3  # of which the fastest counts: they are short


class Stopwatch:
    """Seconds and iterations by stage; what a stage within a stage takes counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.iterations: dict[str, int] = defaultdict(int)
        self._running = [OTHER]
        self._since = time.perf_counter()
        self._done = 0

    def progress(self, done: int, total: int) -> None:
        """Count iterations for the stage that is running."""
        self.iterations[self._running[-1]] += done - self._done
        self._done = done

    @contextmanager
    def watching(self, stages: Mapping[str, str]) -> Iterator[None]:
        """Time everything, and calls of these functions by stage."""
        with ExitStack() as stack:
            for target, stage in stages.items():
                try:
                    function = resolve_name(target)
                except AttributeError:
                    click.echo(f"{target} is no more: its stage is not timed on its own", err=True)
                    continue
                stack.enter_context(patch(target, self._timed(function, stage)))
            self._since = time.perf_counter()
            yield
            self._switch()

    def _timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._running.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._running.pop()

        return timed

    def _switch(self) -> None:
        """Count the time since the last switch for the stage that was running."""
        _wait_for_device()
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now


def _wait_for_device() -> None:
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def start_up(device: str) -> dict[str, float]:
    """Seconds for what a process does once, so that it is not in the figures of the first photo."""
    times = [time.perf_counter()]
    import codec.overfit.pipeline  # noqa: F401  imports torch
    from codec.entropy import tables

    times.append(time.perf_counter())
    for width in range(len(tables.HALF_WIDTHS)):
        tables.counts(width)
    times.append(time.perf_counter())
    decode(pillow_clric.encode(Image.new("RGB", (64, 64)), effort=1, device=device), device)
    times.append(time.perf_counter())
    names = "import", "probability tables", "first picture of 64 x 64"
    return {name: after - before for name, before, after in zip(names, times, times[1:], strict=False)}


def measure(path: Path, quality: float, **settings: Any) -> dict[str, Any]:
    """Time one photo."""
    image = photo(path)
    encoding = Stopwatch()
    with encoding.watching(ENCODE):
        data = pillow_clric.encode(image, quality=quality, progress=encoding.progress, **settings)
    runs = [decode(data, settings["device"]) for _ in range(DECODES)]
    return {
        "photo": path.stem,
        "width": image.width,
        "height": image.height,
        "quality": quality,
        "bytes": len(data),
        "encode": encoding.seconds,
        "iterations": encoding.iterations,
        "open": min(opened for opened, _ in runs),
        "decode": min((stages for _, stages in runs), key=lambda stages: sum(stages.values())),
    }


def decode(data: bytes, device: str) -> tuple[float, dict[str, float]]:
    """Seconds to open a file, and to decode it by stage."""
    start = time.perf_counter()
    with Image.open(BytesIO(data)) as image:
        opened = time.perf_counter() - start
        image.decoderconfig = (device, None)
        watch = Stopwatch()
        with watch.watching(DECODE):
            image.load()
    return opened, watch.seconds


def tables(points: list[dict[str, Any]]) -> str:
    """Means over photos: a row a stage, a column a quality."""
    groups: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for point in points:
        groups[point["quality"]].append(point)

    def rows(direction: str, stages: Mapping[str, str]) -> list[list[str]]:
        names = [*dict.fromkeys(stages.values()), OTHER, "total"]
        return [[name, *(_cell(group, direction, name) for group in groups.values())] for name in names]

    qualities = [f"quality {quality:g}" for quality in groups]
    opening = ["Image.open", *(f"{mean(point['open'] for point in group):.4f}" for group in groups.values())]
    encode = table([["encode, s", *qualities], *rows("encode", ENCODE)])
    decode = table([["decode, s", *qualities], opening, *rows("decode", DECODE)])
    return f"{encode}\n\n{decode}"


def _cell(points: list[dict[str, Any]], direction: str, stage: str) -> str:
    """Mean seconds of a stage, and milliseconds of each of its iterations if it has any."""
    seconds = mean(_seconds(point[direction], stage) for point in points)
    iterations = mean(point["iterations"].get(stage, 0) for point in points) if direction == "encode" else 0
    return f"{seconds:.4f}" + (f" ({1000 * seconds / iterations:.1f} ms/iteration)" if iterations else "")


def _seconds(stages: dict[str, float], stage: str) -> float:
    return sum(stages.values()) if stage == "total" else stages.get(stage, 0.0)


@click.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(exists=True, path_type=Path))
@click.option("--qualities", type=numbers, default="10,50,90", show_default=True)
@click.option("--effort", type=click.IntRange(1, 9), default=5, show_default=True)
@click.option("--profile", default="clric", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps ...")
@click.option("--json", "out", metavar="OUT", type=click.Path(path_type=Path), help="Write all figures to this file.")
def main(
    photos: tuple[Path, ...], qualities: list[float], effort: int, profile: str, device: str, out: Path | None
) -> None:
    """Time encoding and decoding by stage; the tables show means over the photos."""
    once = start_up(device)
    import torch

    results: dict[str, Any] = {"machine": machine(torch.get_num_threads()), "start_up": once}
    settings = {"profile": profile, "effort": effort, "device": device}
    results |= {"settings": settings, "points": []}
    for path in photos:
        for quality in qualities:
            point = measure(path, quality, **settings)
            results["points"].append(point)
            click.echo(f"{path.stem} at {quality:g}: {sum(point['encode'].values()):.1f} s", err=True)
            if out:
                write(out, results)
    click.echo(f"{results['machine']}\n")
    click.echo(f"once a process: {', '.join(f'{name} {seconds:.2f} s' for name, seconds in once.items())}\n")
    click.echo(f"{profile}, effort {effort}, means over {len(photos)} photos\n\n{tables(results['points'])}")


if __name__ == "__main__":
    main()
