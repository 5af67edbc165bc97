"""Plan of a conversion, made and checked before anything is written."""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePath
from typing import IO

import click
from PIL import Image

from pillow_clric.convert.inputs import (
    CODED,
    STREAM,
    UNREAD,
    OnError,
    contents,
    expand,
    is_coded,
    is_shard,
    photos_in,
    readable,
    streamed,
)
from pillow_clric.convert.outputs import is_stream, obstacle
from pillow_clric.convert.places import Place, Url, folded, followed, identity, is_folder, is_url, place, replaces

__all__ = ["Job", "Plan", "make_plan"]

_FEW = 16  # outputs in one folder of a store of which each is asked for; of more the folder is listed


@dataclass(frozen=True)
class Job:
    """One file to convert.

    Attributes:
        source: a photo, a `.clric` file, or a shard of either.
        target: the file to write, or None for stdout.
        encoding: whether `source` is the photo; of shards, whether it may hold photos.
        data: bytes of the source, if that is a stream, which can be read but once, or a part of a shard.
        importance: picture of how important its parts are, if there is one.
    """

    source: Place
    target: Place | None
    encoding: bool
    data: bytes | None = None
    importance: Place | None = None

    @property
    def is_shard(self) -> bool:
        """Whether the source holds many photos."""
        return self.data is None and is_shard(self.source)

    @property
    def suffix(self) -> str:
        """The end of the target's name, which says its format."""
        suffix = "" if self.target is None else self.target.suffix.lower()
        if suffix not in Image.registered_extensions() and (self.target is None or is_stream(self.target)):
            return ".clric" if self.encoding else ".png"
        return suffix

    def open(self) -> IO[bytes]:
        """The source, to read parts of it."""
        return self.source.open("rb") if self.data is None else BytesIO(self.data)

    def read(self) -> bytes:
        """The contents of the source."""
        return contents(self.source) if self.data is None else self.data


@dataclass(frozen=True)
class Plan:
    """Plan of a conversion.

    Attributes:
        jobs: those to be done.
        skipped: those that are not done, as their targets exist.
        failures: files and folders that cannot be converted, and why.
        renamed: targets that are named with the ends of their sources' names, as these differ in nothing else that
            counts on every disk.
        alike: photos for which a folder of importance has nothing.
        unread: photos in folders that are left out, as Pillow does not read such.
    """

    jobs: list[Job]
    skipped: list[Job]
    failures: list[tuple[str, str]]
    renamed: list[Place]
    alike: list[Place]
    unread: list[Place]

    @property
    def notes(self) -> Iterator[str]:
        """Sentences about what may surprise."""
        if not (self.jobs or self.skipped or self.failures):
            yield "no photos and no .clric files are there: --recursive looks into folders below, too"
        if self.renamed:
            yield (
                f"{len(self.renamed)} outputs are named like {self.renamed[0]}: on some disks their inputs' names "
                "differ only in their ends"
            )
        if self.alike:
            yield f"{len(self.alike)} photos like {self.alike[0]} have no mask: all of each counts alike"
        if self.unread:
            yield f"{len(self.unread)} photos like {self.unread[0]} are left out: Pillow does not read such"


def make_plan(
    inputs: Sequence[str], output: str | None, *, recursive: bool, overwrite: bool, repair: bool = False,
    importance: str | None = None,
) -> Plan:  # fmt: skip
    """Plan the conversion of all inputs, each once.

    Args:
        inputs: files, folders, URLs of either, or `STREAM` alone.
        output: a file, a folder, a URL, `STREAM`, or None: beside each input.
        recursive: whether folders stand for what is in the folders below them, too; outputs are laid out alike.
        overwrite: whether targets that exist are written over; they are skipped otherwise.
        repair: whether `.clric` files become such files again, and photos are refused.
        importance: of the parts of photos, a picture for all of them, or a folder with those of their names, laid out
            like the folders of the inputs.

    Raises:
        click.UsageError: `output` does not fit the inputs, or files are in each other's way.
    """
    inputs = [STREAM if given == "/dev/stdin" else given for given in inputs]
    output = STREAM if output == "/dev/stdout" else output
    plan = Plan([], [], [], [], [], [])

    def on_error(error: OSError) -> None:
        plan.failures.append((error.filename, error.strerror or str(error)))

    found = _jobs(inputs, output, recursive, repair, on_error, plan.unread)
    if importance is not None:
        found = _with_importance(found, inputs, place(importance), recursive, on_error)
    for job in found:
        if repair and (job.encoding or job.is_shard):
            raise click.UsageError(f"{job.source} is no .clric file: there is nothing to repair")
    found = _told_apart(found, plan.renamed)
    existing, failed = (set[Place](), dict[Place, str]()) if overwrite else _existing(found)
    for job in found:
        if job.target is None or is_stream(job.target):
            plan.jobs.append(job)
        elif job.target in existing:
            plan.skipped.append(job)
        elif why := failed.get(job.target) or obstacle(job.target):
            plan.failures.append((str(job.source), why))
        else:
            plan.jobs.append(job)
    _check_targets(plan.jobs, found)
    if importance is not None:
        plan.alike.extend(job.source for job in plan.jobs if job.encoding and job.importance is None)
    return plan


def _jobs(
    inputs: Sequence[str], output: str | None, recursive: bool, repair: bool, on_error: OnError, unread: list[Place]
) -> list[Job]:
    if output is None and STREAM in inputs:
        output = STREAM
    if output is not None and not _means_folder(output):
        if len(inputs) > 1 or is_folder(place(inputs[0])):
            what = "stdout takes one file only" if output == STREAM else f"{output} is a file or named like one"
            raise click.UsageError(f"these inputs need a folder as output, and {what}")
        return [_single(inputs[0], output, repair=repair)]
    if STREAM in inputs:
        raise click.UsageError("what stdin gives has no name to be called by in a folder: name a file as output")

    jobs: dict[Place, Job] = {}
    for given in map(place, inputs):
        laid_out = is_folder(given)
        for source in expand(given, recursive, output, on_error, unread, repair=repair):
            if identity(source) in jobs:
                continue
            job = _for_folder(source, output, given if laid_out else source.parent, repair=repair)
            if job.target != source:
                jobs[identity(source)] = job
            elif laid_out and not job.is_shard and source.suffix.lower() != ".clric":
                on_error(OSError(errno.EINVAL, CODED, str(source)))
            else:
                raise click.UsageError(f"{source} would be written over: name another folder as output")
    return list(jobs.values())


def _for_folder(source: Place, output: str | None, top: Place, *, repair: bool) -> Job:
    """Job of a file whose target is called like it, in a folder that is laid out like another one, or beside it."""
    data = streamed(source)
    encoding = not is_coded(source, data)
    folder = source.parent if output is None else place(output) / _below(source.parent, top)
    name = source.name if is_shard(source) else source.stem + (".clric" if encoding or repair else ".png")
    return Job(source, folder / name, encoding, data)


def _with_importance(
    jobs: list[Job], inputs: Sequence[str], given: Place, recursive: bool, on_error: OnError
) -> list[Job]:
    """The jobs, those of photos with the importance of their parts: a file, or what a folder has by their names.

    Raises:
        click.UsageError: there is a folder, but photos in shards have no names of files; or a stream for many photos.
    """
    if not is_folder(given):
        if is_stream(given) and (len(jobs) > 1 or any(job.is_shard for job in jobs)):
            raise click.UsageError(f"{given} can be read but once: name a file as importance of several photos")
        return [replace(job, importance=given) if job.encoding else job for job in jobs]
    if any(job.is_shard for job in jobs):
        raise click.UsageError("--importance takes a folder for files only: name one picture for all photos of shards")
    known = {(_below(file.parent, given), file.stem): file for file in photos_in(given, recursive, on_error)}
    named, found = [*map(place, inputs)], list[Job]()
    folders = [folder for folder in named if is_folder(folder)]
    above = {*folders} & {*given.parents}  # in a folder of photos, it is none of them
    for job in jobs:
        parents = [*job.source.parents]
        if given in parents and above and not {given, job.source} & {*named}:
            continue
        top = next((folder for folder in folders if folder in parents), job.source.parent)
        name = _below(job.source.parent, top), job.source.stem
        found.append(replace(job, importance=known.get(name)) if job.encoding else job)
    return found


def _below(path: Place, folder: Place) -> PurePath:
    """The path from a folder to what is in it."""
    if isinstance(path, Url) and isinstance(folder, Url):
        return path.relative_to(folder)
    assert isinstance(path, Path)
    assert isinstance(folder, Path)
    return path.relative_to(folder)


def _existing(jobs: Sequence[Job]) -> tuple[set[Place], dict[Place, str]]:
    """The targets that exist, and those where that cannot be found out, with the reason."""
    existing, failed, by_folder = set[Place](), dict[Place, str](), defaultdict[Url, list[Url]](list)
    for target in (job.target for job in jobs):
        if isinstance(target, Url):
            by_folder[target.parent].append(target)
        elif target and os.path.lexists(target) and not os.path.isdir(target):
            existing.add(target)
    for folder, targets in by_folder.items():
        try:
            existing |= {*folder.files()} if len(targets) > _FEW else {*filter(Url.exists, targets)}
        except OSError as error:
            failed |= {target: f"{target} cannot be written: {error.strerror}" for target in targets}
    return existing, failed


def _told_apart(jobs: list[Job], renamed: list[Place]) -> list[Job]:
    """The jobs; targets that would be the same keep the ends of their sources' names: a.jpg.clric, a.png.clric.

    Names are the same if they are on any disk, wherever they are written. Those that still are, as of A.jpg and a.jpg,
    get a number, but for the first: A.jpg.clric, a.jpg-2.clric. What is the same on every disk is left to be refused.
    """
    targets, changes = {job: identity(job.target) for job in jobs if job.target}, Counter[Job]()

    def again(same: list[Job]) -> list[Job]:
        first, *others = same
        unchanged = [job for job in same if not changes[job]] if others else []
        return unchanged or [job for job in others if targets[job] != targets[first]]

    while found := [job for same in _alike(targets) for job in again(same)]:
        changes.update(found)
        for job in found:
            name = job.source.stem if job.is_shard else job.source.name
            number = f"-{changes[job]}" if changes[job] > 1 else ""
            targets[job] = targets[job].with_name(f"{name}{number}{job.suffix}")

    longer = {
        job: job.target.with_name(targets[job].name)
        for job in jobs
        if job.target and job.target.name != targets[job].name
    }
    renamed += longer.values()
    return [replace(job, target=longer.get(job, job.target)) for job in jobs]


def _alike(targets: Mapping[Job, Place]) -> Iterable[list[Job]]:
    """Jobs by targets that are the same on any disk."""
    alike = defaultdict[str, list[Job]](list)
    for job, target in targets.items():
        alike[folded(target)].append(job)
    return alike.values()


def _single(given: str, output: str, *, repair: bool) -> Job:
    """Job of one input for one file or stdout."""
    if output == STREAM and sys.stdout.isatty():
        raise click.UsageError("a terminal shows no pictures: name an output, or pipe it to another program")
    source, target = place(given), None if output == STREAM else place(output)
    data = streamed(readable(given))
    job = Job(source, target, not is_coded(source, data), data)
    if job.is_shard:
        if job.suffix != source.suffix.lower():
            raise click.UsageError(f"{given} is a shard: its output must be named {source.suffix.lower()}, too")
        return job
    if repair:
        if target is not None and job.suffix != ".clric":
            raise click.UsageError(f"what --repair writes must be named .clric, not {output}")
        return job
    if job.encoding != (job.suffix == ".clric"):
        kind = (
            "a photo: its output must be named .clric" if job.encoding else "a .clric file: its output must be a photo"
        )
        raise click.UsageError(f"{given} is {kind}, not {output}")
    if Image.registered_extensions().get(job.suffix) not in Image.SAVE:
        raise click.UsageError(f"files named {job.suffix or 'without a dot'} cannot be written")
    return job


def _check_targets(todo: Sequence[Job], jobs: Sequence[Job]) -> None:
    """Refuse jobs by which a file would be lost.

    Args:
        todo: the jobs that will be done, of `jobs`.
        jobs: all jobs; none of their inputs is written over, and nothing is written twice.

    Raises:
        click.UsageError: says which files are in each other's way.
    """
    inputs = defaultdict[str, list[Place]](list)
    masks = {job.importance for job in jobs if job.importance}
    for source in itertools.chain((job.source for job in jobs if job.data is None), masks):
        for name in {identity(source), followed(source)}:
            inputs[folded(name)].append(source)
    for job in todo:
        target = job.target
        if target and any(replaces(target, source) for source in inputs.get(folded(identity(target)), ())):
            raise click.UsageError(f"{job.source} would be written over the input {job.target}: name another output")
    first: dict[Place, Job] = {}
    for job in jobs:
        other = first.setdefault(identity(job.target), job) if job.target else job
        if other is not job:
            raise click.UsageError(f"{other.source} and {job.source} would both be written to {job.target}")


def _means_folder(output: str) -> bool:
    if output == STREAM:
        return False
    if output.endswith(("/", os.sep)) or (not is_url(output) and os.path.isdir(output)):
        return True
    suffix, known = place(output).suffix.lower(), Image.registered_extensions()
    if suffix in UNREAD and suffix not in known:
        raise click.UsageError(
            f"{output}: Pillow does not write {suffix} files: choose another format, or for a folder {output}{os.sep}"
        )
    named = is_shard(place(output)) or suffix in known
    return not (named or (not is_url(output) and os.path.lexists(output)))
