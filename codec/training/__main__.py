"""Trainings as commands: `python -m codec.training NAME`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce, wraps
from pathlib import Path
from typing import Any

import click
import torch

import codec
from codec.autoencoders import store
from codec.autoencoders.errors import ModelError
from codec.autoencoders.networks.coding_order import PRESETS
from codec.autoencoders.networks.enhancement import Config as EnhancementConfig
from codec.autoencoders.networks.patch import Config as PatchConfig
from codec.autoencoders.networks.transform_config import Config
from codec.autoencoders.networks.vq import IndexConfig
from codec.runtime import resolve
from codec.training import plots
from codec.training.autoencoder import EVALUATED, AutoencoderTask
from codec.training.autoencoder import Settings as AutoencoderSettings
from codec.training.autoencoder import network_from as autoencoder_from
from codec.training.bases import FitTask, GuessTask
from codec.training.data import Photos, find_photos, load_photos
from codec.training.enhancement import EnhancementTask
from codec.training.function import FunctionTask
from codec.training.grain import GrainTask
from codec.training.loop import Budget, Loop, Task
from codec.training.msp_prior import PriorTask
from codec.training.transform import Settings, TransformTask, read_weights
from codec.training.validation import photos_and_validation
from codec.training.vgg import Vgg
from codec.training.vq import Settings as VqSettings
from codec.training.vq import VqTask
from codec.training.vq import network_from as codebooks_from
from codec.training.vq_indices import IndexTask

Command = Callable[..., Any]
PATH, FILE = click.Path(path_type=Path), click.Path(exists=True, path_type=Path)
SIDES = 16  # divides all sides of crops
TOLD = (ModelError, ImportError, OSError, RuntimeError, ValueError)  # whose messages say what to do


def _not_ours(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse to write into the package."""
    package = Path(codec.__file__).parent
    if path is not None and path.resolve().is_relative_to(package):
        raise click.BadParameter(f"files depend on what is in {package}, which must not change: write to another place")
    return path


SHARED = (
    click.option("--hours", type=float, required=True, help="How long to train now, by the clock."),
    click.option("--checkpoint", type=PATH, required=True, help="Folder of the training."),
    click.option(
        "--data", type=PATH, default=Path("data"), show_default=True,
        help="Folder with folders of photos; those in one named kodak are never trained on.",
    ),
    click.option(
        "--decay", type=int, metavar="N", help="Let the learning rate fall to zero in N iterations, and stop."
    ),
    click.option("--export", "exported", type=PATH, callback=_not_ours, help="Write the averaged weights here."),
    click.option("--learning-rate", type=float, help="Where it stays, if not at what this training is known to need."),
    click.option("--validate", type=float, default=0.5, show_default=True, help="Hours between validations; 0: none."),
    click.option("--device", default="auto", show_default=True),
    click.option("--threads", type=int, help="Of the CPU; all by default."),
    click.option("--seed", type=int, default=0, show_default=True),
)  # fmt: skip

vgg = click.option("--vgg", type=FILE, required=True, help="Weights of VGG-16's first blocks.")
compiled = click.option(
    "--compile", "compiled", is_flag=True, help="Takes a minute and a C++ compiler; then it is faster."
)
model = click.option("--model", default="patch", show_default=True, help="Its name, or a file or folder.")


def crops(side: int, count: int) -> Callable[[Command], Command]:
    """Options for the side of crops and how many there are at once, with these defaults."""

    def check(context: click.Context, option: click.Parameter, value: int) -> int:
        if value < 4 * SIDES or value % SIDES:
            raise click.BadParameter(f"must be a multiple of {SIDES}, {4 * SIDES} at least, not {value}")
        return value

    options = (
        click.option("--batch", type=click.IntRange(1), default=count, show_default=True, help="Crops at once."),
        click.option("--side", type=int, default=side, show_default=True, callback=check, help="Of the crops."),
    )
    return lambda command: reduce(lambda made, option: option(made), options, command)


@click.group()
def main() -> None:
    """Train what the package ships, from photos.

    Every training resumes from the checkpoint in its folder, which then holds checkpoint.pt, log.jsonl and curves.png,
    too. Trainings need the extra `training`, and some hundred photos or more, PNG, AVIF or whatever Pillow reads, in
    folders below --data. 20 of them are held out for validation.
    """


def training(make: Callable[..., Task]) -> click.Command:
    """The command of a training.

    Args:
        make: a function that makes the task from --data, a folder for a cache, and options of its own.
    """

    @wraps(make)
    def run(
        hours: float, checkpoint: Path, data: Path, decay: int | None, exported: Path | None,
        learning_rate: float | None, validate: float, device: str, threads: int | None, seed: int, **own: Any,
    ) -> None:  # fmt: skip
        if threads:
            torch.set_num_threads(threads)
        with _told():
            task = make(data, checkpoint / "cache", **own)
            schedule = task.schedule if learning_rate is None else replace(task.schedule, rate=learning_rate)
            loop = Loop(task, checkpoint, schedule, resolve(device), seed, decay)
        with _told((FloatingPointError,)):  # where others came from is of use
            loop.run(Budget(hours=hours), validate or None, workers=max(1, torch.get_num_threads() // 2))
        with _told():
            if exported:
                loop.export(exported)
            plots.draw(checkpoint, checkpoint / "curves.png")

    return main.command()(reduce(lambda made, option: option(made), reversed(SHARED), run))


@contextmanager
def _told(errors: tuple[type[Exception], ...] = TOLD) -> Iterator[None]:
    """End the command with the message of an error that says what to do."""
    try:
        yield
    except errors as error:
        raise click.ClickException(str(error)) from error


@training
@crops(Settings.side, Settings.batch)
@click.option("--start", type=FILE, help="Weights of an earlier export, or of a model for profile msp, to start from.")
@compiled
def transform(data: Path, cache: Path, side: int, batch: int, start: Path | None, compiled: bool) -> Task:
    """Train the learned transform.

    If there is a folder kodak with Kodak's photos, six of these are validated with, too. The folder of the training
    then holds sheets of pictures beside AVIF at equal size.
    """
    settings = Settings(Config() if start is None else read_weights(start)[0], side, batch)
    photos, validation = photos_and_validation(data, cache, side)
    counts = ", ".join(f"{len(found)} {label}" for label, found in validation.sets.items())
    click.echo(f"{data}: {len(photos)} photos to train on; to validate with: {counts}")
    return TransformTask(settings, photos, validation, start, compiled)


@training
@crops(Settings.side, Settings.batch)
@click.option("--weights", type=FILE, required=True, help="Of the transform, as its training exported them.")
@click.option(
    "--preset",
    "presets",
    type=click.Choice(list(PRESETS)),
    multiple=True,
    default=list(PRESETS),
    help="All by default.",
)
@click.option("--start", type=FILE, help="Model whose priors, but for the usual one, to start from.")
def prior(
    data: Path, cache: Path, side: int, batch: int, weights: Path, presets: tuple[str, ...], start: Path | None
) -> Task:
    """Train the priors of a learned transform, which stays as it is.

    --export writes a model for profile msp, with the priors in integers.
    """
    settings = Settings(read_weights(weights)[0], side, batch)
    return PriorTask(settings, _photos(data, cache, side), weights, presets, start)


@training
@crops(256, 8)
@click.option("--weights", type=FILE, required=True, help="Model for profile msp, as the training of priors made it.")
@click.option("--start", type=FILE, help="Model whose layer to start from.")
def enhancement(data: Path, cache: Path, side: int, batch: int, weights: Path, start: Path | None) -> Task:
    """Train the enhancement layer of a learned transform, which stays as it is.

    --export writes the model with the layer.
    """
    return EnhancementTask(EnhancementConfig(), _photos(data, cache, side), weights, side, batch, start)


@training
@crops(256, 8)
@click.option("--weights", type=FILE, required=True, help="Model for profile msp.")
def grain(data: Path, cache: Path, side: int, batch: int, weights: Path) -> Task:
    """Train strengths of texture that is drawn, of a learned transform, which stays as it is.

    --export writes the model with these.
    """
    return GrainTask(_photos(data, cache, side), weights, side, batch)


@training
@crops(VqSettings.side, VqSettings.batch)
@vgg
@click.option(
    "--start", type=FILE, required=True, help="Weights of a learned transform, or of an earlier export or model."
)
@compiled
def vq(data: Path, cache: Path, side: int, batch: int, vgg: Path, start: Path, compiled: bool) -> Task:
    """Train an autoencoder with codebooks."""
    photos, held_out = load_photos(data, cache, side)
    return VqTask(VqSettings(codebooks_from(start), side, batch), photos, held_out, Vgg(vgg), start, compiled)


@training
@crops(256, 16)
@click.option("--weights", type=FILE, required=True, help="Of the autoencoder, as its training exported them.")
@click.option("--start", type=FILE, help="Model whose prior and transformer to start from.")
def vq_indices(data: Path, cache: Path, side: int, batch: int, weights: Path, start: Path | None) -> Task:
    """Train prior and transformer of codebook indices, of an autoencoder that stays as it is.

    --export writes a model for profile vq, with the prior in integers.
    """
    return IndexTask(IndexConfig(), _photos(data, cache, side), weights, side, batch, start)


@training
@crops(AutoencoderSettings.side, AutoencoderSettings.batch)
@click.option(
    "--start", type=FILE, required=True, help="Weights of a learned transform, or of an earlier export, to start from."
)
@click.option("--latent", type=int, help=f"Channels of the latent; {PatchConfig.latent} from a transform.")
@compiled
def autoencoder(
    data: Path, cache: Path, side: int, batch: int, start: Path, latent: int | None, compiled: bool
) -> Task:
    """Train an autoencoder such as the one that ships, with its universal function.

    Validations are as those of the transform.
    """
    settings = AutoencoderSettings(autoencoder_from(start, latent), side, batch)
    photos, validation = photos_and_validation(data, cache, side, EVALUATED)
    return AutoencoderTask(settings, photos, validation, start, compiled)


@training
@crops(128, 8)
@model
def function(data: Path, cache: Path, side: int, batch: int, model: str) -> Task:
    """Train a universal function of a model, which stays as it is."""
    return FunctionTask(*load_photos(data, cache, side), store.load(model), side, batch)


@training
@crops(128, 3)
@click.option("--start", type=FILE, help="What the first stage exported; this is the second stage, then.")
def bases(data: Path, cache: Path, side: int, batch: int, start: Path | None) -> Task:
    """Train the functions that fits start from, and the analysis.

    --export writes both to a folder. Of the analysis, the first stage makes all that there will be; in the second, the
    functions go on learning.
    """
    photos = _photos(data, cache, side)
    return GuessTask(photos, side, batch) if start is None else FitTask(photos, start, side, batch)


def _photos(data: Path, cache: Path, side: int) -> Photos:
    """Photos to train on, where none are needed to validate with."""
    return Photos.load(find_photos(data)[0], cache, side)


if __name__ == "__main__":
    main()
