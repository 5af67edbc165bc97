"""Conversion of one file to the bytes of another, and what of it is lost or damaged; nothing is written."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image, UnidentifiedImageError

import codec
from codec.container import MAGIC, CorruptError, LimitError, TruncatedError, read_header
from pillow_clric import _colour, _importance, _modes, decode, encode
from pillow_clric._importance import as_stored
from pillow_clric._losses import checked
from pillow_clric._metadata import upright
from pillow_clric._terminal import ignore_warnings_of_pillow
from pillow_clric.convert.formats import METADATA, left_out, to_format
from pillow_clric.convert.inputs import CODED, contents
from pillow_clric.convert.plan import Job
from pillow_clric.convert.report import UNIDENTIFIED, message

__all__ = ["Progress", "Result", "Settings", "convert", "importance_of", "photo_in"]

# Errors that a file has everywhere, and with later versions
_OF_THE_FILE = (ValueError, Image.DecompressionBombError, CorruptError, TruncatedError, LimitError)

OF_DECODING = frozenset({"device", "quality", "tune"})  # options that count for what `.clric` files are converted to

Progress = Callable[[int, int], None]
Converted = tuple[bytes, tuple[int, int], tuple[str, ...]]


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
        return {"profile": self.profile, **self.options, **dict.fromkeys(METADATA if self.strip else ())}


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
        elsewhere: whether that is no fault of the file: it might be converted another time, or on another machine.
        warnings: what is lost of the source, or damaged in it.
    """

    job: Job
    seconds: float
    data: bytes = b""
    bytes_in: int = 0
    size: tuple[int, int] = (0, 0)
    error: str = ""
    elsewhere: bool = False
    warnings: tuple[str, ...] = ()


def convert(job: Job, settings: Settings, progress: Progress | None = None) -> Result:
    """Convert one file; errors are part of the result."""
    start = time.perf_counter()
    try:
        source = job.read()
        if job.encoding and source.startswith(MAGIC):  # in a store, only names are looked at before
            raise ValueError(CODED)
        made = _encoded if job.encoding else _repaired if settings.repair else _decoded
        data, size, lost = made(source, job, settings, progress)
    except Exception as error:  # one bad file does not stop the batch
        why, elsewhere = message(error, job.source), not isinstance(error, _OF_THE_FILE)
        return Result(job, time.perf_counter() - start, error=why, elsewhere=elsewhere)
    return Result(job, time.perf_counter() - start, data, len(source), size, warnings=lost)


def photo_in(source: bytes, settings: Settings) -> tuple[Image.Image, tuple[str, ...]]:
    """The photo that a file holds, loaded, and what is lost of the file when it is coded."""
    with _reading():
        image = Image.open(BytesIO(source))
    lost = tuple(checked(image, stripped=settings.strip))
    with _reading():
        image.load()
    return _stripped(image) if settings.strip else image, lost


def importance_of(job: Job, image: Image.Image) -> Image.Image | None:
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


def _encoded(source: bytes, job: Job, settings: Settings, progress: Progress | None) -> Converted:
    """The photo as a `.clric` file, its size, and what is lost of it."""
    image, lost = photo_in(source, settings)
    importance = importance_of(job, image)
    return encode(image, importance=importance, **settings.of_encode(), progress=progress), image.size, lost


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
    return data, image.size, (*damage, *left_out(image, job.suffix))


def _repaired(source: bytes, job: Job, settings: Settings, _: Progress | None) -> Converted:
    """The damaged `.clric` file as a whole one, its size, and what of it could not be restored."""
    with _recorded() as caught:
        read_header(BytesIO(source))  # says more about what is no `.clric` file than `Image.open` does
        with Image.open(BytesIO(source), formats=["CLRIC"]) as image:  # which refuses what has too many pixels
            data = codec.repair(source, device=settings.device)
    return data, image.size, tuple(str(told.message) for told in caught)
