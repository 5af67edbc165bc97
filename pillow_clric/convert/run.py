"""Ways to convert many files: one after another, side by side in processes, or together on a GPU.

All of them only compute: nothing is written but by who takes the results, so that no process that is ended leaves a
part of a file.
"""

from __future__ import annotations

import codecs
import itertools
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, BinaryIO, cast

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, PngInfo

import codec
from codec.container import MAGIC, read_header
from codec.profiles import by_id, by_name
from codec.runtime import resolved
from codec.workers import COPIES, PRICE, Helper, KilledError, cores, possible
from pillow_clric import BatchError, LossWarning, _colour, _importance, _modes, decode, encode, encode_batch
from pillow_clric._importance import as_stored
from pillow_clric._losses import losses
from pillow_clric._metadata import for_tiff, unwritable, upright
from pillow_clric._terminal import ignore_warnings_of_pillow
from pillow_clric.convert.plan import Job, contents
from pillow_clric.convert.report import UNIDENTIFIED, message

__all__ = ["Result", "Settings", "results_of", "to_format"]

Progress = Callable[[int, int], None]
Converted = tuple[bytes, tuple[int, int], tuple[str, ...]]
Photo = tuple[Image.Image, int, tuple[str, ...], Image.Image | None]  # with bytes, what is lost, and importance

_PIXELS_AT_ONCE = 2**26  # of the photos that a GPU encodes together; as many are read meanwhile
_XMP_KEYWORD = "XML:com.adobe.xmp"  # PNG's name for it
_METADATA = {"exif": "EXIF", "icc_profile": "colour profile", "xmp": "XMP"}
_WITH_METADATA = {"AVIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP"}  # formats that have a place for them
_WITH_ALPHA = {"AVIF", "ICO", "JPEG2000", "PNG", "TGA", "TIFF", "WEBP"}  # formats that keep all of it
_WITH_GREY_PROFILE = {"JPEG", "MPO", "PNG", "TIFF"}  # formats that keep what is grey so
_WITH_PROFILE = {"AVIF", "WEBP"} | _WITH_GREY_PROFILE
_LARGEST_PROFILE = {"JPEG": 255 * 65519, "MPO": 255 * 65519, "PNG": MAX_TEXT_CHUNK - 1}  # that Pillow writes and reads
_LARGEST_ICON = 256  # pixels a side


@dataclass(frozen=True)
class Settings:
    """Settings of a conversion.

    Attributes:
        profile: its name.
        options: of the profile, those that were given.
        strip: whether metadata are left out.
        repair: whether `.clric` files are to become whole ones.
    """

    profile: str
    options: Mapping[str, Any]
    strip: bool
    repair: bool = False

    @property
    def device(self) -> str:
        """Name of the device."""
        return str(self.options.get("device", "auto"))

    def of_encode(self) -> dict[str, Any]:
        """Arguments of `encode`."""
        return {"profile": self.profile, **self.options, **dict.fromkeys(_METADATA if self.strip else ())}


@dataclass(frozen=True)
class Result:
    """Result of a job.

    Attributes:
        job: the job.
        seconds: that it took; of photos that were encoded together, the share of one.
        data: bytes to write to its target.
        bytes_in: of its source.
        size: width and height of the picture.
        error: its message, if there was one; there is nothing to write then.
        warnings: what is lost of the source, or damaged in it.
    """

    job: Job
    seconds: float
    data: bytes = b""
    bytes_in: int = 0
    size: tuple[int, int] = (0, 0)
    error: str = ""
    warnings: tuple[str, ...] = ()


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


def convert(job: Job, settings: Settings, progress: Progress | None = None) -> Result:
    """Convert one file; errors are part of the result."""
    start = time.perf_counter()
    try:
        source = job.read()
        if job.encoding and source.startswith(MAGIC):  # in a store, only names are looked at before
            raise ValueError("it is a .clric file and named like a photo: rename it")
        made = _encoded if job.encoding else _repaired if settings.repair else _decoded
        data, size, lost = made(source, job, settings, progress)
    except Exception as error:  # one bad file does not stop the batch
        return Result(job, time.perf_counter() - start, error=message(error, job.source))
    return Result(job, time.perf_counter() - start, data, len(source), size, warnings=lost)


def _encoded(source: bytes, job: Job, settings: Settings, progress: Progress | None) -> Converted:
    """The photo as a `.clric` file, its size, and what is lost of it."""
    image, lost = _photo(source, settings)
    importance = _importance_of(job, image)
    return encode(image, importance=importance, **settings.of_encode(), progress=progress), image.size, lost


def _importance_of(job: Job, image: Image.Image) -> Image.Image | None:
    """Importance of the parts of a job's photo, turned as its pixels are: files are as they are shown.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no grey picture.
    """
    if job.importance is None:
        return None
    try:
        with _reading():
            mask = Image.open(BytesIO(contents(job.importance)))
            mask.load()
        return as_stored(_importance.check(upright(mask)), image)
    except ValueError as error:
        raise ValueError(f"{job.importance}: {error}") from error


def _photo(source: bytes, settings: Settings) -> tuple[Image.Image, tuple[str, ...]]:
    """The photo that a file holds, loaded, and what is lost of the file when it is coded."""
    with _reading():
        image = Image.open(BytesIO(source))
    _modes.check(image)
    _colour.check(image)
    lost = tuple(losses(image, stripped=settings.strip))
    with _reading():
        image.load()
    return _stripped(image) if settings.strip else image, lost


@contextmanager
def _reading() -> Iterator[None]:
    """Say what it means that Pillow cannot read a file: its errors may have Python's words for it."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(UNIDENTIFIED) from error
    except (MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:
        raise ValueError(f"it is damaged, or of a kind that Pillow cannot read: {error}") from error


def _stripped(image: Image.Image) -> Image.Image:
    """The image as it looks, upright and in sRGB, so that it looks the same without its metadata."""
    return _colour.to_srgb(_modes.converted(upright(image)))


@contextmanager
def _recorded() -> Iterator[list[warnings.WarningMessage]]:
    """Record what is warned of, but for what Pillow warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ignore_warnings_of_pillow()
        yield caught


def _decoded(source: bytes, job: Job, settings: Settings, _: Progress | None) -> Converted:
    """The `.clric` file as a file of its target's format, its size, and what of it is damaged or not known."""
    with _recorded() as caught:
        image = decode(source, device=settings.device, tune=settings.options.get("tune"))
    damage = tuple(str(told.message) for told in caught)
    if settings.strip:
        image = _stripped(image)
        image.info.clear()
    data = to_format(image, job.suffix, round(settings.options.get("quality", 95)))
    return data, image.size, (*damage, *_left_out(image, job.suffix))


def _repaired(source: bytes, job: Job, settings: Settings, _: Progress | None) -> Converted:
    """The damaged `.clric` file as a whole one, its size, and what of it could not be restored."""
    with _recorded() as caught:
        read_header(BytesIO(source))  # says more about what is no `.clric` file than `Image.open` does
        with Image.open(BytesIO(source), formats=["CLRIC"]) as image:  # which refuses what has too many pixels
            data = codec.repair(source, device=settings.device)
    return data, image.size, tuple(str(told.message) for told in caught)


def _left_out(image: Image.Image, suffix: str) -> Iterator[str]:
    """A sentence on the metadata for which files with this end of their names have no place."""
    name = Image.registered_extensions()[suffix]
    without = [_METADATA[key] for key in ("exif", "xmp") if key in image.info and name not in _WITH_METADATA]
    if without:
        yield f"{' and '.join(without)} left out: {name} files have no place for that"


def to_format(image: Image.Image, suffix: str, quality: int) -> bytes:
    """The image as a file of another format, with its metadata.

    Args:
        image: where the format has no alpha channel, what is transparent becomes white; where it has no place for its
            colour profile, colours become those of sRGB; where it has none for EXIF, it is turned as that says.
        suffix: end of the names of files in this format.
        quality: 0..100, where the format has it.

    Raises:
        ValueError: the format is one of icons, which are smaller, or cannot hold the picture or some of its metadata.
    """
    name = Image.registered_extensions()[suffix]
    if name == "ICNS" or (name == "ICO" and max(image.size) > _LARGEST_ICON):
        size = f"{image.width} x {image.height}"
        raise ValueError(f"{suffix} files hold icons, not pictures of {size}: choose another format")
    if name not in _WITH_METADATA:
        image = upright(image)
    if "icc_profile" in image.info and not _holds_profile(name, image):
        image = _colour.to_srgb(image)
    if image.mode in ("LA", "RGBA") and name not in _WITH_ALPHA:
        image = _modes.on_white(image)
    buffer = BytesIO()
    try:
        image.save(buffer, name, quality=quality, sizes=[image.size], **_options(name, image.info))  # sizes: of icons
    except Exception as error:
        if what := _unfit(name, image.info):
            advice = "--strip leaves metadata out" + ", and PNG files hold them all" * (name != "PNG")
            raise ValueError(f"{name} files cannot hold its {what}: {advice}") from error
        raise ValueError(f"{name} files cannot hold it ({error}): choose another format, such as PNG") from error
    return buffer.getvalue()


def _options(name: str, info: Mapping[Any, Any]) -> dict[str, Any]:
    """Arguments by which Pillow writes an image's metadata to a format that has a place for them."""
    options = {key: info[key] for key in _METADATA if key in info and name in _WITH_METADATA}
    # Metadata that Pillow's plugins have no argument for
    if name == "PNG" and "xmp" in options:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt(_XMP_KEYWORD, _text(options["xmp"]))
    if name == "TIFF":
        options["exif"] = for_tiff(options.get("exif"), options.get("xmp"))
    return options


def _text(xmp: bytes) -> str:
    """XMP as text, which may be UTF-16, too."""
    return xmp.decode("utf-16" if xmp.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8")


def _unfit(name: str, info: Mapping[Any, Any]) -> str:
    """The metadata that make a format's writer fail, in words; "" if they do not."""
    bad = next((key for key in _METADATA if key in info and not _fits(name, {key: info[key]})), "")
    if (name, bad) == ("PNG", "xmp"):
        return "XMP, which is no UTF-8"
    if bad != "exif":
        return bad and f"{_METADATA[bad]} of {len(info[bad])} bytes"
    tags = Image.Exif()
    try:
        tags.load(info["exif"])
    except Exception:
        return "EXIF, which is damaged"
    return unwritable(tags) or f"EXIF of {len(info['exif'])} bytes"


def _fits(name: str, info: Mapping[str, Any]) -> bool:
    try:
        Image.new("L", (1, 1)).save(BytesIO(), name, **_options(name, info))
    except Exception:
        return False
    return True


def _holds_profile(name: str, image: Image.Image) -> bool:
    """Whether a file of this format can say what the image's colours are."""
    formats = _WITH_PROFILE if image.mode.startswith("RGB") else _WITH_GREY_PROFILE
    size = len(image.info.get("icc_profile", b""))
    return name in formats and size <= _LARGEST_PROFILE.get(name, size)


# Side by side


def _side_by_side(jobs: list[Job], settings: Settings, processes: int) -> Generator[Result]:
    """Convert on the CPU in processes. The files of those that are killed are tried once more at the end, alone."""
    settings = replace(settings, options={**settings.options, "device": "cpu"})
    if COPIES:
        _load(jobs, settings)
    killed = [list[Job](), list[Job]()]
    yield from _shared(jobs, settings, processes, killed[0])
    yield from _shared(killed[0], settings, 1, killed[1])
    yield from (Result(job, 0, error="its process was killed: is there enough memory?") for job in killed[1])


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
        image, lost = _photo(source, settings)
        importance = _importance_of(job, image)
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
