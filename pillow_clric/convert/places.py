"""Places of files: paths on this machine, and URLs of object stores and other systems that fsspec knows.

A `Url` has those methods of `Path` that conversions use. An object is read and written as a whole: stores show it when
all of it has arrived, and an upload that ends early leaves nothing.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any, Literal, cast
from unicodedata import normalize
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click

__all__ = ["Place", "PlaceType", "Url", "folded", "followed", "identity", "is_folder", "is_url", "place", "replaces"]

_PART = 2**16  # bytes that one request reads: the header of most photos
_MISSING = os.strerror(errno.ENOENT)
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass(frozen=True)
class Url:
    """A file or a folder that fsspec finds.

    All methods that look there raise an OSError whose `strerror` says in a line what is wrong.

    Attributes:
        text: the URL, without a slash at its end.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, below: str | PurePath) -> Url:
        path = PurePath(below).as_posix()
        return self if path == "." else Url(f"{self.text}/{path}")

    @property
    def name(self) -> str:
        """Last part of the path; empty of a store's or a bucket's root."""
        return self.text.partition("://")[2].partition("/")[2].rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its end."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """End of the name."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Url:
        """The folder that it is in; of a root, itself."""
        return Url(self.text.removesuffix(f"/{self.name}")) if self.name else self

    def with_name(self, name: str) -> Url:
        """Another file in the same folder."""
        return self.parent / name

    @property
    def parents(self) -> Iterator[Url]:
        """All folders that it is in, from the last to the root."""
        url = self
        while url.parent != url:
            url = url.parent
            yield url

    def relative_to(self, folder: Url) -> PurePosixPath:
        """Path from a folder above it, or itself."""
        return PurePosixPath(self.text.removeprefix(folder.text).removeprefix("/"))

    def is_dir(self) -> bool:
        """Whether it is a folder; of what cannot be looked at, reading says what is wrong."""
        with suppress(OSError), self._found() as (system, path):
            system.invalidate_cache()
            return bool(system.isdir(path))
        return False

    def exists(self) -> bool:
        """Whether there is a file. That there is no bucket is an error."""
        try:
            with self._found() as (system, path):
                system.invalidate_cache()
                return bool(system.info(path)["type"] == "file")
        except FileNotFoundError as error:
            if error.strerror == _MISSING:
                return False
            raise

    def files(self, *, recursive: bool = False) -> list[Url]:
        """The files in a folder, and if asked for those below it, in order of their names; none if it is missing.

        A store's names may have empty parts, or such as "..".
        """
        try:
            with self._found() as (system, path):
                system.invalidate_cache()
                found = system.find(path, detail=True).values() if recursive else system.ls(path, detail=True)
        except FileNotFoundError as error:
            if error.strerror == _MISSING:
                return []
            raise
        names = sorted(entry["name"].removeprefix(path).removeprefix("/") for entry in found if entry["type"] == "file")
        return [Url(f"{self.text}/{name}") for name in names]

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Open it to read parts of it."""
        with self._found() as (system, path):
            return cast(IO[bytes], system.open(path, mode, block_size=_PART))

    def read_bytes(self) -> bytes:
        """Its contents."""
        with self._found() as (system, path):
            return bytes(system.cat_file(path))

    def write_bytes(self, data: bytes, *, overwrite: bool) -> None:
        """Write it as a whole.

        Raises:
            FileExistsError: it is there already, and not to be written over.
        """
        with self._found() as (system, path):
            system.pipe_file(path, data, mode="overwrite" if overwrite else "create")

    @contextmanager
    def _found(self) -> Iterator[tuple[Any, str]]:
        """fsspec's file system and its path there."""
        try:
            from fsspec.core import url_to_fs

            yield url_to_fs(self.text)
        except ImportError as error:
            needed = "" if (error.name or "").startswith("fsspec") else f" ({error})"
            scheme = self.text.partition("://")[0]
            why = f"{scheme}:// needs an extra: pip install 'pillow-clric[cloud]'{needed}"
            raise OSError(errno.ENOSYS, why, self.text) from error
        except Exception as error:  # each store has its own
            raise _as_os_error(error, self.text) from error


Place = Path | Url


class PlaceType(click.Path):
    """Paths, as click checks them, and URLs, of which those of this machine's files become paths."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if is_url(value):
            return value
        path = url2pathname(urlsplit(value).path) if value.startswith("file://") else value
        return super().convert(path, param, ctx)


def is_url(text: str) -> bool:
    """Whether it is the URL of something that is no file on this machine."""
    return bool(_URL.match(text)) and not text.startswith("file:")


def place(text: str) -> Place:
    """Place that a path or a URL names."""
    if not is_url(text):
        return Path(text)
    scheme, _, path = text.partition("://")
    return Url(f"{scheme}://{path.rstrip('/')}")


def is_folder(where: Place) -> bool:
    """Whether there is a folder."""
    return where.is_dir() if isinstance(where, Url) else os.path.isdir(where)


def identity(where: Place) -> Place:
    """One name for one place. A link is its own place: `os.replace` replaces it, not what it points to."""
    return where if isinstance(where, Url) else Path(os.path.realpath(where.parent), where.name)


def folded(where: Place) -> str:
    """Text that is equal for places that are one on some disk, as of macOS and Windows.

    There it makes no difference whether letters are small, and how those with accents are composed.
    """
    return normalize("NFD", normalize("NFD", str(where)).casefold())


def followed(where: Place) -> Place:
    """The place that links lead to."""
    return where if isinstance(where, Url) else Path(os.path.realpath(where))


def replaces(target: Place, source: Place) -> bool:
    """Whether writing to a place replaces what another one is read from, or the link that leads there."""
    if isinstance(target, Path) and isinstance(source, Path):
        with suppress(OSError):  # one is not there
            own = os.lstat(target)
            return os.path.samestat(own, os.lstat(source)) or os.path.samestat(own, os.stat(source))
    return identity(target) in (identity(source), followed(source))


def _as_os_error(error: Exception, url: str) -> OSError:
    """The error as one of the operating system's: of its kind, with a text of one line."""
    kind = type(error) if isinstance(error, (FileExistsError, FileNotFoundError, PermissionError)) else OSError
    codes = {FileExistsError: errno.EEXIST, FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
    code = codes.get(kind, errno.EIO)
    text = getattr(error, "strerror", None) or str(error)
    if kind is not OSError and (not text or text.strip("/") in url):  # systems that only name the file
        text = os.strerror(code)  # as for a file
    return kind(code, " ".join(text.split()) or type(error).__name__, url)
