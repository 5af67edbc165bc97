"""The universal function of a model, from which every fit of its latents starts.

The autoencoder stays as it is. The loss is that of trainings of autoencoders, through its decoder, with the rate of the
probability model that files are coded with.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from codec.autoencoders.autoencoder import on_device
from codec.autoencoders.model_file import Model
from codec.distortion.pixels import picture_error
from codec.overfit import fit, synthesis
from codec.overfit.function import Function
from codec.overfit.spec import Spec
from codec.training import models
from codec.training.cost import balanced, draw_lambdas
from codec.training.data import Photos, PhotoTask, as_pictures
from codec.training.loop import Progress
from codec.training.optimizers import MuonAndAdam, Schedule
from codec.training.prior import LAMBDAS, description, function_shape, initial_function, integers, interpolated
from codec.training.weights import Weights

EVALUATED = (0.1, 0.02, 0.003)  # lambdas


class FunctionTask(PhotoTask):
    """Training of a model's universal function from photos.

    Args:
        photos: to train on.
        held_out: pictures (count, 3, side, side) in 0..1 to validate with.
        autoencoder: the model.
        side: of the crops, a multiple of the model's downscale.
        count: crops at once.
    """

    name = "function"
    schedule = Schedule(1e-3, 100)
    model: Weights

    def __init__(
        self, photos: Photos, held_out: Tensor, autoencoder: Model, side: int = 128, count: int = 8
    ) -> None:  # fmt: skip
        super().__init__(photos, side, count)
        self.held_out, self.autoencoder = held_out, autoencoder
        self.config = {"model": autoencoder.prefix.hex()}
        known = on_device(autoencoder, torch.device("cpu"))
        channels, size = known.channels, known.latent_size(side, side)
        self.spec = Spec(*size, channels, **function_shape(channels))
        torch.manual_seed(0)
        self.model = initial_function(channels)

    def optimizer(self) -> MuonAndAdam:
        return MuonAndAdam([], self.model.parameters())

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        lambdas = draw_lambdas(len(batch), batch.device, LAMBDAS)
        distortion, bits = self.code(self.model, as_pictures(batch), lambdas)
        figures = {"distortion": distortion.detach().mean(), "bpp": bits.detach().mean()}
        return balanced(distortion, bits, lambdas), figures

    def code(self, knots: Weights, pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
        """Distortion and bits per pixel (batch,) of rounded latents, with gradients passed straight through."""
        autoencoder = on_device(self.autoencoder, pictures.device)
        weights, steps = interpolated(knots, lambdas)
        scaled = autoencoder.encode(pictures) / steps
        grid = scaled + (scaled.round() - scaled).detach()
        bits = fit.rate(Function(self.spec, weights, [grid])) / autoencoder.downscale**2
        latents = synthesis.output([grid], weights, self.spec) * steps
        made = autoencoder.decode(latents, self.side, self.side)
        return picture_error(made, pictures), bits

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
        tensors = {**self.autoencoder.networks, **integers(self.model)}
        function = description(self.spec.outputs)
        models.write(replace(self.autoencoder, name=path.stem, tensors=tensors, function=function), path)
