"""The command `clric-convert models`: which models are there, and getting others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from pillow_clric._terminal import bars

__all__ = ["models"]


@click.group(
    help="""
    List, add, fetch and remove models: the trained networks that files are coded with.

    A .clric file names its model by a hash of the weights, and can be read where that model is. Those that profiles use
    by default come with the package. Others are kept in a folder of yours, or in the one that CLRIC_MODELS names.
    """
)
def models() -> None:
    """Group of what there is to do with models."""


@models.command("list", help="List the models that are there, and those that can be fetched.")
def list_models() -> None:
    from rich.filesize import decimal

    from codec.autoencoders import store
    from codec.autoencoders.zoo import CATALOGUE

    with _errors():
        entries = store.entries()
    for entry in entries:
        click.echo(f"{entry.name:16} {entry.prefix}  {decimal(entry.path.stat().st_size):>8}  {entry.path}")
    click.echo("\nTo be had by `clric-convert models fetch NAME`:")
    here = {entry.name for entry in entries}
    for name, known in CATALOGUE.items():
        if name not in here:
            size = decimal(sum(file.size for file in known.files.values()))
            click.echo(f"{name:16} {size:>8}  {known.about} ({known.licence})")


@models.command(
    help="""
    Add a model from a file or folder.

    SOURCE is a model file of this package; a folder of diffusers' AutoencoderKL, AutoencoderTiny or VQModel; the
    encoder and decoder of a model of the TAESD family, as .safetensors or .pth, side by side; or a VQGAN of
    taming-transformers, as .ckpt, .pth or .safetensors.
    """
)
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="What to call it. Default: what its file or folder is called.")
def add(source: Path, name: str | None) -> None:
    from codec.autoencoders import store

    with _errors():
        entry = store.add(source, name)
    click.echo(f"{entry.name} ({entry.prefix}) is in {entry.path}")


@models.command(
    help="""
    Get a model over the network.

    NAME is one that `list` shows, or an AutoencoderKL or VQModel on Hugging Face's hub:
    OWNER/REPOSITORY[/FOLDER]@REVISION.
    """
)
@click.argument("name")
def fetch(name: str) -> None:
    from rich.progress import DownloadColumn

    from codec.autoencoders import store

    with _errors(), bars(DownloadColumn()) as shown:
        task = shown.add_task(name, total=None)
        entry = store.fetch(name, lambda done, total: shown.update(task, completed=done, total=total))
    click.echo(f"{entry.name} ({entry.prefix}) is in {entry.path}")


@models.command(
    help="Remove a model, by its name or hash. Files that were coded with it cannot be read until it is there again."
)
@click.argument("name")
def remove(name: str) -> None:
    from codec.autoencoders import store

    with _errors():
        entry = store.remove(name)
    click.echo(f"removed {entry.name} ({entry.prefix})")


@contextmanager
def _errors() -> Iterator[None]:
    """Say what went wrong in a line, and leave with status 1."""
    try:
        yield
    except (ImportError, OSError) as error:
        raise click.ClickException(str(error)) from error
