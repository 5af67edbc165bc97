"""The prior of an enhancement layer, on what a learned transform leaves of pictures; the transform stays as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.autoencoders.learned_transform import on_device
from codec.autoencoders.model_file import Model
from codec.autoencoders.networks.dequantisation import dequantised
from codec.autoencoders.networks.enhancement import PRESET, Config, basis
from codec.autoencoders.networks.integer_prior import LOG
from codec.autoencoders.networks.progressive_prior import Distributions, ProgressivePrior, laplace_bits
from codec.autoencoders.networks.transform_config import PATCH, PIXELS
from codec.autoencoders.tensor_file import Arrays
from codec.device import reduced_precision
from codec.distortion.pixels import SIDES, coarse_error, squared_error
from codec.entropy.layers import narrowed
from codec.entropy.tables import HIGH_RATE_SLOPE
from codec.training import models
from codec.training.cost import draw_lambdas
from codec.training.data import Photos, PhotoTask, as_pictures, crops
from codec.training.msp_prior import read_integers
from codec.training.optimizers import MuonAndAdam, Schedule, wide
from codec.training.quantisation import quantised, whole
from codec.training.transform_network import knot_weights

STARTED = 32  # pictures whose differences say how wide distributions are at first
DRAWN = 2  # lambdas for each picture: to code it in the first layer takes longer than all the rest
COARSE = 1.0  # weight of the coarse error: more than where rates are low, and PSNR is not what pictures lack
STEP = math.sqrt(
    3 / HIGH_RATE_SLOPE
)  # of the best quantiser at high rates by the root of lambda, of three samples a pixel


class EnhancementTask(PhotoTask):
    """Training of the layer's prior.

    Args:
        config: of the layer.
        weights: a model for profile `msp`; a layer that it has is replaced.
        start: a model with such a layer, whose prior this one starts from.
        side: of the crops.
        count: crops at once.
    """

    name = "enhancement"
    schedule = Schedule(1.2e-3, 50)
    model: ProgressivePrior

    def __init__(
        self, config: Config, photos: Photos, weights: Path, side: int, count: int, start: Path | None = None
    ) -> None:
        super().__init__(photos, side, count)
        self.layer = config
        self.config: Mapping[str, Any] = {
            "layer": asdict(config), "weights": models.fingerprint(weights)
        }  # fmt: skip
        self.base = models.read(weights, "msp")
        low, high = map(math.log, config.lambdas)
        steps = STEP * torch.linspace(low, high, config.knots).div(2).exp()
        self.log_gain = (LOG * (costs().log() / 2 - steps.log()[:, None])).round().long()
        torch.manual_seed(0)
        self.model = ProgressivePrior(PRESET, PIXELS, config.knots, config.hidden)
        if start is None:
            differences = self._differences(as_pictures(crops(photos, side, STARTED, 0)))
            self.model.start(differences.square().mean((0, 2, 3)))
        else:
            self._start_as(start)

    def _start_as(self, start: Path) -> None:
        layer = read_integers(start).enhancement
        if layer is None or layer.config != self.layer:
            raise ValueError(f"{start} has no enhancement layer of this shape to start from")
        self.model.load_state_dict(dequantised(layer.prior).state_dict())

    def optimizer(self) -> MuonAndAdam:
        fast = [self.model.log_scale, self.model.mean]
        return MuonAndAdam(wide(self.model, but=fast), self.model.parameters(), fast=fast)

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        differences = self._differences(as_pictures(batch)).repeat(DRAWN, 1, 1, 1)
        lambdas = draw_lambdas(len(differences), batch.device, self.layer.lambdas)
        knots = knot_weights(lambdas, self.layer.lambdas, self.layer.knots)
        gains = (knots @ (self.log_gain.to(knots) / LOG)).exp()[:, :, None, None]
        exact = differences * gains
        with reduced_precision(batch.device):
            with torch.no_grad():
                symbols = traded(exact, self.model(exact.round() / gains, knots).scaled(gains))
            found = self.model(symbols / gains, knots)
        bits = laplace_bits(symbols, *found.scaled(gains)).flatten(1).sum(1) / self.side**2
        return 100 * (lambdas.sqrt() * bits).mean(), {"bpp": bits.detach().mean()}

    @torch.no_grad()
    def _differences(self, pictures: Tensor) -> Tensor:
        """Remainder of pictures (batch, 3, h, w) beside the first layer: (batch, PIXELS, h / PATCH, w / PATCH)."""
        device = pictures.device
        transform = on_device(self.base, str(device))
        position, networks = transform.position(math.log(self.layer.lambdas[1])), transform.networks
        symbols = networks.encode(pictures, position).round()
        left = pictures - networks.decode(symbols, position, *pictures.shape[2:])
        return F.conv2d(F.pixel_unshuffle(left, PATCH), torch.from_numpy(basis()).to(device)[:, :, None, None])

    def export(self, path: Path) -> None:
        """Write the model with the layer."""
        models.write(self._model(), path)

    def _model(self) -> Model:
        layer = {"gains.log": whole(self.log_gain)}
        layer |= {f"prior.{name}": numbers for name, numbers in quantised(self.model).items()}
        tensors = {name: tensor for name, tensor in self.base.tensors.items() if not name.startswith("enhancement.")}
        tensors |= Arrays({f"enhancement.{name}": numbers for name, numbers in narrowed(layer).items()})
        return replace(self.base, config={**self.base.config, "enhancement": asdict(self.layer)}, tensors=tensors)


def costs() -> Tensor:
    """Cost of an error along each function of the basis (PIXELS,), where one that is as fine as can be costs 1."""
    functions = F.pixel_shuffle(torch.from_numpy(basis())[:, :, None, None], PATCH)
    alone = F.pad(functions, (0, max(SIDES) - PATCH) * 2)
    return 1 + COARSE * coarse_error(alone, torch.zeros_like(alone)) / squared_error(alone, torch.zeros_like(alone))


def traded(exact: Tensor, found: Distributions) -> Tensor:
    """Symbols for which squared error and bits are about least, given distributions of them.

    Args:
        exact: what they would be if they were not whole.
    """
    off = exact - found.mean
    drawn = off.sign() * (off.abs() - HIGH_RATE_SLOPE / (2 * math.log(2)) * torch.exp(-found.log_scale)).clamp_min(0)
    return (drawn + found.mean).round()
