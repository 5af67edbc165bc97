"""The command `clric-convert compare`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from codec.profiles import DEFAULT, names
from pillow_clric.compare.codecs import clric_codecs, pillow_formats
from pillow_clric.compare.measure import compare_all, load_lpips
from pillow_clric.compare.page import page
from pillow_clric.convert import outputs
from pillow_clric.convert.report import message


def _to_rates(_context: click.Context, _option: click.Parameter, text: str) -> list[float]:
    """Numbers with commas between them, each once and in order."""
    try:
        rates = sorted({float(number) for number in text.split(",")})
    except ValueError:
        rates = [0.0]
    if not all(0 < rate <= 24 for rate in rates):  # also refuses NaN
        raise click.BadParameter(f"{text!r} is no list such as 0.1,0.2,0.4 of bits per pixel, above 0 and up to 24")
    return rates


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
    Show photos in .clric and other formats, each at the same sizes, in one HTML page.

    The other formats are AVIF, WebP and JPEG, and JPEG XL and HEIC where the packages pillow-jxl-plugin and pillow-heif
    are installed. Each gets the best quality that is not larger than the size.

    The page holds all it needs: it can be looked at offline, and sent to others.

    Exit status: 0 if all went well, 1 if something could not be coded, 2 if the command is wrong, 130 if it was
    interrupted.
    """,
)
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="compare.html",
    show_default=True,
    help="Page to write.",
)
@click.option("--overwrite", is_flag=True, help="Write over an existing page.")
@click.option(
    "--bpp",
    "rates",
    callback=_to_rates,
    default="0.1,0.2,0.4,0.8",
    show_default=True,
    help="Sizes of the files, in bits per pixel.",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    default=[DEFAULT],
    show_default=True,
    metavar="NAME",
    help=f"Profile of .clric, {' or '.join(names())}; may be given several times. coolchic takes long.",
)
@click.option("-e", "--effort", type=click.IntRange(1, 9), help="Of .clric. Default: that of each profile.")
@click.option("--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps ...")
@click.option(
    "--lpips",
    "weights",
    metavar="WEIGHTS",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure LPIPS too, with the network in this file; see codec/lpips.py.",
)
def compare(
    photos: tuple[str, ...], output: Path, overwrite: bool, rates: list[float], profiles: tuple[str, ...],
    effort: int | None, device: str, weights: Path | None,
) -> None:  # fmt: skip
    paths = [Path(photo) for photo in dict.fromkeys(photos)]
    check_output(output, paths, overwrite)
    try:
        codecs = [*clric_codecs(profiles, effort, device), *pillow_formats()]
        made, failures = compare_all(paths, codecs, rates, load_lpips(weights))
        if made:
            outputs.write(output, page(made, codecs, rates).encode(), overwrite=overwrite)
    except OSError as error:
        raise click.ClickException(message(error, output)) from error
    if made:
        click.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB", err=True)
    sys.exit(1 if failures else 0)


def check_output(output: Path, photos: list[Path], overwrite: bool) -> None:
    """Find before the start what keeps the page from being written, or what it would destroy."""
    if os.path.lexists(output):
        if output.exists() and any(output.samefile(photo) for photo in photos):
            raise click.UsageError(f"the page would be written over the photo {output}: name another output")
        if not overwrite and not outputs.is_stream(output):
            raise click.UsageError(f"{output} exists: name another output, or give --overwrite")
    if why := outputs.obstacle(output):
        raise click.UsageError(why)
