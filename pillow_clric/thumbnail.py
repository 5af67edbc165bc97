"""The command `clric-convert thumbnail`, which file managers call."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import click
from PIL import Image

from pillow_clric._colour import to_srgb
from pillow_clric._metadata import upright
from pillow_clric._modes import converted
from pillow_clric.convert.inputs import is_coded, opened, readable
from pillow_clric.convert.outputs import write
from pillow_clric.convert.places import replaces
from pillow_clric.convert.report import message

__all__ = ["thumbnail"]


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Write a small copy of INPUT (- for stdin), upright and in sRGB, to OUTPUT, a PNG file whatever its name. "
    "Existing files are written over, but no .clric files.",
)
@click.argument("source", metavar="INPUT", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.argument("target", metavar="OUTPUT", type=click.Path(dir_okay=False))
@click.option("-s", "--size", type=click.IntRange(1), default=256, show_default=True, help="Pixels of its longer side.")
def thumbnail(source: str, target: str, size: int) -> None:
    output = Path(target)
    if replaces(output, readable(source)):
        raise click.UsageError(f"the thumbnail would be written over {source}: name another output")
    if os.path.isfile(output) and is_coded(output):  # as of a pattern that stands for two photos
        raise click.UsageError(f"the thumbnail would be written over the .clric file {target}: name another output")
    try:
        with opened(readable(source)) as file, Image.open(file) as image:
            image.thumbnail((size, size))
            buffer = BytesIO()
            to_srgb(converted(upright(image))).save(buffer, "PNG")
        write(output, buffer.getvalue(), overwrite=True)
    except Exception as error:  # libraries raise many kinds for damaged files
        raise click.ClickException(message(error, readable(source))) from error
