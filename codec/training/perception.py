"""Train the perceptual network that fits are guided by: it learns to see what the network of LPIPS sees.

    python -m codec.training.perception --images FOLDER --lpips WEIGHTS --checkpoint FILE --minutes 60 --export FILE

It sees photos, and each as an autoencoder shows it after coding and after coding a little differently: what counts are
the differences between these. In the first part of the training each block of layers gets what LPIPS' own layers
before it give, so all learn at once (blockwise distillation); then each gets what those before it have learnt to give.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from codec.autoencoders import store
from codec.autoencoders.autoencoder import Autoencoder
from codec.autoencoders.perceptual_loss import TAPS, Perception, direction
from codec.training import photos
from codec.training.lpips import Lpips
from codec.training.optimizers import MuonAndAdam
from codec.training.scripts import iterations, resume

BLOCKS = (0, 2, 4, 5, 7, 8, 10, 11)  # layers at which blocks begin, and the end
APART = 1 / 3  # part of the training in which blocks learn apart
STEPS = (0.25, 5.6)  # least and greatest quantisation step of the latents
CHANGED = 0.25  # of a latent's samples, at most, that are coded differently
MUON = 2.0  # its learning rate, in Adam's
AVERAGING = 0.997  # of the weights, an iteration
ENLARGE = 2.0


class Trainer:
    """The network in the making; all that training changes is in its checkpoint."""

    def __init__(self, model: str, lpips: Path, device: str) -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.autoencoder = Autoencoder(store.load(model), self.device)
        self.teacher = Lpips.load(lpips).to(self.device)
        self.network = Perception().to(self.device)
        for parameter in self.network.layers.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.zeros_(parameter)
        self.average = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        kernels = [p for p in self.network.layers.parameters() if p.dim() == 4 and p.shape[1] > 3]
        self.optimizers = MuonAndAdam(kernels, self.network.parameters(), MUON)
        self.done = 0

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(), "average": self.average, "done": self.done,
            "optimizers": self.optimizers.state(),
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        for name, weights in self.average.items():
            weights.copy_(state["average"][name])
        self.optimizers.load(state["optimizers"])
        self.done = state["done"]

    @torch.no_grad()
    def views(self, pictures: Tensor) -> Tensor:
        """Photos (batch, 3, h, w), these as the autoencoder shows them, and so again: three times the batch."""
        latents = self.autoencoder.encode(pictures)
        draw = torch.rand(2, len(latents), 1, 1, 1, device=self.device)
        low, high = (math.log(step) for step in STEPS)
        step = (low + (high - low) * draw[0]).exp()
        coded = (latents / step).round()
        changed = torch.rand_like(coded) < CHANGED * draw[1]
        other = coded + torch.randint_like(coded, -1, 2) * changed
        made = self.autoencoder.decode(torch.cat([coded, other]) * step.repeat(2, 1, 1, 1), *pictures.shape[2:])
        return torch.cat([pictures, made])

    def losses(self, views: Tensor, *, apart: bool) -> Tensor:
        """(blocks, 2): relative error of each block's output, and of what it says of differences between views."""
        x = self.network.normalise(views)
        given, losses = x, []
        for start, stop in pairwise(BLOCKS):
            with torch.no_grad():
                wanted = self.teacher.features[start:stop](x)
            with torch.autocast(self.device.type, torch.bfloat16):
                found = self.network.layers[start:stop](x if apart else given)
            given, found, x = found, found.float(), wanted
            error = (found - wanted).square().mean() / wanted.var()
            tap = TAPS.index(stop - 1) if stop - 1 in TAPS else None
            difference = error.new_zeros(()) if tap is None else self._difference(found, wanted, tap)
            losses.append(torch.stack([error, difference]))
        return torch.stack(losses)

    def _difference(self, found: Tensor, wanted: Tensor, tap: int) -> Tensor:
        """Relative errors of features' differences between views, and of the distances they make, for a tap."""
        worth = getattr(self.teacher, f"lin{tap}")[0]
        found, wanted = direction(found).unflatten(0, (3, -1)), direction(wanted).unflatten(0, (3, -1))
        total = found.new_zeros(())
        for ours, theirs in zip(found[:-1] - found[1:], wanted[:-1] - wanted[1:], strict=True):
            scale = (theirs.square() * worth).mean()
            total = total + ((ours - theirs).square() * worth).mean() / scale
            distance = (theirs.square() * worth).sum(1)
            own = (ours.detach().square() * self.network.importance[tap]).sum(1)
            total = total + (own - distance).square().mean() / distance.square().mean()
        return total

    def step(self, pictures: Tensor, learning_rate: float, *, apart: bool) -> Tensor:
        """One iteration; returns `losses`."""
        losses = self.losses(self.views(pictures.to(self.device)), apart=apart)
        self.network.zero_grad()
        losses.sum().backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizers.step(learning_rate)
        self.done += 1
        with torch.no_grad():
            for importance in self.network.importance:  # no difference makes pictures more alike
                importance.clamp_(min=0)
        for name, p in self.network.named_parameters():
            self.average[name].lerp_(p.detach(), max(1 - AVERAGING, 1 / self.done))
        return losses.detach()

    def export(self) -> dict[str, Tensor]:
        """The averaged weights, in float16."""
        return {name: weights.half().cpu() for name, weights in self.average.items()}


@click.command()
@click.option("--model", default="base", show_default=True, help="Whose pictures are looked at.")
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of photos.")
@click.option("--lpips", type=click.Path(exists=True, path_type=Path), required=True, help="Weights of LPIPS.")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="Resumed from, and written to.")
@click.option("--minutes", type=float, required=True, help="How long to train now.")
@click.option("--length", default=6000, show_default=True, help="Iterations of the whole training.")
@click.option("--size", default=128, show_default=True, help="Side of the crops.")
@click.option("--batch", default=6, show_default=True)
@click.option("--learning-rate", default=3e-3, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--export", type=click.Path(path_type=Path), help="File for the network.")
def main(
    model: str, images: Path, lpips: Path, checkpoint: Path, minutes: float, length: int, size: int, batch: int,
    learning_rate: float, device: str, export: Path | None,
) -> None:  # fmt: skip
    """Train the perceptual network."""
    start = time.monotonic()
    trainer = Trainer(model, lpips, device)
    resume(trainer, checkpoint)
    known = photos.load(photos.split(images)[0], size)
    if not known:
        raise click.UsageError(f"{images} has no photos of at least {size} pixels a side")
    crops = photos.Crops(known, size, np.random.default_rng(trainer.done), ENLARGE)
    seen: list[Tensor] = []
    for part in iterations(trainer, checkpoint, start + 60 * minutes, length):
        rate = learning_rate * min(1.0, (trainer.done + 1) / 100) * (0.505 + 0.495 * math.cos(math.pi * part))
        seen.append(trainer.step(crops.draw(batch), rate, apart=part < APART))
        if trainer.done % 100 == 0:
            columns = torch.stack(seen).mean(0).T.tolist()
            errors = ["/".join(f"{v:.3f}" for v in column) for column in columns]
            click.echo(f"{trainer.done}, {time.monotonic() - start:.0f} s: {errors[0]}; differences {errors[1]}")
            seen.clear()
    if export is not None:
        export.write_bytes(save(trainer.export()))


if __name__ == "__main__":
    main()
