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
from common import Numbers, machine, photo, table, write
from PIL import Image

import pillow_clric

# Functions that are timed, and the stage that each stands for. What they have in common goes to the innermost.
ENCODE = {
    "codec.overfit.initial.candidates": "starting point",
    "codec.overfit.fit._Run.warm_up": "warm-up",
    "codec.overfit.fit._Run.anneal": "main fit",
    "codec.overfit.fit._Run.settle": "settling",
    "codec.overfit.pipeline.quantise": "quantisation",
    "codec.overfit.bitstream.write": "entropy coding",
    "codec.overfit.bitstream.read": "verification",
}
DECODE = {
    "codec.unpack": "header, checksum",
    "codec.overfit.bitstream._code_weights": "weights",
    "codec.overfit.bitstream.read": "grids: wavefront",
    "codec.entropy.arm.IntegerARM.__call__": "grids: probability model",
    "codec.entropy.wavefront.code_laplace": "grids: symbols",
    "codec.overfit.synthesis.synthesise": "synthesis",
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


def start_up() -> dict[str, float]:
    """Seconds for what is done once a process, the first time that it is needed."""
    watch = Stopwatch()
    once = {"codec.overfit.pipeline": "import torch", "codec.entropy.tables": "probability tables"}
    watch._timed(resolve_name, once["codec.overfit.pipeline"])("codec.overfit.pipeline")
    tables = resolve_name("codec.entropy.tables")
    watch._timed(lambda: [tables.counts(i) for i in range(len(tables.HALF_WIDTHS))], "probability tables")()
    return watch.seconds
