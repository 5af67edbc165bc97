"""Train the autoencoder that ships with the package.

    python -m codec.training.autoencoder --images FOLDER --lpips WEIGHTS --checkpoint FILE --minutes 60 --export FILE

The loss is L1 + 0.3 LPIPS + lambda * bits per pixel, with lambda drawn for every picture: the latent is trained to be
cheap to code, at any rate. See `codec/training/prior.py` for how its rate is estimated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from codec.autoencoders import model as model_files
from codec.autoencoders.networks.residual import Config, Residual
from codec.training import photos
from codec.training.lpips import Lpips
from codec.training.optimizers import MuonAndAdam
from codec.training.prior import CheckerboardPrior, Gains, draw_lambdas
from codec.training.scripts import iterations, resume

LPIPS_WEIGHT = 0.3
AVERAGING = 0.999  # of the weights, an iteration
ENLARGE = 2.0
MUON = 1.0  # its learning rate, in Adam's
WIDE = 32  # channels
TYPICAL = 0.1  # lambda at which the latent is scaled as its gains say
EVALUATED = (None, 0.02, 0.1, 0.5)  # lambdas; None is without quantisation
EVALUATION_SIZE = 192


class Model(Residual):
    """Autoencoder, gains and prior."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        self.gains, self.prior = Gains(config.latent), CheckerboardPrior(config.latent)

    def forward(self, pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions, and bits per pixel (batch,), as training sees them.

        The rate is that of latents with uniform noise; the decoder gets half of the latents rounded, with gradients
        passed straight through, some with that noise, and some as they are (Minnen and Singh, ICIP 2020).
        """
        latents = self.encode_tile(pictures).float()
        gains = self.gains(lambdas)
        scaled = latents * gains
        noisy = scaled + torch.rand_like(scaled) - 0.5
        bits = self.prior(noisy, gains, lambdas) / pictures[0, 0].numel()
        rounded = scaled + (scaled.round() - scaled).detach()
        kind = torch.rand(len(pictures), 1, 1, 1, device=pictures.device)
        coded = torch.where(kind < 0.5, rounded, torch.where(kind < 0.85, noisy, scaled))
        return self.decode_tile(coded / gains), bits


def _wide(model: Model) -> list[nn.Parameter]:
    """Kernels of convolutions between wide layers."""
    networks = [*model.encoder.parameters(), *model.decoder.parameters()]
    return [p for p in networks if p.dim() == 4 and min(p.shape[:2]) >= WIDE]


def frugality(part: float) -> float:
    """What lambdas are multiplied by when so much of the training is done: the latent first learns to be useful."""
    return float(0.02 ** max(0.0, 1 - part / 0.35))


def _average(average: Tensor, weights: Tensor, done: Tensor | int) -> Tensor:
    """Exponential, over fewer iterations while there are few."""
    return average.lerp(weights, max(1 - AVERAGING, 10 / (10 + int(done))))


class Trainer:
    """The model and all else that training changes, so that a checkpoint holds it."""

    def __init__(self, config: Config, lpips: Path, device: str) -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.model = Model(config).to(self.device)
        self.average = AveragedModel(self.model, avg_fn=_average)
        self.lpips = Lpips.load(lpips).to(self.device)
        self.optimizers = MuonAndAdam(_wide(self.model), self.model.parameters(), MUON)
        self.done = 0
        self.history: list[dict[str, float]] = []

    def state(self) -> dict[str, Any]:
        return {
            "config": asdict(self.model.config), "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimizers": self.optimizers.state(), "done": self.done, "history": self.history,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizers.load(state["optimizers"])
        self.done, self.history = state["done"], state["history"]

    def step(self, pictures: Tensor, learning_rate: float, frugality: float) -> Tensor:
        """One iteration; returns the loss. Every lambda is multiplied by `frugality`."""
        pictures = pictures.to(self.device, memory_format=torch.channels_last)
        lambdas = draw_lambdas(len(pictures), self.device)
        some = slice(None, None, 2)  # LPIPS takes as long as the rest
        with torch.autocast(self.device.type, torch.bfloat16):
            made, bits = self.model(pictures, lambdas)
            seen = self.lpips(made[some], pictures[some])
        loss: Tensor = (
            (made.float() - pictures).abs().mean() + LPIPS_WEIGHT * seen.mean() + frugality * (lambdas * bits).mean()
        )
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step(learning_rate)
        self.average.update_parameters(self.model)
        return loss.detach()

    @torch.no_grad()
    def export(self, name: str, pictures: Tensor) -> model_files.Model:
        """The averaged autoencoder, in float16, with what its latent is like on some pictures."""
        trained = cast("Model", self.average.module)
        latents = torch.cat([trained.encode_tile(picture.to(self.device)) for picture in pictures.split(1)])
        gains = trained.gains(torch.tensor([TYPICAL], device=self.device)).flatten()
        networks = {n: w.half().cpu() for n, w in trained.state_dict().items() if n.startswith(("encoder", "decoder"))}
        mean, scale = (tuple(round(v, 4) for v in t.tolist()) for t in (latents.mean((0, 2, 3)), gains))
        return model_files.Model(name, "base", asdict(trained.config), mean, scale, networks)

    @torch.no_grad()
    def evaluate(self, pictures: Tensor) -> Iterator[dict[str, float]]:
        """Mean bpp, PSNR and LPIPS of the averaged model, by lambda, with latents really rounded."""
        model = cast("Model", self.average.module)
        for number in EVALUATED:
            rows = []
            for picture in pictures.split(1):
                picture = picture.to(self.device)
                lambdas = torch.tensor([number or EVALUATED[1]], device=self.device)
                latent, gains = model.encode_tile(picture), model.gains(lambdas)
                scaled = (latent * gains).round() if number else latent * gains
                made = model.decode_tile(scaled / gains).clamp(0, 1)
                bpp = model.prior(scaled, gains, lambdas).item() / picture[0, 0].numel() if number else math.nan
                psnr = -10 * math.log10((made - picture).square().mean().item())
                rows.append((bpp, psnr, self.lpips(made, picture).item()))
            means = np.mean(rows, 0).tolist()
            yield {"iteration": self.done, "lambda": number or 0, "bpp": means[0], "psnr": means[1], "lpips": means[2]}


@click.command()
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of photos.")
@click.option("--lpips", type=click.Path(exists=True, path_type=Path), required=True, help="Weights of LPIPS.")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="Resumed from, and written to.")
@click.option("--minutes", type=float, required=True, help="How long to train now.")
@click.option("--length", default=30000, show_default=True, help="Iterations of the whole training.")
@click.option("--latent", default=16, show_default=True, help="Channels of the latent.")
@click.option("--size", default=128, show_default=True, help="Side of the crops.")
@click.option("--batch", default=8, show_default=True)
@click.option("--learning-rate", default=6e-4, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--export", type=click.Path(path_type=Path), help="File for the model; its name is the file's.")
@click.option("--plot", type=click.Path(path_type=Path), help="File for a plot of all evaluations (needs matplotlib).")
def main(
    images: Path, lpips: Path, checkpoint: Path, minutes: float, length: int, latent: int, size: int, batch: int,
    learning_rate: float, device: str, export: Path | None, plot: Path | None,
) -> None:  # fmt: skip
    """Train the autoencoder."""
    start = time.monotonic()
    trainer = Trainer(Config(latent=latent), lpips, device)
    resume(trainer, checkpoint)
    train, held_out = photos.split(images)
    known, unknown = photos.load(train, size), photos.load(held_out, EVALUATION_SIZE)
    if not known or not unknown:
        raise click.UsageError(f"{images} has too few photos of at least {max(size, EVALUATION_SIZE)} pixels a side")
    crops = photos.Crops(known, size, np.random.default_rng(trainer.done), ENLARGE)
    validation = photos.to_tensor([photo[:EVALUATION_SIZE, :EVALUATION_SIZE] for photo in unknown])
    mean = 0.0
    for seen, part in enumerate(iterations(trainer, checkpoint, start + 60 * minutes, length), 1):
        rate = learning_rate * min(1.0, (trainer.done + 1) / 500) * (0.505 + 0.495 * math.cos(math.pi * part))
        loss = trainer.step(crops.draw(batch), rate, frugality(part)).item()
        mean += (loss - mean) / min(200, seen)
        trainer.done += 1
        if trainer.done % 100 == 0:
            click.echo(f"{trainer.done}, {time.monotonic() - start:.0f} s, loss {mean:.4f}")
        if trainer.done % 1000 == 0 or trainer.done == length:
            for row in trainer.evaluate(validation):
                trainer.history.append(row)
                click.echo("  " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    if export is not None:
        model_files.write(trainer.export(export.stem, validation), export)
    if plot is not None:
        draw(trainer.history, plot)


def draw(history: list[dict[str, float]], path: Path) -> None:
    """Plot quality against iterations, a line a lambda."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, metric, label in zip(figure.subplots(1, 2), ("psnr", "lpips"), ("PSNR (dB)", "LPIPS"), strict=True):
        for number in EVALUATED:
            rows = [row for row in history if row["lambda"] == (number or 0)]
            name = f"lambda {number}" if number else "not quantised"
            if number and rows:
                name += f": {rows[-1]['bpp']:.2f} bpp at the end"
            axes.plot([row["iteration"] for row in rows], [row[metric] for row in rows], label=name)
        axes.set(xlabel="iterations", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
