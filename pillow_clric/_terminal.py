"""Output of commands: lines, and on a terminal bars with the time that is left.

What cannot be said (a full disk, a reader that has gone, a stream that was closed) ends no conversion; the exit status
tells of it.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

__all__ = ["bars", "discard", "ignore_warnings_of_pillow", "speaking"]


@contextmanager
def speaking() -> Iterator[None]:
    """Let nothing that is written to stdout or stderr raise an error; end with status 1 if some of it was lost.

    Pillow's warnings are not for people: they name lines of its code, not files.
    """
    _open_streams()
    told = sys.stdout, sys.stderr
    streams = _Speech(_buffered(sys.stdout)), _Speech(_buffered(sys.stderr))
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    status: Any = 0
    try:
        with warnings.catch_warnings():
            ignore_warnings_of_pillow()
            yield
    except SystemExit as end:
        status = end.code
    except OSError as error:  # of what nothing else has told, such as that the current folder is gone
        status = 1
        sys.stderr.write(f"Error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}\n")
    finally:
        sys.stdout.flush()
        lost = streams[0].error
        if lost and not isinstance(lost, BrokenPipeError):  # a reader that has gone knows why
            sys.stderr.write(f"stdout cannot be written: {lost.strerror or lost}\n")
        sys.stderr.flush()
        sys.stdout, sys.stderr = told
    sys.exit(status or int(any(stream.error for stream in streams)))


def ignore_warnings_of_pillow() -> None:
    """Ignore what Pillow warns of: large images, odd EXIF ..."""
    warnings.filterwarnings("ignore", module="PIL")


def discard(stream: IO[Any]) -> None:
    """Let a stream that failed write to nowhere, or Python would try again, and complain, when it ends."""
    with suppress(OSError):  # it has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Speech:
    """A stream of text that keeps the first error of writing to it, and escapes what its encoding lacks.

    Attributes:
        error: that error, if there was one.
    """

    def __init__(self, stream: TextIO) -> None:
        self.error: OSError | None = None
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        self._attempt(self._stream.write, text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[..., object], *arguments: str) -> None:
        try:
            action(*arguments)
        except OSError as error:
            self.error = self.error or error
            discard(self._stream)


def _open_streams() -> None:
    """Open standard streams that are closed, as ones that nothing can be written to; files would get their numbers."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDONLY)
            os.set_inheritable(descriptor, True)
            if name != "stdin":
                setattr(sys, name, os.fdopen(descriptor, "w"))


def _buffered(stream: TextIO) -> TextIO:
    """The stream with a buffer, which it lacks under `python -u`: what is written without may be written in part."""
    if not isinstance(getattr(stream, "buffer", None), RawIOBase):
        return stream
    return open(stream.fileno(), "w", 1, encoding=stream.encoding, errors=stream.errors, closefd=False)


def bars(amount: ProgressColumn, *, quiet: bool = False, period: float = 30) -> Progress:
    """Progress bars of tasks by their descriptions, which vanish at the end; lines go to their console.

    Args:
        amount: how to say how much is done.
        quiet: whether only lines are shown.
        period: seconds from which speed is estimated.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), amount, TimeRemainingColumn()
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    disabled = quiet or not sys.stderr.isatty()
    return Progress(  # stdout is for data
        *columns, console=console, speed_estimate_period=period, transient=True, redirect_stdout=False, disable=disabled
    )
