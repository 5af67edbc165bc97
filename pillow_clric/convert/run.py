"""Ways to convert many files: one after another, side by side in processes, or together on a GPU.

All of them only compute: nothing is written but by who takes the results, so that no process that is ended leaves a
part of a file.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import BinaryIO, cast

from PIL import Image

from codec.container import read_header
from codec.profiles import by_id, by_name
from codec.runtime import resolved
from codec.workers import COPIES, PRICE, Helper, KilledError, cores, possible
from pillow_clric import BatchError, LossWarning, encode_batch
from pillow_clric._terminal import ignore_warnings_of_pillow
from pillow_clric.convert.one_file import Progress, Result, Settings, convert, importance_of, photo_in
from pillow_clric.convert.plan import Job

__all__ = ["on_gpu", "results_of"]

Photo = tuple[Image.Image, int, tuple[str, ...], Image.Image | None]  # with bytes, what is lost, and importance

_PIXELS_AT_ONCE = 2**26  # of the photos that a GPU encodes together; as many are read meanwhile


def results_of(
    jobs: list[Job], settings: Settings, workers: int | None, begin: Callable[[str], Progress]
) -> Generator[Result]:
    """Convert files, and give each result as soon as there is one.

    Args:
        jobs: the files to convert.
        settings: for all of them.
        workers: the processes to share the files, of one thread each, or the threads to read photos for a GPU; by
            default one for each core. Processes are started once files have taken as long as that takes. 0: none.
        begin: called with the name of what this process converts; returns what is told of its iterations.
    """
    photos = [job for job in jobs if job.encoding]
    if photos and on_gpu(settings.device):
        yield from _together(photos, settings, workers or cores(), begin)
        jobs = [job for job in jobs if not job.encoding]
    waiting, begun = deque(jobs), time.monotonic()
    shared = settings.device in ("auto", "cpu") and (COPIES or possible())
    most = cores() if workers is None else min(workers, 2 * cores())  # more would only be in each other's way
    while waiting:
        processes = min(most, len(waiting))
        if shared and processes > 1 and time.monotonic() - begun >= PRICE:
            yield from _side_by_side(list(waiting), settings, processes)
            return
        job = waiting.popleft()
        yield convert(job, settings, begin(job.source.name))


def on_gpu(device: str) -> bool:
    """Whether pictures are fitted elsewhere than on the CPU."""
    if device == "cpu":
        return False

    try:
        return resolved(device) != "cpu"
    except (RuntimeError, ValueError):
        return False  # coding the first photo says what is wrong


# Side by side


def _side_by_side(jobs: list[Job], settings: Settings, processes: int) -> Generator[Result]:
    """Convert on the CPU in processes. The files of those that are killed are tried once more at the end, alone."""
    settings = replace(settings, options={**settings.options, "device": "cpu"})
    if COPIES:
        _load(jobs, settings)
    killed = [list[Job](), list[Job]()]
    yield from _shared(jobs, settings, processes, killed[0])
    yield from _shared(killed[0], settings, 1, killed[1])
    why = "its process was killed: is there enough memory?"
    yield from (Result(job, 0, error=why, elsewhere=True) for job in killed[1])


def _load(jobs: list[Job], settings: Settings) -> None:
    """Load what the jobs need, so that copies of this process need not."""
    decoding = next((job for job in jobs if not job.encoding), None)
    with suppress(Exception):  # which each job tells itself
        if decoding:
            with decoding.open() as file:
                header = read_header(cast(BinaryIO, file))
            by_id(header.profile).decoder(header, "cpu")
    with suppress(Exception):
        if any(job.encoding for job in jobs):
            import torch

            coder = by_name(settings.profile)
            coder.encoder(coder.parse(settings.options), torch.device("cpu"))


def _shared(jobs: list[Job], settings: Settings, processes: int, killed: list[Job]) -> Generator[Result]:
    """Convert in processes, of which half as many go on when one is killed, most likely for want of memory.

    Args:
        killed: gets the jobs of those that were.
    """
    waiting, finished, running = deque(jobs), list[Result](), dict[Future[Result], tuple[Job, Helper]]()
    with ThreadPoolExecutor(processes) as threads, ExitStack() as helpers:
        idle = [helpers.enter_context(Helper(copied=True)) for _ in jobs[:processes]]  # before there are threads
        while waiting or running:
            while waiting and len(running) < processes:
                helper, job = idle.pop() if idle else helpers.enter_context(Helper(copied=True)), waiting.popleft()
                running[threads.submit(helper.result, _convert_alone, job, settings)] = job, helper
            yield from finished  # and is written while the processes work
            finished = []
            for future in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                job, helper = running.pop(future)
                try:
                    finished.append(future.result())
                    idle.append(helper)
                except KilledError:
                    killed.append(job)
                    processes = max(1, processes // 2)
            while idle and len(running) + len(idle) > processes:
                idle.pop().close()
        yield from finished


def _convert_alone(job: Job, settings: Settings) -> Result:
    """Convert one file with one thread, whatever the environment says."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for torch, when it is imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    warnings.simplefilter("ignore", LossWarning)
    ignore_warnings_of_pillow()
    return convert(job, settings)


# Together on a GPU


def _together(jobs: list[Job], settings: Settings, threads: int, begin: Callable[[str], Progress]) -> Generator[Result]:
    """Encode photos of one size together; meanwhile the next ones are read, and who takes the results writes them."""
    stopped = threading.Event()
    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(1) as gpu:
        try:
            batches = _batches(jobs, list(readers.map(_layout, jobs)))
            reading = [readers.submit(_read, job, settings) for job in batches[0]]
            finished = list[Result]()
            for batch, following in itertools.pairwise([*batches, []]):
                name = batch[0].source.name if len(batch) == 1 else f"{len(batch)} photos"
                encoding = gpu.submit(_encode_together, batch, reading, settings, _until(stopped, begin(name)))
                reading = [readers.submit(_read, job, settings) for job in following]
                yield from finished
                finished = encoding.result()
            yield from finished
        finally:
            stopped.set()
            readers.shutdown(cancel_futures=True)


def _batches(jobs: list[Job], layouts: list[tuple[str, int, int]]) -> list[list[Job]]:
    """The jobs, photos of similar size beside each other, in parts of `_PIXELS_AT_ONCE` at most."""
    batches, room = list[list[Job]](), 0
    for (_, width, height), job in sorted(zip(layouts, jobs, strict=True), key=lambda pair: _order(pair[0])):
        if not batches or width * height > room:
            batches.append([])
            room = _PIXELS_AT_ONCE
        batches[-1].append(job)
        room -= width * height
    return batches


def _order(layout: tuple[str, int, int]) -> tuple[str, bool, int]:
    mode, width, height = layout
    return mode, width < height, width * height


def _layout(job: Job) -> tuple[str, int, int]:
    """Mode, width and height from the photo's header; nothing of what cannot be opened."""
    try:
        with job.open() as file, Image.open(file) as image:
            return image.mode, image.width, image.height
    except Exception:
        return "", 0, 0


def _read(job: Job, settings: Settings) -> Photo | None:
    """The photo, the bytes of its file and what is lost of it, if it can be read and coded."""
    try:
        source = job.read()
        image, lost = photo_in(source, settings)
        importance = importance_of(job, image)
    except Exception:
        return None
    return image, len(source), lost, importance


def _encode_together(
    jobs: list[Job], reading: list[Future[Photo | None]], settings: Settings, progress: Progress
) -> list[Result]:
    """Encode photos at once. Where that fails, and what could not be read, is tried alone, and told what is wrong."""
    start = time.perf_counter()
    read = {job: photo for job, future in zip(jobs, reading, strict=True) if (photo := future.result())}
    coded: Sequence[bytes | ValueError]
    try:
        photos, importance = [photo for photo, *_ in read.values()], [mask for *_, mask in read.values()]
        given = {"importance": importance, **settings.of_encode()}
        coded = encode_batch(photos, **given, progress=progress) if photos else []
    except BatchError as error:
        coded = error.results
    except Exception:
        read, coded = {}, []
    seconds = (time.perf_counter() - start) / max(1, len(coded))
    results = {
        job: Result(job, seconds, error=str(data)) if isinstance(data, ValueError)
        else Result(job, seconds, data, bytes_in, photo.size, warnings=lost)
        for (job, (photo, bytes_in, lost, _)), data in zip(read.items(), coded, strict=True)
    }  # fmt: skip
    return [results.get(job) or convert(job, settings, progress) for job in jobs]


def _until(stopped: threading.Event, progress: Progress) -> Progress:
    """`progress`, which interrupts what calls it when that is to stop."""

    def show(done: int, total: int) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        progress(done, total)

    return show
