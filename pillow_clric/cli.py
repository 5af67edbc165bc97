"""The command `clric-convert`: photos to `.clric` files and back, in batches."""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

import click
from click.shell_completion import CompletionItem

from codec.profiles import DEFAULT, by_name, names
from codec.runtime import resolved
from pillow_clric import __version__
from pillow_clric._terminal import speaking
from pillow_clric.checks import info, verify
from pillow_clric.compare import compare
from pillow_clric.convert import outputs
from pillow_clric.convert.click_options import names as option_names
from pillow_clric.convert.click_options import with_options
from pillow_clric.convert.one_file import OF_DECODING, Progress, Settings
from pillow_clric.convert.order import Order
from pillow_clric.convert.places import PlaceType, Url
from pillow_clric.convert.plan import Job, make_plan
from pillow_clric.convert.report import Record, Report
from pillow_clric.convert.run import results_of
from pillow_clric.models import models
from pillow_clric.thumbnail import thumbnail

__all__ = ["main"]

# Threads that wait for each other by spinning take ten times as long on a machine that does something else, too. Torch
# reads it when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The options as the help shows them, beside those of profiles; what is named nowhere comes last.
_GROUPS = {
    "What to write": ("profile", "importance", "strip", "repair", "column"),
    "Where to": ("output", "recursive", "overwrite", "preserve", "dry_run"),
    "How": ("engine", "workers", "fail_fast"),
}


class _Main(click.Group):
    """Converts, unless the first argument is the name of a command."""

    allow_interspersed_args = True  # options may stand after inputs

    def main(self, *arguments: Any, **options: Any) -> Any:
        with speaking():
            return super().main(*arguments, **options)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        command = self.commands.get(args[0]) if args else None
        if command is None:
            return super().make_context(info_name, args, parent, **extra)
        return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **{**self.context_settings, **extra})

    def invoke(self, ctx: click.Context) -> Any:
        with _interruptible() as ctx.obj:
            return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] INPUT...")
        formatter.write_usage(ctx.command_path, "COMMAND ...", " " * len("Usage: "))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = {param.name: param.get_help_record(ctx) for param in self.get_params(ctx)}
        options = {name: record for name, record in found.items() if record and name != "inputs"}
        groups = {title: [options.pop(name) for name in names] for title, names in _GROUPS.items()}
        groups["What to write"][:0] = [options.pop(name) for name in option_names()]
        for title, records in (groups | {"What to say": [*options.values()]}).items():
            with formatter.section(title):
                formatter.write_dl(records)
        self.format_commands(ctx, formatter)


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Take Ctrl-C and requests to end as one: clean up, and end with status 130. A second one ends it at once.

    Libraries swallow exceptions in places, most of all while they are imported. What is given is to be called now and
    then, and raises those again.
    """
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        for taken in before:
            signal.signal(taken, signal.SIG_DFL)
        raise KeyboardInterrupt

    def check() -> None:
        if interrupted:
            raise KeyboardInterrupt

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) not in (signal.SIG_IGN, None):  # as of what goes on in the background
            before[number] = signal.signal(number, interrupt)
    try:
        yield check
    except BaseException as error:
        if not (interrupted or isinstance(error, KeyboardInterrupt)):  # of which libraries make other errors
            raise
        click.echo("interrupted", err=True)
        sys.exit(130)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files and, where there is no input yet, commands."""
    commands = [] if context.params.get("inputs") else context.command.shell_complete(context, incomplete)
    return [*commands, CompletionItem(incomplete, type="file")]


@click.group(
    cls=_Main,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
    Convert photos to .clric files, and .clric files to PNG or other formats.

    An INPUT that is a folder stands for the photos in it or, if there are none, for its .clric files or else its shards
    (.parquet, and .tar of WebDataset), in which all photos are converted; - is stdin. OUT is a folder if it is one
    already, ends with a slash, or is not named like an image. Both may be URLs (s3://, gs://, hf:// ...).

    Outputs are written completely or not at all, and never over an input. Metadata are kept if the format has a place
    for them. If it has none for the colour profile, colours become sRGB; if it has no alpha, what is transparent
    becomes white. Exit status: 0 if all went well, 1 if a file failed or something could not be said, 2 if the command
    is wrong, 130 if it was interrupted.
    """,
)
@click.argument(
    "inputs",
    nargs=-1,
    required=True,
    metavar="INPUT...",
    type=PlaceType(exists=True, allow_dash=True),
    shell_complete=_complete,
)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=PlaceType(readable=False, allow_dash=True),
    help="File or folder to write, or - for stdout. Default: beside each input.",
)
@with_options
@click.option("--column", metavar="NAME", help="Column of Parquet files with photos. Default: the only one of bytes.")
@click.option("--profile", metavar="NAME", default=DEFAULT, show_default=True, help=f"{' or '.join(names())}.")
@click.option(
    "--importance",
    metavar="MASK",
    type=PlaceType(exists=True),
    help="Grey picture, of any size, whose bright parts are where bytes go, in all inputs; or a folder of such, each "
    "named like its photo. Photos and masks are taken as they are shown.",
)
@click.option(
    "--strip",
    is_flag=True,
    help="Leave metadata out; the picture is turned as its EXIF says, and its colours become sRGB.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Write damaged .clric files in packets as whole ones, with likely contents of what cannot be restored.",
)
@click.option("-r", "--recursive", is_flag=True, help="Folders with all below them; OUT is laid out alike.")
@click.option("--overwrite", is_flag=True, help="Write over existing files; they are skipped otherwise.")
@click.option("-p", "--preserve", is_flag=True, help="Keep times and permissions of files.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@click.option(
    "-j",
    "--jobs",
    "workers",
    type=click.IntRange(1),
    metavar="N",
    help="Processes that share the files; on a GPU, threads that read ahead. Default: one per core.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where: here, or on a Ray cluster, whose address RAY_ADDRESS is; --jobs is the number of its workers.",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first file that cannot be converted.")
@click.option("-v", "--verbose", is_flag=True, help="Name skipped files, too.")
@click.option("--quiet", is_flag=True, help="Name failures only.")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON record for each file to stdout.")
@click.version_option(__version__)
@click.pass_obj
def main(
    check_interrupt: Callable[[], None],
    /,
    *,
    inputs: Sequence[str],
    output: str | None,
    recursive: bool,
    overwrite: bool,
    preserve: bool,
    dry_run: bool,
    engine: str,
    workers: int | None,
    fail_fast: bool,
    verbose: bool,
    quiet: bool,
    as_json: bool,
    profile: str,
    importance: str | None,
    strip: bool,
    repair: bool,
    column: str | None,
    **options: Any,
) -> None:
    given = {name: value for name, value in options.items() if value is not None}
    if len(given.keys() & {"quality", "target_size", "target_bpp"}) > 1:
        raise click.UsageError("give only one of --quality, --target-size and --target-bpp")
    settings = Settings(profile, given, strip, repair)
    plan = make_plan(inputs, output, recursive=recursive, overwrite=overwrite, repair=repair, importance=importance)
    order = Order(settings, overwrite, preserve, column)
    _check_outputs(plan.jobs, preserve=preserve, engine=engine, as_json=as_json)
    if any(job.encoding for job in plan.jobs):
        _check(settings)
    elif plan.jobs and not any(job.encoding for job in plan.skipped):
        _check_decoding(settings)
    if plan.jobs and engine == "local":
        _check_device(settings.device)
    told = [Record.of(job, "skipped") for job in plan.skipped]
    told += [Record(source, "failed", error=why) for source, why in plan.failures]
    files = None if any(job.is_shard for job in plan.jobs) else len(plan.jobs) + len(plan.failures)
    report = Report(files, check_interrupt, verbosity=1 + verbose - quiet, as_json=as_json)
    if dry_run:
        records = (Record.of(job, "planned") for job in plan.jobs)
    else:
        for folder in {job.target.parent for job in plan.jobs + plan.skipped if job.target}:
            outputs.remove_leftovers(folder)
        records = _converted(plan.jobs, order, engine, workers, report.begin)
    with report, closing(records):
        for note in plan.notes:
            report.note(note)
        for record in itertools.chain(told, records):
            report.tell(record)
            if fail_fast and record.status == "failed":
                break
    report.sum_up()
    sys.exit(1 if report.counts["failed"] else 0)


def _check(settings: Settings) -> None:
    """Refuse what no photo can be coded with."""
    try:
        by_name(settings.profile).parse(settings.options)
    except (OSError, TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error


def _check_decoding(settings: Settings) -> None:
    """Refuse what means nothing where no photo is coded."""
    if unused := settings.options.keys() - OF_DECODING:
        flag = min(unused).replace("_", "-")
        raise click.UsageError(f"--{flag} is for photos that become .clric files, and there are none")


def _check_device(name: str) -> None:
    """Refuse a device that is not there, once for all files."""
    try:
        resolved(name)
    except (RuntimeError, ValueError) as error:
        raise click.UsageError(str(error)) from error


def _check_outputs(jobs: list[Job], *, preserve: bool, engine: str, as_json: bool) -> None:
    """Refuse outputs that cannot be written as is asked for."""
    if any(job.target is None for job in jobs):
        if as_json:
            raise click.UsageError("stdout is for what is converted: --json needs another output")
        if engine != "local":
            raise click.UsageError("workers of a cluster cannot write to stdout: name another output")
    if preserve and any(isinstance(job.target, Url) for job in jobs):
        raise click.UsageError("--preserve is for files: stores keep no times and permissions")


def _converted(
    jobs: list[Job], order: Order, engine: str, workers: int | None, begin: Callable[[str], Progress]
) -> Generator[Record]:
    """Convert files by an engine; yield the outcome of each."""
    if engine == "local":
        return order.carried_out(jobs, partial(results_of, workers=workers, begin=begin))

    try:
        from pillow_clric.convert import cluster
    except ImportError as error:
        raise click.UsageError("--engine ray needs an extra: pip install 'pillow-clric[ray]'") from error
    return cluster.records_of(jobs, order, workers)


for _command in (compare, info, models, thumbnail, verify):
    main.add_command(_command)


def run() -> None:
    """Run the command as a program, and end at once: to take torch apart, piece by piece, takes half a second."""
    status: int | None = None

    def end() -> None:
        """End this process, if it ends as it should, without giving memory back."""
        if status is None:
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)

    # What is registered first is done last: after what torch and multiprocessing, which are imported later, have to do.
    atexit.register(end)
    try:
        main()
    except SystemExit as ended:
        status = int(ended.code or 0)
        raise


if __name__ == "__main__":
    run()
