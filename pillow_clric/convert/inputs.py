"""Inputs of commands: the files that they stand for, as folders do for what is in them, and reading of these."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import IO, TextIO

import click
from PIL import Image

from codec.container import MAGIC
from pillow_clric.convert.outputs import is_stream
from pillow_clric.convert.places import Place, Url, identity, is_folder, is_url, place

__all__ = [
    "CODED", "STREAM", "OnError", "coded_files", "contents", "expand", "is_coded", "is_shard", "opened",
    "photo_suffixes", "photos_in", "readable", "streamed",
]  # fmt: skip

STREAM = "-"  # stdin as an input, stdout as an output
CODED = "it is a .clric file and named like a photo: rename it"
STDIN = Path("/dev/stdin")  # wherever there is no such file, too
MOST = 1 << 30  # bytes that a stream may give

# Formats of a folder's photos. Not all that Pillow opens: folders also hold PostScript, HDF5 and films.
_PHOTO_FORMATS = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"}

# Ends of the names of photos of which Pillow reads nothing, or a small version: of phones, cameras, and JPEG XL
UNREAD = {".heic", ".heif", ".hif", ".jxl"} | {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2"}

_SHARDS = {".parquet", ".tar"}  # ends of the names of files that hold many photos each

OnError = Callable[[OSError], None]


def readable(text: str) -> Place:
    """Place that an input names, for `opened` and `contents`."""
    return STDIN if text == STREAM else place(text)


def contents(source: Place) -> bytes:
    """All bytes of a file, or of a stream, which may never end.

    Raises:
        OSError: it cannot be read, or gives more than `MOST` bytes.
    """
    data = _at_once(source)
    return source.read_bytes() if data is None else data


def opened(source: Place) -> IO[bytes]:
    """A file to read, or all that a stream gives.

    Not for Pillow to open by its name: it maps some TIFF files into memory then, and those that are turned come out as
    noise.

    Raises:
        OSError: it cannot be read, or is a stream that gives more than `MOST` bytes.
    """
    data = _at_once(source)
    return source.open("rb") if data is None else BytesIO(data)


def streamed(source: Place) -> bytes | None:
    """The contents of a stream; None of a file, and of what cannot be read: trying once more will say why."""
    with suppress(OSError):
        return _at_once(source)
    return None


def _at_once(source: Place) -> bytes | None:
    """All that a stream gives; None of what is none."""
    if source == STDIN:
        return _stdin()
    if not is_stream(source):
        return None
    with source.open("rb") as stream:
        return _all_of(stream)


def _stdin() -> bytes:
    stream: TextIO | None = sys.stdin
    if stream is None:
        raise click.UsageError("stdin is closed")
    try:
        return _all_of(stream.buffer)
    except OSError as error:
        raise click.UsageError(f"stdin cannot be read: {error.strerror or error}") from error


def _all_of(stream: IO[bytes]) -> bytes:
    data = stream.read(MOST + 1)
    if len(data) > MOST:
        raise OSError(errno.EFBIG, f"it gives more than {MOST >> 30} GiB, which no picture takes")
    return data


def photo_suffixes() -> set[str]:
    """Ends of the names of photos among other files."""
    return {suffix for suffix, name in Image.registered_extensions().items() if name in _PHOTO_FORMATS}


def is_shard(file: Place) -> bool:
    """Whether a file holds many photos, by name."""
    return file.suffix.lower() in _SHARDS


def is_coded(file: Place, data: bytes | None = None) -> bool:
    """Whether a file is a `.clric` file, by name or content: one that is damaged, or renamed, is no photo."""
    suffix = file.suffix.lower()
    if suffix == ".clric" or is_shard(file):
        return suffix == ".clric"
    if data is not None:
        return data.startswith(MAGIC)
    try:
        if isinstance(file, Url) and suffix in Image.registered_extensions():
            return False  # to look into each of a million objects takes hours
        with file.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False  # opening it as a photo will say what is wrong


def expand(
    given: Place, recursive: bool, output: str | None, on_error: OnError, unread: list[Place], *, repair: bool
) -> list[Place]:
    """The file itself, or what a folder stands for.

    A folder that was converted in place holds both kinds: it stands for its photos, so that converting it again finds
    nothing to do, instead of writing a PNG beside every photo. For the same reason an output folder in it is left out.
    `unread` gets the photos in it of kinds that Pillow does not read.
    """
    if not is_folder(given):
        return [given]
    files = list(_files(given, recursive, on_error, leave_out=output))
    if not repair:
        unread += _named(files, UNREAD)
    looked_for = [{".clric"}] if repair else [photo_suffixes(), {".clric"}, _SHARDS]
    kinds = (_named(files, suffixes) for suffixes in looked_for)
    return next(filter(None, kinds), [])


def coded_files(inputs: Sequence[str], *, recursive: bool, on_error: OnError) -> list[Place]:
    """The inputs that are files, and the `.clric` files of those that are folders, each once."""
    found: dict[Place, Place] = {}
    for given in map(readable, inputs):
        paths = _named(_files(given, recursive, on_error), {".clric"}) if is_folder(given) else [given]
        found.update((identity(path), path) for path in paths)
    return list(found.values())


def photos_in(folder: Place, recursive: bool, on_error: OnError) -> list[Place]:
    """The photos in a folder, in order of their names."""
    return _named(_files(folder, recursive, on_error), photo_suffixes())


def _named(files: Iterable[Place], suffixes: set[str]) -> list[Place]:
    return [file for file in files if file.suffix.lower() in suffixes]


def _files(folder: Place, recursive: bool, on_error: OnError, leave_out: str | None = None) -> Iterator[Place]:
    """The files in a folder, in order of their names, but for hidden ones.

    Args:
        folder: the folder to look into.
        recursive: whether to look in the folders below, too. Links to folders are not followed: there may be loops.
        on_error: told of folders that cannot be read.
        leave_out: a folder that is not looked into.
    """
    if isinstance(folder, Url):
        yield from _objects(folder, recursive, on_error, leave_out)
        return
    waiting, left_out = [folder], leave_out and os.path.realpath(leave_out)
    while waiting:
        place, below = waiting.pop(), list[Path]()
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            on_error(error)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                below.append(Path(entry.path))
            elif os.path.isfile(entry) or not os.path.exists(entry):  # of broken links, reading says what is wrong
                yield Path(entry.path)
        if recursive:
            waiting += (path for path in reversed(below) if os.path.realpath(path) != left_out)


def _objects(folder: Url, recursive: bool, on_error: OnError, leave_out: str | None) -> Iterator[Place]:
    """`_files` of a store, whose names may be such as lead elsewhere on a disk: these are errors."""
    left_out = place(leave_out) if leave_out and is_url(leave_out) else None
    try:
        files = folder.files(recursive=recursive)
    except OSError as error:
        on_error(error)
        return
    for file in files:
        parts = file.text.removeprefix(f"{folder}/").split("/")
        if {"", ".", ".."} & set(parts) or (os.sep != "/" and os.sep in file.text):
            on_error(OSError(errno.EINVAL, "no file can have this name", str(file)))
        elif not (any(part.startswith(".") for part in parts) or (left_out and left_out in {*file.parents})):
            yield file
