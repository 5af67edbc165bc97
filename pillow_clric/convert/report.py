"""Report of a batch: lines and bars for people on stderr, records for programs on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import click
from PIL import UnidentifiedImageError

from pillow_clric._terminal import bars
from pillow_clric.convert.inputs import STREAM
from pillow_clric.convert.places import Place
from pillow_clric.convert.plan import Job

__all__ = ["UNIDENTIFIED", "Record", "Report", "json_line", "message", "shown"]

UNIDENTIFIED = "cannot identify its format: it is no image that Pillow can open, or damaged"

Status = Literal["converted", "failed", "planned", "skipped"]


@dataclass(frozen=True)
class Record:
    """Outcome of one file. Its attributes are the keys of `--json`; None stands for what is not known.

    Attributes:
        source: the input; "-" is stdin.
        status: "converted"; "skipped", as the output exists; "failed"; or "planned", by a dry run.
        target: the output; "-" is stdout.
        bytes_in, bytes_out: sizes of input and output.
        width, height: of the picture, in pixels.
        bpp: bits of the `.clric` file per pixel.
        seconds: that it took; of photos that were coded together, the share of one.
        error: why it failed.
        warnings: what is lost of it, or damaged in it.
    """

    source: str
    status: Status
    target: str | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    width: int | None = None
    height: int | None = None
    bpp: float | None = None
    seconds: float | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, job: Job, status: Status, **known: Any) -> Record:
        """The record of a job."""
        return cls(str(job.source), status, STREAM if job.target is None else str(job.target), **known)


class Report:
    """Tells the outcome of files, and on a terminal how far the one at work is.

    Attributes:
        counts: number of files by status.
    """

    def __init__(self, files: int | None, check: Callable[[], None], *, verbosity: int, as_json: bool) -> None:
        """Begin to tell.

        Args:
            files: number of those that are not skipped; None if it is not known.
            check: called whenever there is something to tell; what it raises ends the batch.
            verbosity: 0 for failures only, 1, or 2 for skipped files, too.
            as_json: whether to write records to stdout.
        """
        from rich.progress import MofNCompleteColumn

        self.counts: Counter[Status] = Counter()
        self._bytes_in = self._bytes_out = 0
        self._bits = self._pixels = 0.0
        self._out = sys.stdout  # for records; an engine's libraries may be given another one
        self._check, self._verbosity, self._as_json = check, verbosity, as_json
        self._start = time.perf_counter()
        self._progress = bars(MofNCompleteColumn(), quiet=not verbosity)
        self._files = self._progress.add_task("files", total=files, visible=files != 1)
        self._image = self._progress.add_task("", visible=False)

    def __enter__(self) -> Report:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def begin(self, name: str) -> Callable[[int, int], None]:
        """Show an image; what is returned takes how many of its iterations are done, and of how many."""
        self._progress.reset(self._image, description=shown(name))

        def show(done: int, total: int) -> None:
            self._check()
            self._progress.update(self._image, completed=done, total=total, visible=True)

        return show

    def note(self, line: str) -> None:
        """Say something that concerns the whole batch."""
        if self._verbosity:
            self._progress.console.print(shown(line))

    def tell(self, record: Record) -> None:
        """Count a file as done, and tell its outcome."""
        self.counts[record.status] += 1
        if record.status == "converted":
            pixels = (record.width or 0) * (record.height or 0)
            self._bytes_in += record.bytes_in or 0
            self._bytes_out += record.bytes_out or 0
            self._bits += (record.bpp or 0) * pixels
            self._pixels += pixels
        if record.status != "skipped":
            self._progress.update(self._image, visible=False)
            self._progress.advance(self._files)
        least = {"failed": 0, "skipped": 2}.get(record.status, 1)
        if self._verbosity >= least:
            self._progress.console.print(_line(record))
        if self._as_json:
            click.echo(json_line(asdict(record)), self._out)
        self._check()

    def sum_up(self) -> None:
        """Say how it went in all."""
        if not self._verbosity:
            return
        parts = [f"{self.counts['planned']} to be converted"] if self.counts["planned"] else []
        if not parts:
            sums = _sizes(self._bytes_in, self._bytes_out, self._bits / max(1, self._pixels))
            parts = [f"{self.counts['converted']} converted" + (f": {sums}" if self.counts["converted"] else "")]
        if self.counts["skipped"]:
            parts.append(f"{self.counts['skipped']} skipped, as their outputs exist")
        if self.counts["failed"]:
            parts.append(f"{self.counts['failed']} failed")
        self._progress.console.print(f"{'; '.join(parts)}; {time.perf_counter() - self._start:.1f} s")


def message(error: BaseException, path: Place) -> str:
    """Message of an error that concerns a file, without the error's number and this file's name."""
    if isinstance(error, UnidentifiedImageError):  # which has Python's name for the file
        return UNIDENTIFIED
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename in (None, str(path)) else f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__


def json_line(values: dict[str, Any]) -> str:
    """A record for programs; what is not UTF-8 in a file's name is escaped, as strict readers want it."""
    texts = {
        key: value.encode(errors="backslashreplace").decode() for key, value in values.items() if type(value) is str
    }
    return json.dumps(values | texts)


def shown(text: str) -> str:
    """Text, such as a file's name, in one line and without what terminals would obey."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _line(record: Record) -> str:
    source, target = shown(record.source), shown(record.target or "")
    if record.status == "failed":
        return f"failed: {source}: {shown(record.error or '')}"
    if record.status == "skipped":
        return f"skipped: {source}, as {target} exists"
    line = f"{source} -> {target}"
    if record.status == "planned":
        return line
    line += f": {_sizes(record.bytes_in or 0, record.bytes_out or 0, record.bpp or 0)}, {record.seconds:.1f} s"
    return "\n".join([line, *(f"warning: {source}: {shown(text)}" for text in record.warnings)])


def _sizes(bytes_in: int, bytes_out: int, bpp: float) -> str:
    from rich.filesize import decimal

    small, large = sorted((bytes_in, bytes_out))
    ratio = f"{large / max(1, small):.1f} times {'larger' if bytes_out > bytes_in else 'smaller'}"
    return f"{decimal(bytes_in)} -> {decimal(bytes_out)} ({ratio}), {bpp:.3f} bpp"
