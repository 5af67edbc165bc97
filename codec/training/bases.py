"""Train the functions that fits start from, one for each of some lambdas, with the analysis that guesses the grids.

    python -m codec.training.bases --images FOLDER --checkpoint FILE --stage guess --minutes 10
    python -m codec.training.bases --images FOLDER --checkpoint FILE --stage fit --minutes 16 --export FOLDER

All photos share the functions here, so what is learned is what photos have in common. The first stage learns them
together with the analysis, whose grids are rounded with gradients passed straight through. In the second they go on
learning while some photos at a time are fitted: fitted grids differ from those that an analysis can guess.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from codec.entropy.integer_arm import WEIGHT_BITS
from codec.overfit import reference_weights
from codec.overfit.analysis import Analysis
from codec.overfit.fit import Schedule, cost, soften
from codec.overfit.function import Function, Weights
from codec.overfit.spec import BICUBIC, Spec
from codec.training import photos

CYCLE = Schedule(warm_up=0, main=250, settle=0)
AVERAGING = 0.002  # of the second stage's weights, an iteration


class Trainer:
    """Functions and analysis, and all else that training changes, so that a checkpoint holds it."""

    def __init__(self, size: int, device: str) -> None:
        self.spec, self.device = reference_weights.trained_spec(size, size, reference_weights.OUTPUTS), device
        self.lambdas = torch.tensor(reference_weights.LAMBDAS, device=device)
        generator = torch.Generator().manual_seed(0)
        plain = plain_weights(self.spec, len(self.lambdas), generator)
        self.weights = {name: w.to(device).requires_grad_() for name, w in plain.items()}
        self.average = {name: w.detach().clone() for name, w in self.weights.items()}
        torch.manual_seed(0)
        self.analysis = Analysis(reference_weights.OUTPUTS, len(self.lambdas)).to(device)
        everything = [*self.weights.values(), *self.analysis.parameters()]
        self.optimizers = {
            "guess": torch.optim.Adam(everything, betas=(0.9, 0.98), fused=True),
            "fit": torch.optim.Adam(self.weights.values(), fused=True),
        }
        self.done = {"guess": 0, "fit": 0}  # iterations and cycles
        self.generator = torch.Generator(device).manual_seed(0)

    def state(self) -> dict[str, Any]:
        return {
            "weights": self.weights, "average": self.average, "analysis": self.analysis.state_dict(),
            "optimizers": {stage: o.state_dict() for stage, o in self.optimizers.items()}, "done": self.done,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name in self.weights:
                self.weights[name].copy_(state["weights"][name])
                self.average[name].copy_(state["average"][name])
        self.analysis.load_state_dict(state["analysis"])
        for stage, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][stage])
        self.done = state["done"]

    def export(self, folder: Path) -> None:
        """Write the functions, as whole numbers in units of 2**-12, and the analysis, as float16."""
        folder.mkdir(parents=True, exist_ok=True)
        limit = 2.0 ** (15 - WEIGHT_BITS)
        if any(w.abs().max() >= limit for w in self.average.values()):
            raise click.ClickException(f"a weight is beyond {limit:g}, more than the file can hold: train again")
        functions = {name: (w * 2**WEIGHT_BITS).round().to(torch.int16) for name, w in self.average.items()}
        analysis = {name: w.half() for name, w in self.analysis.state_dict().items()}
        for file, tensors in (("functions", functions), ("analysis", analysis)):
            contents = {name: t.cpu().contiguous() for name, t in tensors.items()}
            save_file(contents, folder / f"{file}.safetensors")

    def guess(self, crops: Tensor) -> Tensor:
        """An iteration of the first stage; mean cost by function."""
        function, samples, lambdas = self._under_all(crops)
        function.grids = [g + (g.round() - g).detach() for g in function.grids]
        costs = cost(function, samples, lambdas).view(len(self.lambdas), -1).mean(1)
        self.optimizers["guess"].zero_grad()
        (costs / self.lambdas**0.6).sum().backward()  # so that all weigh about alike
        torch.nn.utils.clip_grad_norm_([*self.weights.values(), *self.analysis.parameters()], 1.0)
        self.optimizers["guess"].step()
        for name, w in self.weights.items():
            self.average[name].copy_(w.detach())
        return costs.detach()

    def fit(self, crops: Tensor) -> Tensor:
        """A cycle of the second stage: the crops are fitted under every function; mean cost by function at its end."""
        function, samples, lambdas = self._under_all(crops)
        grids = [g.detach().requires_grad_() for g in function.grids]
        optimizer = torch.optim.Adam(grids, eps=CYCLE.epsilon(self.spec), fused=True)
        noise = torch.cat([g.detach().flatten(1) for g in grids], 1)
        for i in range(CYCLE.main):
            part = i / CYCLE.main
            temperature, spread = CYCLE.softness(part)
            optimizer.param_groups[0]["lr"], _ = CYCLE.learning_rates(part)
            function, samples, lambdas = self._under_all(crops, grids)
            noise.normal_(0, spread, generator=self.generator)
            function.grids = soften(grids, noise, noise.new_tensor(temperature))
            optimizer.zero_grad()
            self.optimizers["fit"].zero_grad()
            cost(function, samples, lambdas).sum().backward()
            optimizer.step()
            self.optimizers["fit"].step()
            for name, w in self.weights.items():
                self.average[name].lerp_(w.detach(), AVERAGING)
        with torch.no_grad():
            found = cost(self._under_all(crops, grids)[0].rounded(), samples, lambdas)
        return found.view(len(self.lambdas), -1).mean(1)

    def _under_all(self, crops: Tensor, grids: list[Tensor] | None = None) -> tuple[Function, Tensor, Tensor]:
        """Every crop under every function, with guessed grids if there are none: function, samples, lambdas."""
        count = len(self.lambdas)
        which = torch.arange(count, device=self.device).repeat_interleave(len(crops))
        if grids is None:
            grids = self.analysis.scale([g.repeat(count, 1, 1, 1) for g in self.analysis(crops)], which)
        weights = {name: w[which] for name, w in self.weights.items()}
        return Function(self.spec, weights, grids), crops.repeat(count, 1, 1, 1), self.lambdas[which]


def plain_weights(spec: Spec, batch: int, generator: torch.Generator) -> Weights:
    """Where training starts: random where layers must differ, bicubic upsampling, zero otherwise; (batch, ...) each."""
    gains = {"arm.hidden1": 0.3, "arm.hidden2": 0.3, "synthesis.hidden": 1 / 16, "synthesis.output": 1.0}
    weights = {}
    for name, shape in spec.weight_shapes.items():
        weights[name] = torch.zeros(batch, *shape)
        if name == "upsampling.taps":
            weights[name] += torch.tensor(BICUBIC)
        elif name in gains:
            weights[name] = torch.randn(batch, *shape, generator=generator) * gains[name] / math.sqrt(shape[-1])
    weights["synthesis.output_bias"] += 0.5
    return weights


@click.command()
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of photos.")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="Resumed from, and written to.")
@click.option("--stage", type=click.Choice(["guess", "fit"]), required=True)
@click.option("--minutes", type=float, required=True, help="How long to train now.")
@click.option("--length", type=int, help="Iterations or cycles of the whole stage.  [default: 16000 or 40]")
@click.option("--size", default=128, show_default=True, help="Side of the crops.")
@click.option("--batch", default=3, show_default=True, help="Crops at a time; each goes through every function.")
@click.option("--learning-rate", default=3e-3, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--export", type=click.Path(path_type=Path), help="Folder for both models.")
def main(
    images: Path, checkpoint: Path, stage: str, minutes: float, length: int | None, size: int, batch: int,
    learning_rate: float, device: str, export: Path | None,
) -> None:  # fmt: skip
    """Train the functions that fits start from."""
    if export is not None and export.resolve() == reference_weights.FILE.parent:
        raise click.UsageError(
            f"files refer to {reference_weights.FILE}, which must not change: export to another folder"
        )
    trainer = Trainer(size, device)
    if checkpoint.exists():
        trainer.load(torch.load(checkpoint, weights_only=True, map_location=device))
    paths = sorted(path for path in images.iterdir() if path.is_file())
    crops = photos.Crops(photos.load(paths, size), size, np.random.default_rng(sum(trainer.done.values())))
    step: Callable[[Tensor], Tensor] = {"guess": trainer.guess, "fit": trainer.fit}[stage]
    length = length or {"guess": 16000, "fit": 40}[stage]
    start = saved = time.monotonic()
    while time.monotonic() - start < 60 * minutes and trainer.done[stage] < length:
        decay = 0.51 + 0.49 * math.cos(math.pi * trainer.done[stage] / length)
        trainer.optimizers[stage].param_groups[0]["lr"] = learning_rate * decay
        costs = step(crops.draw(batch).to(device))
        trainer.done[stage] += 1
        if stage == "fit" or trainer.done[stage] % 100 == 0:
            shown = " ".join(f"{1e3 * c:.3f}" for c in costs.tolist())
            click.echo(f"{stage} {trainer.done[stage]}, {time.monotonic() - start:.0f} s, 1000 * cost: {shown}")
        if time.monotonic() - saved > 60:
            torch.save(trainer.state(), checkpoint)
            saved = time.monotonic()
    torch.save(trainer.state(), checkpoint)
    if export is not None:
        trainer.export(export)


if __name__ == "__main__":
    main()
