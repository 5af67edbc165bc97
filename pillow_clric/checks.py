"""The commands `info` and `verify` of `clric-convert`: contents of `.clric` files' headers, and damage in files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, BinaryIO, cast

import click
from PIL import Image

import codec
import pillow_clric
from pillow_clric.convert.inputs import coded_files, contents, opened
from pillow_clric.convert.places import Place, PlaceType, place
from pillow_clric.convert.report import json_line, message, shown

__all__ = ["info", "verify"]

_INPUTS = PlaceType(exists=True, allow_dash=True)
_METADATA = ("exif", "colour", "icc", "xmp")


def _arguments(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options and arguments that both commands have."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Write a JSON record for each file."),
        click.option("-r", "--recursive", is_flag=True, help="Folders with all below them."),
        click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=_INPUTS),
    ):
        command = decorate(command)
    return command


@click.command(
    help="""
    Show what .clric files are, from their headers.

    An INPUT that is a folder stands for its .clric files; - is stdin. Exit status: 0, or 1 if a file cannot be read.
    """
)
@click.option(
    "--detail", is_flag=True, help="Also what the profile knows, such as quality or packets: that takes a decode."
)
@_arguments
def info(inputs: Sequence[str], recursive: bool, as_json: bool, detail: bool) -> None:
    look = _details if detail else _facts
    sys.exit(1 if _look_at(inputs, recursive, as_json, look, show=_paragraph) else 0)


@click.command(
    help="""
    Check .clric files by their checksums, without decoding them.

    An INPUT that is a folder stands for its .clric files; - is stdin. Exit status: 0, or 1 if a file is damaged or
    incomplete.
    """
)
@_arguments
def verify(inputs: Sequence[str], recursive: bool, as_json: bool) -> None:
    sys.exit(1 if _look_at(inputs, recursive, as_json, _verified) else 0)


def _look_at(
    inputs: Sequence[str],
    recursive: bool,
    as_json: bool,
    look: Callable[[Place], dict[str, Any]],
    show: Callable[[dict[str, Any]], str] | None = None,
) -> int:
    """Look at each file, tell what was found, and return how many are bad.

    Args:
        look: returns the facts of a file by name; raises an error if it is bad.
        show: puts these in words, if there is more to say than how many are good.
    """
    unreadable = list[OSError]()
    paths = coded_files(inputs, recursive=recursive, on_error=unreadable.append)
    if not (paths or unreadable):
        raise click.UsageError("no .clric files are there: --recursive looks into folders below, too")
    bad = 0
    for path in [*(place(error.filename) for error in unreadable), *paths]:
        told: dict[str, Any] = {"source": str(path), "status": "ok", "error": None}
        try:
            told |= look(path)
        except Exception as error:
            bad += 1
            told |= {"status": "bad", "error": message(error, path)}
        if as_json:
            click.echo(json_line(told))
        elif told["error"]:
            click.echo(f"bad: {shown(told['source'])}: {shown(told['error'])}", err=True)
        elif show:
            click.echo(show(told))
    if not show and not as_json:
        click.echo(f"{len(paths) + len(unreadable) - bad} good, {bad} bad", err=True)
    return bad


def _facts(path: Place) -> dict[str, Any]:
    """Contents of a file's header, by their names in `--json`."""
    with opened(path) as file:
        return _header(pillow_clric.info(cast(BinaryIO, file)))


def _header(found: pillow_clric.FileInfo) -> dict[str, Any]:
    from codec.autoencoders import store

    return {
        "width": found.width,
        "height": found.height,
        "mode": found.mode,
        "bytes": found.file_size,
        "bpp": found.bpp,
        "profile": found.profile,
        "model": found.model or None,
        "model_name": next((entry.name for entry in store.entries() if entry.prefix == found.model), None),
        "sections": found.sections,
        "colour": found.colour or None,
        "metadata": [name for name in _METADATA if name in found.sections],
        "version": ".".join(map(str, found.version)),
    }


def _details(path: Place) -> dict[str, Any]:
    """Those facts, and what the file's profile knows of it."""
    data = contents(path)
    return _header(pillow_clric.info(data)) | {"coding": codec.describe(data)}


def _paragraph(told: dict[str, Any]) -> str:
    """Facts of a file that `_facts` found, for people."""
    lines = {
        "picture": f"{told['width']} x {told['height']}, {told['mode']}",
        "size": f"{told['bytes']} bytes, {told['bpp']:.3f} bpp",
        "profile": told["profile"],
        "model": told["model"] and f"{told['model']} ({told['model_name'] or 'not here'})",
        "sections": told["sections"],
        **told.get("coding", {}),
        "colour": told["colour"],
        "metadata": ", ".join(told["metadata"]) or "none",
        "format": told["version"],
    }
    lines = {name: _listed(value) if isinstance(value, dict) else value for name, value in lines.items()}
    known = {name: value for name, value in lines.items() if value not in (None, "")}
    return "\n".join([shown(told["source"]), *(f"  {name:<10}{value}" for name, value in known.items())])


def _listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _verified(path: Place) -> dict[str, Any]:
    data = contents(path)
    pillow_clric.info(data)  # says more about what is no `.clric` file than `Image.open` does
    with Image.open(BytesIO(data), formats=["CLRIC"]) as image:
        image.verify()
    return {}
