"""The command `clric-convert`: photos to `.clric` files and back, in batches."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from PIL import Image

from codec.container import MAGIC
from pillow_clric import __version__
from pillow_clric.batches import Job, Options, Result, results_of
from pillow_clric.compare import compare
from pillow_clric.models import models
from pillow_clric.thumbnail import thumbnail

__all__ = ["main"]

# What a folder's images are. Not all that Pillow opens: folders also hold PostScript, HDF5 and films.
_PHOTO_FORMATS = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"}


@dataclass(frozen=True)
class Tally:
    """What was converted: one file, or the sum of many."""

    files: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    coded: int = 0  # bytes on the side of `.clric`
    pixels: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.files + other.files,
            self.bytes_in + other.bytes_in,
            self.bytes_out + other.bytes_out,
            self.coded + other.coded,
            self.pixels + other.pixels,
        )

    def __str__(self) -> str:
        from rich.filesize import decimal

        bpp = 8 * self.coded / max(1, self.pixels)
        small, large = sorted((self.bytes_in, self.bytes_out))
        ratio = f"{large / max(1, small):.1f} times {'larger' if self.bytes_out > self.bytes_in else 'smaller'}"
        return f"{decimal(self.bytes_in)} -> {decimal(self.bytes_out)} ({ratio}), {bpp:.3f} bpp"


def _to_bytes(_context: click.Context, _option: click.Parameter, size: str | None) -> int | None:
    """A size with or without a unit as a number of bytes."""
    if size is None:
        return None
    units = {"": 1, "k": 10**3, "ki": 2**10, "m": 10**6, "mi": 2**20}
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([km]i?|)b?", size.lower())
    count = int(float(found[1]) * units[found[2]]) if found else 0
    if count < 1:
        raise click.BadParameter(f"{size!r} is no size such as 50000, 200kB, 1.5MB or 64KiB")
    return count


class _Main(click.Command):
    """Converts, unless the first argument is the name of another command."""

    others = MappingProxyType({"compare": compare, "models": models, "thumbnail": thumbnail})

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args and args[0] in self.others:
            return self.others[args[0]].make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", metavar="OUT", help="File or folder to write. Default: beside each input.")
@click.option(
    "-q",
    "--quality",
    type=click.FloatRange(0, 100),
    help="0 to 100: more is better and larger. Default: 75; 95 for what a .clric file is converted to.",
)
@click.option(
    "--target-size",
    metavar="SIZE",
    callback=_to_bytes,
    help="Bytes of each .clric file, such as 50000, 200kB or 64KiB, instead of a quality.",
)
@click.option(
    "--target-bpp",
    metavar="BPP",
    type=click.FloatRange(0, min_open=True),
    help="Bits per pixel of each .clric file, instead of a quality.",
)
@click.option(
    "-e",
    "--effort",
    type=click.Choice([*"123456789", "paper"]),
    default="5",
    show_default=True,
    metavar="N",
    help='1 to 9: more is slower, smaller. "paper": the published recipe, for comparison.',
)
@click.option("--profile", metavar="NAME", default="clric", show_default=True, help="Coding profile.")
@click.option("--model", metavar="NAME", default="base", show_default=True, help="Autoencoder, of profile clric.")
@click.option("--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps ...")
@click.option(
    "-j",
    "--jobs",
    "workers",
    type=click.IntRange(1),
    metavar="N",
    help="Processes that share the files, one thread each; on a GPU, threads that read ahead. Default: one per core.",
)
@click.option("--overwrite", is_flag=True, help="Write over existing files; they are skipped otherwise.")
@click.version_option(__version__)
def main(
    inputs: tuple[Path, ...],
    output: str | None,
    quality: float | None,
    target_size: int | None,
    target_bpp: float | None,
    effort: str,
    profile: str,
    model: str,
    device: str,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Convert photos to .clric files, and .clric files to PNG or other formats. Metadata are kept.

    An INPUT that is a folder stands for the photos directly in it, or, if there are none, for its .clric files.

    OUT is a folder if it is one already, if it ends with a slash, or if it is not named like an image; it must be for
    several inputs or a folder. It is created if it is missing.

    Each output is written whole or not at all, and never over an input. Exit status: 0 if all went well, 1 if a file
    could not be converted, 2 if the command is wrong, 130 if it was interrupted.

    Other commands: `clric-convert models` lists, adds, fetches and removes models; `clric-convert thumbnail` makes a
    small PNG file.
    """
    if sum(given is not None for given in (quality, target_size, target_bpp)) > 1:
        raise click.UsageError("give only one of --quality, --target-size and --target-bpp")
    exertion = int(effort) if effort.isdigit() else effort
    options = Options(quality, target_size, target_bpp, exertion, profile, model, device)
    try:
        jobs = plan(inputs, output)
        todo = [job for job in jobs if overwrite or not job.target.exists()]
        check_targets(todo, jobs)
        if any(job.encoding for job in todo):
            check_profile(profile, model)
        failed = convert_all(todo, options, workers, skipped=len(jobs) - len(todo))
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(1 if failed else 0)


def plan(inputs: Iterable[Path], output: str | None) -> list[Job]:
    """What to convert into what, each input once.

    Raises:
        click.UsageError: `output` does not fit the inputs.
    """
    inputs = list(inputs)
    sources = list({_place(path): path for given in inputs for path in _expand(given)}.values())
    if output is not None and not _means_folder(output, inputs):
        return [_job_to_file(inputs[0], Path(output))]

    jobs = []
    for source in sources:
        encoding = not _is_clric(source)
        folder = source.parent if output is None else Path(output)
        jobs.append(Job(source, folder / (source.stem + (".clric" if encoding else ".png")), encoding))
    return jobs


def check_targets(todo: list[Job], jobs: list[Job]) -> None:
    """Find before the start what would be lost.

    Args:
        todo: the jobs that will be done, of `jobs`.
        jobs: all jobs; none of their inputs is written over, and nothing is written twice.

    Raises:
        click.UsageError: says which files are in each other's way.
    """
    inputs = {_place(job.source) for job in jobs}
    for job in todo:
        if _place(job.target) in inputs:
            raise click.UsageError(f"{job.source} would be written over the input {job.target}: name another output")
    first: dict[Path, Job] = {}
    for job in jobs:
        other = first.setdefault(_place(job.target), job)
        if other is not job:
            raise click.UsageError(f"{other.source} and {job.source} would both be written to {job.target}")


def check_profile(profile: str, model: str) -> None:
    """Refuse a name that no coding profile or model has."""
    from codec.autoencoders import store
    from codec.profiles import by_name

    try:
        by_name(profile)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--profile") from error
    try:
        store.check(model)
    except OSError as error:
        raise click.BadParameter(str(error), param_hint="--model") from error


def convert_all(jobs: list[Job], options: Options, workers: int | None, skipped: int) -> int:
    """Convert files, tell on stderr how it goes, and return how many failed."""
    start = time.perf_counter()
    total, failed = Tally(), 0
    with Reporter(len(jobs)) as reporter, closing(results_of(jobs, options, workers, reporter.begin)) as results:
        for result in results:
            job = result.job
            try:
                done = save(result)
            except Exception as error:  # one bad file does not stop the batch
                failed += 1
                reporter.end(f"failed: {job.source}: {str(error) or type(error).__name__}")
            else:
                total += done
                reporter.end(f"{job.source} -> {job.target}: {done}, {result.seconds:.1f} s")
    summary = [f"{total.files} converted" + (f": {total}" if total.files else "")]
    if skipped:
        summary.append(f"{skipped} skipped, as their outputs exist")
    if failed:
        summary.append(f"{failed} failed")
    click.echo(f"{'; '.join(summary)}; {time.perf_counter() - start:.1f} s", err=True)
    return failed


def save(result: Result) -> Tally:
    """Write what a file was converted to.

    Raises:
        RuntimeError, OSError: it could not be converted or written; no output is left then.
    """
    if result.error:
        raise RuntimeError(result.error)
    job, size_out = result.job, len(result.data)
    size_in = job.source.stat().st_size
    _write(job.target, result.data)
    return Tally(1, size_in, size_out, size_out if job.encoding else size_in, result.pixels)


class Reporter:
    """Lines on stderr, and on a terminal a bar for the files and one for the iterations of the image at work."""

    def __init__(self, files: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._files = self._progress.add_task("files", total=files, visible=files > 1)
        self._image = self._progress.add_task("", visible=False)

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def begin(self, name: str) -> Callable[[int, int], None]:
        """Show an image; what is returned takes how many of its iterations are done, and of how many."""
        self._progress.reset(self._image, description=name)

        def show(done: int, total: int) -> None:
            self._progress.update(self._image, completed=done, total=total, visible=True)

        return show

    def end(self, line: str) -> None:
        """Count the image as done, and say how it went."""
        self._progress.update(self._image, visible=False)
        self._progress.advance(self._files)
        self._console.print(line)


def _expand(path: Path) -> list[Path]:
    """The file itself, or what a folder stands for.

    A folder that was converted in place holds both kinds: it stands for its photos, so that converting it again finds
    nothing to do, instead of writing a PNG beside every photo.
    """
    if not path.is_dir():
        return [path]
    photos = {suffix for suffix, name in Image.registered_extensions().items() if name in _PHOTO_FORMATS}
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    return [entry for entry in files if entry.suffix.lower() in photos] or [
        entry for entry in files if entry.suffix.lower() == ".clric"
    ]


def _means_folder(output: str, inputs: list[Path]) -> bool:
    path = Path(output)
    if path.is_dir() or output.endswith(("/", os.sep)):
        return True
    looks_like_file = path.exists() or path.suffix.lower() in Image.registered_extensions()
    if not looks_like_file:
        return True
    if len(inputs) > 1 or inputs[0].is_dir():
        raise click.UsageError(f"these inputs need a folder as output, and {output} is a file or named like one")
    return False


def _job_to_file(source: Path, target: Path) -> Job:
    encoding, suffix = not _is_clric(source), target.suffix.lower()
    if encoding != (suffix == ".clric"):
        kind = "a photo: its output must be named .clric" if encoding else "a .clric file: its output must be a photo"
        raise click.UsageError(f"{source} is {kind}, not {target.name}")
    if Image.registered_extensions().get(suffix) not in Image.SAVE:
        raise click.UsageError(f"files named {suffix or 'without a dot'} cannot be written")
    return Job(source, target, encoding)


def _is_clric(path: Path) -> bool:
    """By name or content: a damaged file is still no photo, and a renamed one is still a `.clric` file."""
    if path.suffix.lower() == ".clric":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False  # opening it as a photo will say what is wrong


def _place(path: Path) -> Path:
    """One name for one place. A link is its own place: `os.replace` replaces it, not what it points to."""
    return path.parent.resolve() / path.name


def _write(target: Path, data: bytes) -> None:
    """Write a file whole or, on an error or Ctrl-C, not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
