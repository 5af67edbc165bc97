"""Ways to convert many files: one after another, side by side in processes, or together on a GPU.

All of them only compute: nothing is written but by who takes the results, so that no process that is ended leaves a
part of a file.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from codec.processes import Helper, KilledError, cores, possible
from pillow_clric import BatchError, _modes, decode, encode, encode_batch
from pillow_clric._metadata import for_tiff
from pillow_clric.planning import Job
from pillow_clric.report import message

__all__ = ["Options", "Result", "results_of", "to_format"]

Progress = Callable[[int, int], None]

_PIXELS_AT_ONCE = 2**26  # of the photos that a GPU encodes together; as many are read meanwhile
_XMP_KEYWORD = "XML:com.adobe.xmp"  # PNG's name for it
_METADATA = ("exif", "icc_profile", "xmp")
_WITH_ALPHA = {"AVIF", "ICO", "JPEG2000", "PNG", "TGA", "TIFF", "WEBP"}  # formats that keep all of it


@dataclass(frozen=True)
class Options:
    """How to convert; see the command's help."""

    quality: float | None
    target_size: int | None
    target_bpp: float | None
    effort: int | str
    profile: str
    model: str
    device: str
    strip: bool

    def of_encode(self) -> dict[str, Any]:
        """The arguments of `encode`."""
        arguments = asdict(self) | {"quality": 75 if self.quality is None else self.quality}
        return arguments | dict.fromkeys(_METADATA if arguments.pop("strip") else ())


@dataclass(frozen=True)
class Result:
    """What a job came to.

    Attributes:
        job: what was to do.
        seconds: how long it took; of photos that were encoded together, the share of one.
        data: what to write to its target.
        bytes_in: of its source.
        size: width and height of the picture.
        error: what went wrong, if something did; there is nothing to write then.
    """

    job: Job
    seconds: float
    data: bytes = b""
    bytes_in: int = 0
    size: tuple[int, int] = (0, 0)
    error: str = ""


def results_of(
    jobs: list[Job], options: Options, workers: int | None, begin: Callable[[str], Progress]
) -> Generator[Result]:
    """Convert files, and give each result as soon as there is one.

    Args:
        jobs: what to convert.
        options: how.
        workers: the processes to share the files, of one thread each, or the threads to read photos for a GPU. None:
            one for each core, but no processes where there is but one file or core.
        begin: called with the name of what this process converts; returns what is told of its iterations.
    """
    photos = [job for job in jobs if job.encoding]
    if photos and on_gpu(options.device):
        yield from _together(photos, options, workers or cores(), begin)
        jobs = [job for job in jobs if not job.encoding]
    processes = workers or min(cores(), len(jobs))
    if (workers or processes > 1) and options.device in ("auto", "cpu") and possible():
        yield from _side_by_side(jobs, options, processes)
    else:
        yield from (convert(job, options, begin(job.source.name)) for job in jobs)


def on_gpu(device: str) -> bool:
    """Whether pictures are fitted elsewhere than on the CPU."""
    if device == "cpu":
        return False

    from codec.device import resolve

    try:
        return resolve(device).type != "cpu"
    except (RuntimeError, ValueError):
        return False  # coding the first photo says what is wrong


def convert(job: Job, options: Options, progress: Progress | None = None) -> Result:
    """Convert one file; what goes wrong is part of the result."""
    start = time.perf_counter()
    try:
        source = job.read()
        data, size = (_encoded if job.encoding else _decoded)(source, job, options, progress)
    except Exception as error:  # one bad file does not stop the batch
        return Result(job, time.perf_counter() - start, error=message(error, job.source))
    return Result(job, time.perf_counter() - start, data, len(source), size)


def _encoded(source: bytes, _: Job, options: Options, progress: Progress | None) -> tuple[bytes, tuple[int, int]]:
    """The photo as a `.clric` file, and its size."""
    image = _photo(source, options)
    return encode(image, **options.of_encode(), progress=progress), image.size


def _photo(source: bytes, options: Options) -> Image.Image:
    """The photo that a file holds."""
    try:
        image = Image.open(BytesIO(source))
    except UnidentifiedImageError as error:
        raise ValueError("cannot identify its format: it is no image that Pillow can open, or damaged") from error
    return _upright(image) if options.strip else image


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says, to look the same without."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF that Pillow cannot parse
        return image


def _decoded(source: bytes, job: Job, options: Options, _: Progress | None) -> tuple[bytes, tuple[int, int]]:
    """The `.clric` file as a file of its target's format, and its size."""
    image = decode(source, device=options.device)
    if options.strip:
        image = _upright(image)
        image.info.clear()
    return to_format(image, job.suffix, 95 if options.quality is None else round(options.quality)), image.size


def to_format(image: Image.Image, suffix: str, quality: int) -> bytes:
    """The image as a file of another format, with its metadata.

    Args:
        image: where the format has no alpha channel, what is transparent becomes white.
        suffix: what names of files in this format end with.
        quality: 0..100, where the format has it.
    """
    name = Image.registered_extensions()[suffix]
    options: dict[str, Any] = {key: image.info[key] for key in _METADATA if key in image.info}
    # What Pillow's plugins have no argument for
    if name == "PNG" and "xmp" in options:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt(_XMP_KEYWORD, options["xmp"].decode(errors="replace"))
    if name == "TIFF":
        options["exif"] = for_tiff(options.get("exif"), options.get("xmp"))
    if image.mode in ("LA", "RGBA") and name not in _WITH_ALPHA:
        image = _modes.on_white(image)
    buffer = BytesIO()
    image.save(buffer, name, quality=quality, **options)
    return buffer.getvalue()


# Side by side


def _side_by_side(jobs: list[Job], options: Options, processes: int) -> Generator[Result]:
    """Convert on the CPU in processes. The files of those that are killed are tried once more at the end, alone."""
    options = replace(options, device="cpu")
    killed = [list[Job](), list[Job]()]
    yield from _shared(jobs, options, processes, killed[0])
    yield from _shared(killed[0], options, 1, killed[1])
    yield from (Result(job, 0, error="its process was killed: is there enough memory?") for job in killed[1])


def _shared(jobs: list[Job], options: Options, processes: int, killed: list[Job]) -> Generator[Result]:
    """Convert in processes, of which half as many go on when one is killed, most likely for want of memory.

    Args:
        killed: gets the jobs of those that were.
    """
    waiting, finished, idle = deque(jobs), list[Result](), list[Helper]()
    running = dict[Future[Result], tuple[Job, Helper]]()
    with ThreadPoolExecutor(processes) as threads, ExitStack() as helpers:
        while waiting or running:
            while waiting and len(running) < processes:
                helper, job = idle.pop() if idle else helpers.enter_context(Helper()), waiting.popleft()
                running[threads.submit(helper.result, _convert_alone, job, options)] = job, helper
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


def _convert_alone(job: Job, options: Options) -> Result:
    """Convert one file with one thread, whatever the environment says."""
    import torch

    torch.set_num_threads(1)
    return convert(job, options)


# Together on a GPU


def _together(jobs: list[Job], options: Options, threads: int, begin: Callable[[str], Progress]) -> Generator[Result]:
    """Encode photos of one size together; meanwhile the next ones are read, and who takes the results writes them."""
    stopped = threading.Event()
    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(1) as gpu:
        try:
            batches = _batches(jobs, list(readers.map(_layout, jobs)))
            reading = [readers.submit(_read, job, options) for job in batches[0]]
            finished = list[Result]()
            for batch, following in itertools.pairwise([*batches, []]):
                name = batch[0].source.name if len(batch) == 1 else f"{len(batch)} photos"
                encoding = gpu.submit(_encode_together, batch, reading, options, _until(stopped, begin(name)))
                reading = [readers.submit(_read, job, options) for job in following]
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
        with Image.open(job.source if job.data is None else BytesIO(job.data)) as image:
            return image.mode, image.width, image.height
    except Exception:
        return "", 0, 0


def _read(job: Job, options: Options) -> tuple[Image.Image, int] | None:
    """The photo and the bytes of its file, if it can be read and coded."""
    try:
        source = job.read()
        image = _photo(source, options)
        _modes.check(image)
        image.load()
    except Exception:
        return None
    return image, len(source)


def _encode_together(
    jobs: list[Job], reading: list[Future[tuple[Image.Image, int] | None]], options: Options, progress: Progress
) -> list[Result]:
    """Encode photos at once. Where that fails, and what could not be read, is tried alone, and told what is wrong."""
    start = time.perf_counter()
    read = {job: photo for job, future in zip(jobs, reading, strict=True) if (photo := future.result())}
    coded: Sequence[bytes | ValueError]
    try:
        photos = [photo for photo, _ in read.values()]
        coded = encode_batch(photos, **options.of_encode(), progress=progress) if photos else []
    except BatchError as error:
        coded = error.results
    except Exception:
        read, coded = {}, []
    seconds = (time.perf_counter() - start) / max(1, len(coded))
    results = {
        job: Result(job, seconds, error=str(data)) if isinstance(data, ValueError)
        else Result(job, seconds, data, bytes_in, photo.size)
        for (job, (photo, bytes_in)), data in zip(read.items(), coded, strict=True)
    }  # fmt: skip
    return [results.get(job) or convert(job, options, progress) for job in jobs]


def _until(stopped: threading.Event, progress: Progress) -> Progress:
    """`progress`, which interrupts what calls it when that is to stop."""

    def show(done: int, total: int) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        progress(done, total)

    return show
