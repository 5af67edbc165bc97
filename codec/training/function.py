"""Train the functions that fits start from, one for each of some lambdas, with the analysis that guesses the grids.

    python -m codec.training.function --images FOLDER --checkpoint FILE --minutes 30 [--export FILE]

All photos share the functions here, so what is learned is what photos have in common; the loss is that of a fit,
mean squared error + lambda * bits per pixel, with grids rounded and gradients passed straight through.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from codec.overfit import arm, initial, synthesis
from codec.overfit.analysis import Analysis
from codec.overfit.fit import Function, Schedule, Weights, cost, soften
from codec.overfit.function import Spec


class Crops:
    """Random square crops of the photos in a folder, flipped and sometimes halved in size."""

    def __init__(self, folder: Path, size: int, generator: np.random.Generator) -> None:
        self.size, self.generator = size, generator
        self.photos = []
        for path in sorted(folder.iterdir()):
            with Image.open(path) as image:
                if min(image.size) >= size:
                    self.photos.append(np.asarray(image.convert("RGB")))

    def draw(self, count: int) -> Tensor:
        """(count, 3, size, size) in 0..1."""
        crops = [self._one() for _ in range(count)]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255

    def _one(self) -> np.ndarray:
        photo = self.photos[self.generator.integers(len(self.photos))]
        top, left = (self.generator.integers(n - self.size + 1) for n in photo.shape[:2])
        crop = photo[top : top + self.size, left : left + self.size]
        return crop[:, :: self.generator.choice((-1, 1))]


class Trainer:
    """Everything that training changes, so that a checkpoint holds it all."""

    def __init__(self, spec: Spec, device: str, learning_rate: float) -> None:
        self.spec, self.device = spec, device
        generator = torch.Generator().manual_seed(0)
        count = len(initial.LAMBDAS)
        weights = initial.plain_weights(spec, count, generator)
        torch.manual_seed(0)
        self.analysis = Analysis(spec.outputs, count).to(device)
        self.weights = {name: w.to(device).requires_grad_() for name, w in weights.items()}
        parameters = [*self.weights.values(), *self.analysis.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.98), fused=True)
        self.iteration = 0
        lambdas = torch.tensor(initial.LAMBDAS, device=device)
        self.lambdas = lambdas

    def state(self) -> dict[str, object]:
        return {
            "weights": self.weights, "analysis": self.analysis.state_dict(),
            "optimizer": self.optimizer.state_dict(), "iteration": self.iteration,
        }  # fmt: skip

    def load(self, state: dict[str, dict[str, Tensor]]) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state["weights"][name])
        self.analysis.load_state_dict(state["analysis"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = int(state["iteration"])  # type: ignore[call-overload]

    def costs(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error and bits per pixel, (functions, crops), of the crops under every function."""
        count, functions = len(crops), len(self.lambdas)
        samples = crops.repeat(functions, 1, 1, 1)
        which = torch.arange(functions, device=self.device).repeat_interleave(count)
        weights = {name: w[which] for name, w in self.weights.items()}
        grids = [g.repeat(functions, 1, 1, 1) for g in self.analysis(crops)]
        grids = self.analysis.scale(grids, which)
        grids = [g + (g.round() - g).detach() for g in grids]
        error = synthesis.squared_error(grids, weights, self.spec, samples) / samples[0].numel()
        bits = arm.rate(grids, weights, self.spec).sum(1) / (self.spec.height * self.spec.width)
        return error.view(functions, count), bits.view(functions, count)

    def step(self, crops: Tensor, learning_rate: float) -> tuple[Tensor, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        error, bits = self.costs(crops)
        loss = (error.mean(1) + self.lambdas * bits.mean(1)) / self.lambdas**0.6  # so that all weigh alike
        self.optimizer.zero_grad()
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        self.optimizer.step()
        self.iteration += 1
        return error.detach().mean(1), bits.detach().mean(1)


class Adapter:
    """The second stage: functions for fitted grids, which differ from those that an analysis can guess.

    Some photos are fitted at a time, all with the same functions; these learn on from one set of photos to the next.
    """

    def __init__(self, trainer: Trainer, learning_rate: float) -> None:
        self.trainer = trainer
        self.optimizer = torch.optim.Adam(trainer.weights.values(), lr=learning_rate, fused=True)
        self.average = {name: w.detach().clone() for name, w in trainer.weights.items()}
        self.generator = torch.Generator(trainer.device).manual_seed(0)

    def cycle(self, crops: Tensor, schedule: Schedule) -> Tensor:
        """Fit the crops under every function; mean cost by function at the end, grids rounded."""
        trainer = self.trainer
        functions, count = len(trainer.lambdas), len(crops)
        which = torch.arange(functions, device=trainer.device).repeat_interleave(count)
        samples, lambdas = crops.repeat(functions, 1, 1, 1), trainer.lambdas[which]
        with torch.no_grad():
            guesses = trainer.analysis.scale([g.repeat(functions, 1, 1, 1) for g in trainer.analysis(crops)], which)
        grids = [g.requires_grad_() for g in guesses]
        damping = schedule.damping / (trainer.spec.height * trainer.spec.width)
        optimizer = torch.optim.Adam(grids, lr=schedule.grid_rate, eps=damping, fused=True)
        for i in range(schedule.main):
            part = i / schedule.main
            optimizer.param_groups[0]["lr"] = schedule.grid_rate * (0.5 + 0.5 * math.cos(math.pi * part))
            temperature, noise = (a + (b - a) * part for a, b in (schedule.temperature, schedule.noise))
            soft = [soften(g, temperature, noise, self.generator) for g in grids]
            weights = {name: w[which] for name, w in trainer.weights.items()}
            optimizer.zero_grad()
            self.optimizer.zero_grad()
            cost(Function(trainer.spec, weights, soft), samples, lambdas).sum().backward()
            optimizer.step()
            self.optimizer.step()
            for name, w in trainer.weights.items():
                self.average[name].lerp_(w.detach(), 0.002)
        with torch.no_grad():
            rounded = Function(trainer.spec, weights, grids).rounded()
            return cost(rounded, samples, lambdas).view(functions, count).mean(1)


@click.command()
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of photos.")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="Resumed from, and written to.")
@click.option("--minutes", type=float, required=True, help="How long to train now.")
@click.option("--iterations", default=20000, show_default=True, help="Length of the cosine schedule.")
@click.option("--size", default=128, show_default=True, help="Side of the crops.")
@click.option("--batch", default=2, show_default=True, help="Crops an iteration; each goes through every function.")
@click.option("--learning-rate", default=3e-3, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--adapt-minutes", default=0.0, show_default=True, help="How long to fit photos with them after that.")
@click.option("--export", type=click.Path(path_type=Path), help="Write the package's file of initial functions.")
def main(
    images: Path, checkpoint: Path, minutes: float, iterations: int, size: int, batch: int, learning_rate: float,
    device: str, adapt_minutes: float, export: Path | None,
) -> None:  # fmt: skip
    """Train the functions that fits start from."""
    trainer = Trainer(initial.spec(size, size, 3), device, learning_rate)
    if checkpoint.exists():
        trainer.load(torch.load(checkpoint, weights_only=True, map_location=device))
    crops = Crops(images, size, np.random.default_rng(trainer.iteration))
    start = saved = time.monotonic()
    smooth: Tensor | None = None
    while time.monotonic() - start < 60 * minutes and trainer.iteration < iterations:
        rate = learning_rate * (0.51 + 0.49 * math.cos(math.pi * trainer.iteration / iterations))
        rate *= min(1, trainer.iteration / 100 + 0.01)
        now = torch.stack(trainer.step(crops.draw(batch).to(device), rate))
        smooth = now if smooth is None else smooth.lerp(now, 0.02)
        if trainer.iteration % 100 == 0:
            rows = (f"{-10 * math.log10(e):.2f} dB {b:.3f} bpp" for e, b in smooth.T.tolist())
            click.echo(f"{trainer.iteration} {time.monotonic() - start:.0f} s: " + "; ".join(rows))
        if time.monotonic() - saved > 60:
            torch.save(trainer.state(), checkpoint)
            saved = time.monotonic()
    torch.save(trainer.state(), checkpoint)
    weights = adapt(trainer, crops, adapt_minutes, batch, export) if adapt_minutes else trainer.weights
    if export is not None:
        initial.export(weights, trainer.analysis, export)


def adapt(trainer: Trainer, crops: Crops, minutes: float, batch: int, export: Path | None) -> Weights:
    """Run the second stage for some minutes; the functions' weights, averaged over its last iterations."""
    adapter = Adapter(trainer, 3e-3)
    start, cycles = time.monotonic(), 0
    while time.monotonic() - start < 60 * minutes:
        part = (time.monotonic() - start) / (60 * minutes)
        adapter.optimizer.param_groups[0]["lr"] = 3e-3 * (0.55 + 0.45 * math.cos(math.pi * part))
        costs = adapter.cycle(crops.draw(batch).to(trainer.device), Schedule(0, 250, 0))
        cycles += 1
        click.echo(f"cycle {cycles}, {time.monotonic() - start:.0f} s: " + " ".join(f"{1e3 * c:.3f}" for c in costs))
        if export is not None:
            initial.export(adapter.average, trainer.analysis, export)
    return adapter.average


if __name__ == "__main__":
    main()
