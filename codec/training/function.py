"""Train the universal function of a model, from which every fit of its latents starts.

    python -m codec.training.function --model base --images FOLDER --lpips WEIGHTS --checkpoint FILE --minutes 15 \\
        --export FILE

The autoencoder stays as it is. The loss is that of its own training, L1 + 0.3 LPIPS + lambda * bits per pixel, through
its decoder, with the rate of the probability model that files are coded with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from codec.autoencoders import model as model_files
from codec.autoencoders import store
from codec.autoencoders.autoencoder import Autoencoder
from codec.entropy.integer_arm import MAX_CONTEXTS, WEIGHT_BITS
from codec.overfit import synthesis
from codec.overfit.fit import rate
from codec.overfit.function import Function, Weights
from codec.overfit.spec import Spec
from codec.training import photos
from codec.training.lpips import Lpips
from codec.training.prior import KNOTS, LAMBDAS, draw_lambdas, knot_weights
from codec.training.scripts import iterations, resume

LPIPS_WEIGHT = 0.3
AVERAGING = 0.998  # of the weights, an iteration
ENLARGE = 2.0
STEPS = "steps"
# Shape of the functions, but for what depends on the model.
SHAPE: dict[str, Any] = {"spatial": 12, "hidden": 8, "residuals": 1, "separate": True, "linear": True}


class Trainer:
    """The universal function in the making; all that training changes is in its checkpoint."""

    def __init__(self, model: str, lpips: Path, size: int, device: str) -> None:
        self.device, self.size = torch.device(device), size
        self.autoencoder = Autoencoder(store.load(model), self.device)
        channels, side = self.autoencoder.channels, size // self.autoencoder.downscale
        references = min(channels - 1, MAX_CONTEXTS - SHAPE["spatial"])
        self.shape = {"features": (channels,), "references": references, **SHAPE}
        self.spec = Spec(side, side, channels, **self.shape)
        self.lpips = Lpips.load(lpips).to(self.device)
        torch.manual_seed(0)
        low, high = (math.log(bound / 0.1) / 2 for bound in LAMBDAS)  # a step grows with the root of lambda
        steps = torch.linspace(low, high, KNOTS)[:, None].repeat(1, channels)
        knots = {**start(self.spec), STEPS: steps}  # of the steps, their logarithms
        self.knots = {name: w.to(self.device).requires_grad_() for name, w in knots.items()}
        self.average = {name: w.detach().clone() for name, w in self.knots.items()}
        self.optimizer = torch.optim.Adam(self.knots.values(), betas=(0.9, 0.99), fused=True)
        self.done = 0

    def state(self) -> dict[str, Any]:
        return {
            "knots": self.knots, "average": self.average, "optimizer": self.optimizer.state_dict(), "done": self.done,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name in self.knots:
                self.knots[name].copy_(state["knots"][name])
                self.average[name].copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]

    def step(self, pictures: Tensor, learning_rate: float) -> tuple[float, float]:
        """One iteration; returns mean distortion and bits per pixel."""
        pictures = pictures.to(self.device)
        lambdas = draw_lambdas(len(pictures), self.device)
        distortion, bits = self.code(self.knots, pictures, lambdas)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.zero_grad()
        (distortion + lambdas * bits).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.knots.values(), 1.0)
        self.optimizer.step()
        self.done += 1
        for name, w in self.knots.items():
            self.average[name].lerp_(w.detach(), max(1 - AVERAGING, 10 / (10 + self.done)))
        return distortion.mean().item(), bits.mean().item()

    def code(self, knots: Weights, pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
        """Distortion and bits per pixel (batch,) of rounded latents, with gradients passed straight through."""
        between = knot_weights(lambdas)
        weights = {name: torch.einsum("bk,k...->b...", between, w) for name, w in knots.items()}
        steps = weights.pop(STEPS).exp()[:, :, None, None]
        scaled = self.autoencoder.encode(pictures) / steps
        grid = scaled + (scaled.round() - scaled).detach()
        bits = rate(Function(self.spec, weights, [grid])) / self.autoencoder.downscale**2
        latents = synthesis.output([grid], weights, self.spec) * steps
        made = self.autoencoder.decode(latents, self.size, self.size)
        return (made - pictures).abs().mean((1, 2, 3)) + LPIPS_WEIGHT * self.lpips(made, pictures), bits

    @torch.no_grad()
    def evaluate(self, pictures: Tensor) -> Iterator[tuple[float, float, float]]:
        """Lambda, mean distortion and mean bits per pixel of the averaged functions on held-out crops."""
        for number in (0.02, 0.1, 0.5):
            lambdas = torch.full((len(pictures),), number, device=self.device)
            distortion, bits = self.code(self.average, pictures.to(self.device), lambdas)
            yield number, distortion.mean().item(), bits.mean().item()

    def export(self, name: str) -> model_files.Model:
        """The model with the averaged functions, as whole numbers in units of 2**-12."""
        averages = {**self.average, STEPS: self.average[STEPS].exp()}
        whole = {model_files.FUNCTION + n: (w * 2**WEIGHT_BITS).round() for n, w in averages.items()}
        if torch.cat([w.flatten() for w in whole.values()]).abs().max() >= 2**15:
            raise click.ClickException(f"a weight is beyond {2 ** (15 - WEIGHT_BITS)}, more than a file can hold")
        model = self.autoencoder.model
        tensors = {**model.networks, **{n: w.to(torch.int16).cpu() for n, w in whole.items()}}
        return replace(model, name=name, tensors=tensors, function={"shape": self.shape, "lambdas": LAMBDAS})


def start(spec: Spec) -> Weights:
    """Where training starts: plain rounding, and distributions that do not depend on contexts; (knots, ...) each."""
    weights = {}
    for name, shape in spec.weight_shapes.items():
        w = torch.zeros(shape)
        if name in ("arm.hidden1", "arm.hidden2"):
            w = 0.1 * torch.randn(shape)
        elif name == "synthesis.hidden":
            w = torch.randn(shape) / math.sqrt(shape[-1])
        elif name == "synthesis.linear":
            w = torch.eye(*shape)
        weights[name] = w.repeat(KNOTS, *[1] * len(shape))
    return weights


@click.command()
@click.option("--model", default="base", show_default=True, help="Its name, or a file or folder.")
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of photos.")
@click.option("--lpips", type=click.Path(exists=True, path_type=Path), required=True, help="Weights of LPIPS.")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="Resumed from, and written to.")
@click.option("--minutes", type=float, required=True, help="How long to train now.")
@click.option("--length", default=4000, show_default=True, help="Iterations of the whole training.")
@click.option("--size", default=128, show_default=True, help="Side of the crops.")
@click.option("--batch", default=8, show_default=True)
@click.option("--learning-rate", default=3e-3, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--export", type=click.Path(path_type=Path), help="File for the model with its universal function.")
def main(
    model: str, images: Path, lpips: Path, checkpoint: Path, minutes: float, length: int, size: int, batch: int,
    learning_rate: float, device: str, export: Path | None,
) -> None:  # fmt: skip
    """Train a model's universal function."""
    start_time = time.monotonic()
    trainer = Trainer(model, lpips, size, device)
    resume(trainer, checkpoint)
    train, held_out = (photos.load(paths, size) for paths in photos.split(images))
    if not train or not held_out:
        raise click.UsageError(f"{images} has too few photos of at least {size} pixels a side")
    crops = photos.Crops(train, size, np.random.default_rng(trainer.done), ENLARGE)
    validation = photos.to_tensor([photo[:size, :size] for photo in held_out])
    for part in iterations(trainer, checkpoint, start_time + 60 * minutes, length):
        decay = 0.505 + 0.495 * math.cos(math.pi * part)
        trainer.step(crops.draw(batch), learning_rate * decay)
        if trainer.done % 200 == 0 or trainer.done == length:
            rows = [f"lambda {n}: {d:.4f}, {b:.4f} bpp" for n, d, b in trainer.evaluate(validation)]
            click.echo(f"{trainer.done}, {time.monotonic() - start_time:.0f} s; {'; '.join(rows)}")
    if export is not None:
        model_files.write(trainer.export(export.stem), export)


if __name__ == "__main__":
    main()
