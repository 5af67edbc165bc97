"""Trainings as commands: `python -m codec.training NAME`."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from codec.autoencoders.networks.transform import Config
from codec.device import resolve
from codec.metrics import SMALLEST
from codec.training import plots
from codec.training.data import Photos, find_benchmark, find_photos, read_rgb
from codec.training.loop import Budget, Loop
from codec.training.optimizers import Schedule
from codec.training.transform import Settings, TransformTask, export
from codec.training.validation import Validation, middle

BENCHMARK = ("kodim04", "kodim05", "kodim15", "kodim19", "kodim21", "kodim23")
MIDDLE = 384  # side of what is taken of a held-out photo, as validations take time


@click.group()
def main() -> None:
    """Train what the package ships. Every training resumes from the checkpoint in its folder."""


@main.command()
@click.option("--hours", type=float, required=True, help="How long to train now, by the clock.")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="Folder of the training.")
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True,
    help="Folder with folders of photos; those in one named kodak are never trained on.",
)  # fmt: skip
@click.option("--decay", type=int, metavar="N", help="Let the learning rate fall to zero in N iterations, and stop.")
@click.option(
    "--start", type=click.Path(exists=True, path_type=Path), help="Weights of an earlier export to start from."
)
@click.option("--export", "exported", type=click.Path(path_type=Path), help="Write the averaged weights to this file.")
@click.option("--learning-rate", type=float, default=1.2e-3, show_default=True)
@click.option("--batch", type=int, default=8, show_default=True, help="Crops at once.")
@click.option("--validate", type=float, default=0.5, show_default=True, help="Hours between validations; 0 for none.")
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", type=int, help="Of the CPU; all by default.")
@click.option("--seed", type=int, default=0, show_default=True)
def transform(
    hours: float, checkpoint: Path, data: Path, decay: int | None, start: Path | None, exported: Path | None,
    learning_rate: float, batch: int, validate: float, device: str, threads: int | None, seed: int,
) -> None:  # fmt: skip
    """Train the learned transform.

    Needs some hundred photos or more, PNG, AVIF or whatever Pillow reads, in folders below --data, and the extra
    `training`. 20 of them are held out for validation; if there is a folder kodak with Kodak's photos, six of these are
    validated with, too. The folder of the training then holds checkpoint.pt, log.jsonl, curves.png, and sheets of
    pictures beside AVIF at equal size.
    """
    if threads:
        torch.set_num_threads(threads)
    settings = Settings(Config(), batch=batch)
    try:
        photos, validation = photos_and_validation(data, checkpoint / "cache", settings.side)
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from error
    counts = ", ".join(f"{len(found)} {label}" for label, found in validation.sets.items())
    click.echo(f"{data}: {len(photos)} photos to train on; to validate with: {counts}")
    task = TransformTask(settings, photos, validation, start)
    try:
        loop = Loop(task, checkpoint, Schedule(learning_rate, 500), resolve(device), seed, decay)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    loop.run(Budget(hours=hours), validate or None, workers=max(1, torch.get_num_threads() // 2))
    if exported:
        export(settings.network, loop.average, exported)
    plots.draw(checkpoint, checkpoint / "curves.png")


def photos_and_validation(data: Path, cache: Path, side: int) -> tuple[Photos, Validation]:
    """Photos of a folder to train on, no side of which is below `side`, and the validation with others of them.

    Raises:
        FileNotFoundError: there are too few photos.
    """
    known, held_out = find_photos(data)
    sets = {"held out": _pictures(held_out, MIDDLE), "kodak": _pictures(find_benchmark(data, BENCHMARK))}
    return Photos.load(known, cache, side), Validation({label: found for label, found in sets.items() if found}, cache)


def _pictures(paths: list[Path], side: int = 2**16) -> dict[str, NDArray[np.uint8]]:
    """The middles of photos, neither side above `side`, by name, where judges can judge them."""
    pictures = {path.stem: middle(read_rgb(path), side) for path in paths}
    return {name: picture for name, picture in pictures.items() if min(picture.shape[:2]) >= SMALLEST}


if __name__ == "__main__":
    main()
