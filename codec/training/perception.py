"""The perceptual network that fits are guided by: it learns to see what the network of LPIPS sees.

It sees photos, and each as an autoencoder shows it after coding and after coding a little differently: what counts are
the differences between these. In the first part of the training each block of layers gets what LPIPS' own layers
before it give, so all learn at once (blockwise distillation); then each gets what those before it have learnt to give.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from codec.autoencoders.autoencoder import on_device
from codec.autoencoders.model import Model
from codec.autoencoders.perceptual_loss import TAPS, Perception, direction
from codec.device import reduced_precision
from codec.files import write
from codec.training.data import Photos, PhotoTask, as_pictures
from codec.training.lpips import Lpips
from codec.training.optimizers import MuonAndAdam, Schedule

BLOCKS = (0, 2, 4, 5, 7, 8, 10, 11)  # layers at which blocks begin, and the end
APART = 2000  # iterations in which blocks learn apart
STEPS = (0.25, 5.6)  # least and greatest quantisation step of the latents
CHANGED = 0.25  # of a latent's samples, at most, that are coded differently
MUON = 2.0  # its learning rate, in Adam's


class Optimizer(MuonAndAdam):
    """One that keeps what differences are worth from falling below zero: no difference makes pictures more alike."""

    def __init__(self, network: Perception) -> None:
        kernels = [p for p in network.layers.parameters() if p.dim() == 4 and p.shape[1] > 3]
        super().__init__(kernels, network.parameters(), MUON)
        self.importance = list(network.importance)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        super().step(learning_rate)
        for importance in self.importance:
            importance.clamp_(min=0)


class PerceptionTask(PhotoTask):
    """Training of the perceptual network from photos.

    Args:
        photos: to train on.
        teacher: LPIPS with its weights.
        autoencoder: model whose pictures are looked at.
        side: of the crops.
        count: crops at once; three times as many pictures are looked at.
    """

    name = "perception"
    schedule = Schedule(3e-3, 100)
    model: Perception

    def __init__(self, photos: Photos, teacher: Lpips, autoencoder: Model, side: int = 128, count: int = 6) -> None:
        super().__init__(photos, side, count)
        self.teacher, self.autoencoder = teacher, autoencoder
        self.config = {"model": autoencoder.prefix.hex()}
        torch.manual_seed(0)
        self.model = Perception()
        for parameter in self.model.layers.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.zeros_(parameter)

    def optimizer(self) -> MuonAndAdam:
        return Optimizer(self.model)

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        losses = self.losses(self.views(as_pictures(batch)), apart=iteration < APART)
        error, difference = losses.detach().mean(0)
        return losses.sum(), {"error": error, "difference": difference}

    @torch.no_grad()
    def views(self, pictures: Tensor) -> Tensor:
        """Photos (batch, 3, h, w), these as the autoencoder shows them, and so again: three times the batch."""
        autoencoder = on_device(self.autoencoder, pictures.device)
        latents = autoencoder.encode(pictures)
        draw = torch.rand(2, len(latents), 1, 1, 1, device=pictures.device)
        low, high = (math.log(step) for step in STEPS)
        step = (low + (high - low) * draw[0]).exp()
        coded = (latents / step).round()
        changed = torch.rand_like(coded) < CHANGED * draw[1]
        other = coded + torch.randint_like(coded, -1, 2) * changed
        made = autoencoder.decode(torch.cat([coded, other]) * step.repeat(2, 1, 1, 1), *pictures.shape[2:])
        return torch.cat([pictures, made])

    def losses(self, views: Tensor, *, apart: bool) -> Tensor:
        """(blocks, 2): relative error of each block's output, and of what it says of differences between views."""
        teacher = self.teacher.to(views.device)
        x = self.model.normalise(views)
        given, losses = x, []
        for start, stop in pairwise(BLOCKS):
            with torch.no_grad():
                wanted = teacher.features[start:stop](x)
            with reduced_precision(views.device):
                found = self.model.layers[start:stop](x if apart else given)
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
            own = (ours.detach().square() * self.model.importance[tap]).sum(1)
            total = total + (own - distance).square().mean() / distance.square().mean()
        return total

    def export(self, path: Path) -> None:
        """Write the weights, in float16."""
        write(path, save({name: w.half().cpu().contiguous() for name, w in self.model.state_dict().items()}))
