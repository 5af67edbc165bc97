"""Plan of a conversion, made and checked before anything is written."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import click
from PIL import Image

from codec.container import MAGIC
from pillow_clric.convert.outputs import is_stream, obstacle

__all__ = ["STREAM", "Job", "Plan", "coded_files", "make_plan"]

STREAM = "-"  # stdin as an input, stdout as an output

# Formats of a folder's photos. Not all that Pillow opens: folders also hold PostScript, HDF5 and films.
_PHOTO_FORMATS = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"}

OnError = Callable[[OSError], None]


@dataclass(frozen=True)
class Job:
    """One file to convert.

    Attributes:
        source: a photo or a `.clric` file.
        target: the file to write, or None for stdout.
        encoding: whether `source` is the photo.
        data: bytes of the source, if that is a stream: they can be read but once.
    """

    source: Path
    target: Path | None
    encoding: bool
    data: bytes | None = None

    @property
    def suffix(self) -> str:
        """The end of the target's name, which says its format."""
        suffix = "" if self.target is None else self.target.suffix.lower()
        if suffix not in Image.registered_extensions() and (self.target is None or is_stream(self.target)):
            return ".clric" if self.encoding else ".png"
        return suffix

    def read(self) -> bytes:
        """The contents of the source."""
        return self.source.read_bytes() if self.data is None else self.data


@dataclass(frozen=True)
class Plan:
    """Plan of a conversion.

    Attributes:
        jobs: those to be done.
        skipped: those that are not done, as their targets exist.
        failures: files and folders that cannot be converted, and why.
        renamed: targets that are named with the ends of their sources' names, as these differ in nothing else.
    """

    jobs: list[Job]
    skipped: list[Job]
    failures: list[tuple[str, str]]
    renamed: list[Path]


def make_plan(inputs: Sequence[str], output: str | None, *, recursive: bool, overwrite: bool) -> Plan:
    """Plan the conversion of all inputs, each once.

    Args:
        inputs: files, folders, or `STREAM` alone.
        output: a file, a folder, `STREAM`, or None: beside each input.
        recursive: whether folders stand for what is in the folders below them, too; outputs are laid out alike.
        overwrite: whether targets that exist are written over; they are skipped otherwise.

    Raises:
        click.UsageError: `output` does not fit the inputs, or files are in each other's way.
    """
    inputs = [STREAM if given == "/dev/stdin" else given for given in inputs]
    output = STREAM if output == "/dev/stdout" else output
    plan = Plan([], [], [], [])
    found = _jobs(
        inputs, output, recursive, lambda error: plan.failures.append((error.filename, error.strerror or str(error)))
    )
    found = _told_apart(found, plan.renamed)
    for job in found:
        if job.target is None or is_stream(job.target):
            plan.jobs.append(job)
        elif not overwrite and os.path.lexists(job.target) and not os.path.isdir(job.target):
            plan.skipped.append(job)
        elif why := obstacle(job.target):
            plan.failures.append((str(job.source), why))
        else:
            plan.jobs.append(job)
    _check_targets(plan.jobs, found)
    return plan


def coded_files(inputs: Sequence[str], *, recursive: bool, on_error: OnError) -> list[Path]:
    """The inputs that are files, and the `.clric` files of those that are folders, each once."""
    found: dict[Path, Path] = {}
    for given in map(Path, inputs):
        paths = _coded(_files(given, recursive, on_error)) if os.path.isdir(given) else [given]
        found.update((_place(path), path) for path in paths)
    return list(found.values())


def _jobs(inputs: Sequence[str], output: str | None, recursive: bool, on_error: OnError) -> list[Job]:
    if output is None and STREAM in inputs:
        output = STREAM
    if output is not None and not _means_folder(output):
        if len(inputs) > 1 or os.path.isdir(inputs[0]):
            what = "stdout takes one file only" if output == STREAM else f"{output} is a file or named like one"
            raise click.UsageError(f"these inputs need a folder as output, and {what}")
        return [_single(inputs[0], output)]
    if STREAM in inputs:
        raise click.UsageError("what stdin gives has no name to be called by in a folder: name a file as output")

    jobs: dict[Path, Job] = {}
    for given in map(Path, inputs):
        for source in _expand(given, recursive, output, on_error):
            if _place(source) in jobs:
                continue
            data = _streamed(source)
            encoding = not _is_coded(source, data)
            folder = source.parent
            if output is not None:
                folder = Path(output, folder.relative_to(given)) if os.path.isdir(given) else Path(output)
            target = folder / (source.stem + (".clric" if encoding else ".png"))
            jobs[_place(source)] = Job(source, target, encoding, data)
    return list(jobs.values())


def _told_apart(jobs: list[Job], renamed: list[Path]) -> list[Job]:
    """The jobs; targets that would be the same keep the ends of their sources' names: a.jpg.clric, a.png.clric."""
    count = Counter(_place(job.target) for job in jobs if job.target)
    same = [job for job in jobs if job.target and count[_place(job.target)] > 1 and job.target.stem != job.source.name]
    if not same:
        return jobs
    longer = {job: job.target.with_name(job.source.name + job.suffix) for job in same if job.target}
    renamed += longer.values()
    jobs = [replace(job, target=longer.get(job, job.target)) for job in jobs]
    return _told_apart(jobs, renamed)  # others may be called so already


def _single(given: str, output: str) -> Job:
    """Job of one input for one file or stdout."""
    if output == STREAM and sys.stdout.isatty():
        raise click.UsageError("a terminal shows no pictures: name an output, or pipe it to another program")
    source, target = Path(given), None if output == STREAM else Path(output)
    data = _stdin() if given == STREAM else _streamed(source)
    job = Job(source, target, not _is_coded(source, data), data)
    if job.encoding != (job.suffix == ".clric"):
        kind = (
            "a photo: its output must be named .clric" if job.encoding else "a .clric file: its output must be a photo"
        )
        raise click.UsageError(f"{given} is {kind}, not {output}")
    if Image.registered_extensions().get(job.suffix) not in Image.SAVE:
        raise click.UsageError(f"files named {job.suffix or 'without a dot'} cannot be written")
    return job


def _streamed(source: Path) -> bytes | None:
    """The contents of a stream; None of a file, and of what cannot be read: trying once more will say why."""
    with suppress(OSError):
        return source.read_bytes() if is_stream(source) else None
    return None


def _stdin() -> bytes:
    stream: TextIO | None = sys.stdin
    if stream is None:
        raise click.UsageError("stdin is closed")
    try:
        return stream.buffer.read()
    except OSError as error:
        raise click.UsageError(f"stdin cannot be read: {error.strerror or error}") from error


def _check_targets(todo: Sequence[Job], jobs: Sequence[Job]) -> None:
    """Refuse jobs by which a file would be lost.

    Args:
        todo: the jobs that will be done, of `jobs`.
        jobs: all jobs; none of their inputs is written over, and nothing is written twice.

    Raises:
        click.UsageError: says which files are in each other's way.
    """
    inputs = {_place(job.source) for job in jobs if job.data is None}
    for job in todo:
        if job.target and _place(job.target) in inputs:
            raise click.UsageError(f"{job.source} would be written over the input {job.target}: name another output")
    first: dict[Path, Job] = {}
    for job in jobs:
        other = first.setdefault(_place(job.target), job) if job.target else job
        if other is not job:
            raise click.UsageError(f"{other.source} and {job.source} would both be written to {job.target}")


def _expand(path: Path, recursive: bool, output: str | None, on_error: OnError) -> list[Path]:
    """The file itself, or what a folder stands for.

    A folder that was converted in place holds both kinds: it stands for its photos, so that converting it again finds
    nothing to do, instead of writing a PNG beside every photo. For the same reason an output folder in it is left out.
    """
    if not os.path.isdir(path):
        return [path]
    photos = {suffix for suffix, name in Image.registered_extensions().items() if name in _PHOTO_FORMATS}
    files = list(_files(path, recursive, on_error, leave_out=output))
    return [file for file in files if file.suffix.lower() in photos] or _coded(files)


def _coded(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if file.suffix.lower() == ".clric"]


def _files(folder: Path, recursive: bool, on_error: OnError, leave_out: str | None = None) -> Iterator[Path]:
    """The files in a folder, in order of their names, but for hidden ones.

    Args:
        folder: the folder to look into.
        recursive: whether to look in the folders below, too. Links to folders are not followed: there may be loops.
        on_error: told of folders that cannot be read.
        leave_out: a folder that is not looked into.
    """
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


def _means_folder(output: str) -> bool:
    if output == STREAM:
        return False
    if os.path.isdir(output) or output.endswith(("/", os.sep)):
        return True
    return not (os.path.lexists(output) or Path(output).suffix.lower() in Image.registered_extensions())


def _is_coded(path: Path, data: bytes | None = None) -> bool:
    """Whether a file is a `.clric` file, by name or content: one that is damaged, or renamed, is no photo."""
    if path.suffix.lower() == ".clric":
        return True
    if data is not None:
        return data.startswith(MAGIC)
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False  # opening it as a photo will say what is wrong


def _place(path: Path) -> Path:
    """One name for one place. A link is its own place: `os.replace` replaces it, not what it points to."""
    return Path(os.path.realpath(path.parent), path.name)
