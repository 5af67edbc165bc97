"""Files that are written completely or not at all, whatever ends the process.

A file is first written under a temporary hidden name in its folder, and is locked meanwhile. What a process that was
killed leaves of it is thus told from what another one is writing just now.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import IO

from pillow_clric._terminal import discard
from pillow_clric.convert.places import Place, Url

if sys.platform != "win32":
    import fcntl

__all__ = ["is_stream", "obstacle", "remove_leftovers", "write"]

# Folders of devices and of descriptors, through which a shell hands over files that it has opened
_DEVICES = re.compile("/dev(/fd)?|/proc/.*/fd")


def write(target: Place | None, data: bytes, *, overwrite: bool = False, like: Place | None = None) -> None:
    """Write a file completely or, on an error or an interrupt, not at all.

    Args:
        target: its folder is made if it is missing. A link is replaced, not followed. None is stdout. What is a
            stream cannot be replaced: it gets the data, or on an error a part of them.
        data: the contents.
        overwrite: whether it may replace a file, whose permissions it gets. One that holds the same is as good as
            written.
        like: a file whose times and permissions it gets, where both are on this machine.

    Raises:
        OSError: it cannot be written, or is there already; `strerror` is a sentence that says which file, and why.
    """
    try:
        if target is None:
            _write_to_stdout(data)
        elif isinstance(target, Url):
            _write_object(target, data, overwrite)
        elif is_stream(target):
            with target.open("ab") as stream:
                stream.write(data)
        else:
            _write_file(target, data, overwrite, like)
    except OSError as error:
        why = f"{target or 'stdout'} cannot be written: {error.strerror or error}"
        raise OSError(error.errno, why) from error


def _write_object(target: Url, data: bytes, overwrite: bool) -> None:
    try:
        target.write_bytes(data, overwrite=overwrite)
    except FileExistsError:
        _check_same(target, data)


def _write_file(target: Path, data: bytes, overwrite: bool, like: Place | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(target.parent) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if isinstance(like, Path):
                shutil.copystat(like, temporary)
            elif os.path.isfile(target) and not os.path.islink(target):  # what is private stays so
                shutil.copymode(target, temporary)
            if sys.platform == "win32":
                file.close()  # or it could not be renamed
            if not overwrite and os.path.lexists(target):
                _check_same(target, data)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def _check_same(target: Place, data: bytes) -> None:
    """Refuse to replace a file that was written meanwhile, unless it holds the same: a node that was lost wrote it."""
    with suppress(OSError):
        if target.read_bytes() == data:
            return
    raise FileExistsError("something else wrote it meanwhile, and it was left as it is")


def is_stream(path: Place) -> bool:
    """Whether a path names what can be read but once, and not be replaced: a pipe, a device, an open file."""
    if isinstance(path, Url):
        return False
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except OSError:
        return False
    of_devices = _DEVICES.fullmatch(os.path.realpath(path.parent))
    return kind not in ({stat.S_IFDIR} if of_devices else {stat.S_IFDIR, stat.S_IFREG})


def remove_leftovers(folder: Place) -> None:
    """Remove the temporary files that killed processes left in a folder, which need not exist."""
    if isinstance(folder, Url):
        return
    for path in folder.glob(".clric-*.tmp"):
        with suppress(OSError):  # it is being written, or gone by now
            if sys.platform == "win32":
                path.unlink()  # which fails for files that are open
            else:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()


def obstacle(target: Place) -> str:
    """Reason why `target` cannot be written, found without writing anything; "" if there is none known."""
    if isinstance(target, Url):
        return ""
    if os.path.isdir(target):
        return f"{target} is a folder"
    if is_stream(target):
        return ""
    try:
        os.lstat(target)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # the name is too long, links go round in circles ...
        return f"{target} cannot be written: {error.strerror}"
    place = target.parent
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):
        return f"{place} is no folder"
    return "" if os.access(place, os.W_OK | os.X_OK) else f"nothing can be written to the folder {place}"


def _write_to_stdout(data: bytes) -> None:
    stream = sys.stdout.buffer
    try:
        stream.write(data)
        stream.flush()
    except OSError:
        discard(stream)
        raise


def _temporary(folder: Path) -> IO[bytes]:
    """A new file that others see to be in use."""
    while True:
        file = (folder / f".clric-{token_hex(8)}.tmp").open("xb")
        if sys.platform != "win32":
            with suppress(OSError):  # a file system without locks; `remove_leftovers` leaves such files alone
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.lexists(file.name):  # it was not taken for left over before it was locked
            return file
        file.close()
