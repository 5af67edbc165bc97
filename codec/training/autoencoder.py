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
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from codec.autoencoders.networks import Config, Decoder, Encoder
from codec.training import photos
from codec.training.lpips import Lpips
from codec.training.prior import CheckerboardPrior, Gains, draw_lambdas

LPIPS_WEIGHT = 0.3
AVERAGING = 0.999  # of the weights, an iteration
ENLARGE = 2.0
EVALUATED = (None, 0.02, 0.1, 0.5)  # lambdas; None is without quantisation
EVALUATION_SIZE = 192


class Model(nn.Module):
    """Autoencoder, gains and prior."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.gains, self.prior = Gains(config.latent), CheckerboardPrior(config.latent)

    def forward(self, pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions, and bits per pixel (batch,), as training sees them.

        The rate is that of latents with uniform noise; the decoder gets half of the latents rounded, with gradients
        passed straight through, some with that noise, and some as they are (Minnen and Singh, ICIP 2020).
        """
        latents = self.encoder(pictures).float()
        gains = self.gains(lambdas)
        scaled = latents * gains
        noisy = scaled + torch.rand_like(scaled) - 0.5
        bits = self.prior(noisy, gains, lambdas) / pictures[0, 0].numel()
        rounded = scaled + (scaled.round() - scaled).detach()
        kind = torch.rand(len(pictures), 1, 1, 1, device=pictures.device)
        coded = torch.where(kind < 0.5, rounded, torch.where(kind < 0.85, noisy, scaled))
        return self.decoder(coded / gains), bits


class Trainer:
    """The model and all else that training changes, so that a checkpoint holds it."""

    def __init__(self, config: Config, lpips: Path, device: str) -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        layout: Any = {"memory_format": torch.channels_last, "device": self.device}
        self.model = Model(config).to(**layout)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
        self.lpips = Lpips(lpips).to(**layout)
        self.optimizer = torch.optim.Adam(self.model.parameters(), betas=(0.9, 0.99), fused=True)
        self.done = 0
        self.history: list[dict[str, float]] = []

    def state(self) -> dict[str, Any]:
        return {
            "config": asdict(self.model.config), "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(), "done": self.done, "history": self.history,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done, self.history = state["done"], state["history"]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)

    def step(self, pictures: Tensor, learning_rate: float) -> Tensor:
        """One iteration; returns the loss."""
        pictures = pictures.to(self.device, memory_format=torch.channels_last)
        lambdas = draw_lambdas(len(pictures), self.device)
        some = slice(None, None, 2)  # LPIPS takes as long as the rest
        with self.autocast():
            made, bits = self.model(pictures, lambdas)
            seen = self.lpips(made[some], pictures[some])
        loss = (made.float() - pictures).abs().mean() + LPIPS_WEIGHT * seen.mean() + (lambdas * bits).mean()
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, pictures: Tensor) -> Iterator[dict[str, float]]:
        """Mean bpp, PSNR and LPIPS of the averaged model, by lambda, with latents really rounded."""
        model: Model = self.average.module
        for number in EVALUATED:
            rows = []
            for picture in pictures.split(1):
                picture = picture.to(self.device)
                lambdas = torch.tensor([number or EVALUATED[1]], device=self.device)
                latent, gains = model.encoder(picture), model.gains(lambdas)
                scaled = (latent * gains).round() if number else latent * gains
                made = model.decoder(scaled / gains).clamp(0, 1)
                bpp = model.prior(scaled, gains, lambdas).item() / picture[0, 0].numel() if number else math.nan
                psnr = -10 * math.log10((made - picture).square().mean().item())
                rows.append((bpp, psnr, self.lpips(made, picture).item()))
            means = np.mean(rows, 0)
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
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(
    images: Path, lpips: Path, checkpoint: Path, minutes: float, length: int, latent: int, size: int, batch: int,
    learning_rate: float, device: str,
) -> None:  # fmt: skip
    """Train the autoencoder."""
    start = saved = time.monotonic()
    trainer = Trainer(Config(latent=latent), lpips, device)
    if checkpoint.exists():
        trainer.load(torch.load(checkpoint, weights_only=True, map_location=device))
    train, held_out = photos.split(images)
    crops = photos.Crops(photos.load(train, size), size, np.random.default_rng(trainer.done), ENLARGE)
    validation = photos.to_tensor([
        photo[:EVALUATION_SIZE, :EVALUATION_SIZE] for photo in photos.load(held_out, EVALUATION_SIZE)
    ])  # fmt: skip
    torch.manual_seed(trainer.done)
    mean = 0.0
    while time.monotonic() - start < 60 * minutes and trainer.done < length:
        warm_up = min(1.0, (trainer.done + 1) / 500)
        decay = 0.505 + 0.495 * math.cos(math.pi * trainer.done / length)
        loss = trainer.step(crops.draw(batch), learning_rate * warm_up * decay).item()
        mean += (loss - mean) / min(200, trainer.done + 1)
        trainer.done += 1
        if trainer.done % 100 == 0:
            click.echo(f"{trainer.done}, {time.monotonic() - start:.0f} s, loss {mean:.4f}")
        if trainer.done % 1000 == 0 or trainer.done == length:
            for row in trainer.evaluate(validation):
                trainer.history.append(row)
                click.echo("  " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
        if time.monotonic() - saved > 120:
            torch.save(trainer.state(), checkpoint)
            saved = time.monotonic()
    torch.save(trainer.state(), checkpoint)


if __name__ == "__main__":
    main()
