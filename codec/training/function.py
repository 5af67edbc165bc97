"""The universal function of a model, from which every fit of its latents starts.

The autoencoder stays as it is. The loss is that of its own training, L1 + 0.3 LPIPS + lambda * bits per pixel, through
its decoder, with the rate of the probability model that files are coded with.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from codec.autoencoders import model as model_files
from codec.autoencoders.autoencoder import on_device
from codec.autoencoders.networks.transform import knot_weights
from codec.entropy.integer_arm import MAX_CONTEXTS
from codec.files import replacing
from codec.overfit import fit, synthesis
from codec.overfit.function import Function
from codec.overfit.spec import Spec
from codec.training.data import Photos, PhotoTask, as_pictures
from codec.training.loop import Progress
from codec.training.lpips import Lpips
from codec.training.optimizers import MuonAndAdam, Schedule
from codec.training.prior import KNOTS, LAMBDAS, draw_lambdas
from codec.training.weights import Weights, whole

LPIPS_WEIGHT = 0.3
EVALUATED = (0.02, 0.1, 0.5)  # lambdas
STEPS = "steps"
# Shape of the functions, but for what depends on the model.
SHAPE: dict[str, Any] = {"spatial": 12, "hidden": 8, "residuals": 1, "separate": True, "linear": True}


class FunctionTask(PhotoTask):
    """Training of a model's universal function from photos.

    Args:
        photos: to train on.
        held_out: pictures (count, 3, side, side) in 0..1 to validate with.
        lpips: weights of LPIPS.
        autoencoder: the model.
        side: of the crops, a multiple of the model's downscale.
        count: crops at once.
    """

    name = "function"
    schedule = Schedule(3e-3, 100)
    model: Weights

    def __init__(
        self, photos: Photos, held_out: Tensor, lpips: Lpips, autoencoder: model_files.Model, side: int = 128,
        count: int = 8,
    ) -> None:  # fmt: skip
        super().__init__(photos, side, count)
        self.held_out, self.lpips, self.autoencoder = held_out, lpips, autoencoder
        self.config = {"model": autoencoder.prefix.hex()}
        known = on_device(autoencoder, torch.device("cpu"))
        channels, size = known.channels, known.latent_size(side, side)
        references = min(channels - 1, MAX_CONTEXTS - SHAPE["spatial"])
        self.shape = {"features": (channels,), "references": references, **SHAPE}
        self.spec = Spec(*size, channels, **self.shape)
        torch.manual_seed(0)
        low, high = (math.log(bound / 0.1) / 2 for bound in LAMBDAS)  # a step grows with the root of lambda
        steps = torch.linspace(low, high, KNOTS)[:, None].repeat(1, channels)
        self.model = Weights({**plain_weights(self.spec), STEPS: steps})  # of the steps, their logarithms

    def optimizer(self) -> MuonAndAdam:
        return MuonAndAdam([], self.model.parameters())

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        lambdas = draw_lambdas(len(batch), batch.device)
        distortion, bits = self.code(self.model, as_pictures(batch), lambdas)
        figures = {"distortion": distortion.detach().mean(), "bpp": bits.detach().mean()}
        return (distortion + lambdas * bits).mean(), figures

    def code(self, knots: Weights, pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
        """Distortion and bits per pixel (batch,) of rounded latents, with gradients passed straight through."""
        autoencoder = on_device(self.autoencoder, pictures.device)
        between = knot_weights(lambdas, LAMBDAS, KNOTS)
        weights = {name: torch.einsum("bk,k...->b...", between, w) for name, w in knots.named().items()}
        steps = weights.pop(STEPS).exp()[:, :, None, None]
        scaled = autoencoder.encode(pictures) / steps
        grid = scaled + (scaled.round() - scaled).detach()
        bits = fit.rate(Function(self.spec, weights, [grid])) / autoencoder.downscale**2
        latents = synthesis.output([grid], weights, self.spec) * steps
        made = autoencoder.decode(latents, self.side, self.side)
        seen = self.lpips.to(pictures.device)(made, pictures)
        return (made - pictures).abs().mean((1, 2, 3)) + LPIPS_WEIGHT * seen, bits

    def validate(self, model: nn.Module, progress: Progress, folder: Path) -> dict[str, Any]:
        """Mean distortion and bits per pixel by lambda."""
        knots, figures = cast("Weights", model), {}
        pictures = self.held_out.to(next(model.parameters()).device)
        for lam in EVALUATED:
            coded = self.code(knots, pictures, pictures.new_full((len(pictures),), lam))
            means = (round(values.mean().item(), 5) for values in coded)
            figures[f"lambda {lam:g}"] = dict(zip(("distortion", "bpp"), means, strict=True))
        return figures

    def export(self, path: Path) -> None:
        """Write the model with its universal function."""
        weights = self.model.named()
        numbers = whole({**weights, STEPS: weights[STEPS].exp()})
        tensors = {**self.autoencoder.networks, **{f"function.{name}": w for name, w in numbers.items()}}
        function = {"shape": self.shape, "lambdas": LAMBDAS}
        with replacing(path) as temporary:
            model_files.write(replace(self.autoencoder, name=path.stem, tensors=tensors, function=function), temporary)


def plain_weights(spec: Spec) -> dict[str, Tensor]:
    """Initial weights: plain rounding, and distributions that do not depend on contexts; (knots, ...) each."""
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
