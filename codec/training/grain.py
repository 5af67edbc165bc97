"""Strengths of the texture that a learned transform's decoder may draw; all else of the transform stays as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.networks.enhancement import FREQUENCIES
from codec.autoencoders.networks.grain import functions
from codec.autoencoders.networks.transform import Grain
from codec.autoencoders.networks.transform_config import PATCH, Config
from codec.autoencoders.tensor_file import check_shapes
from codec.device import reduced_precision
from codec.distortion.texture import texture
from codec.training import models
from codec.training.cost import draw_lambdas
from codec.training.data import Photos, PhotoTask, as_pictures
from codec.training.optimizers import MuonAndAdam, Schedule, wide
from codec.training.transform import transform_of
from codec.training.transform_network import Transform

NAMES = "decoder.grain."  # beginning of the names of strengths in a model
HIDDEN = 256
LAMBDAS = 1e-3, 6e-2  # for files that have no enhancement layer
USUAL = 0.02  # size of what is lost
FAINTEST = 0.03  # part of what is lost beside an edge that counts
LEAST = 0.004  # below which remainders are all alike: half a level of 8 bits, of samples in -1..1
DEVIATION = 0.635  # logarithm of a normal distribution's deviation less the mean of the logarithms of its sizes
# Part of what is typically lost that is drawn, by lambda. Far more would still cost less than 2 points of SSIMULACRA2.
PARTS, PARTS_AT = (0.9, 1.2), (1e-3, 3e-2)
# Frequencies, sums of those along both axes, above which something is drawn, and from which on all of it. Noise of low
# ones costs ten times as much SSIMULACRA2 as that of high ones, which is what makes things look crisp.
NONE_UNTIL, ALL_FROM = 2, 5


class GrainTask(PhotoTask):
    """Training of strengths, as the typical size of what is lost at each frequency.

    That is the mean of logarithms, which is far below the root of the mean square where little is known: noise where
    there is no texture is worse than too little of it. What is lost beside edges counts as `texture` says.

    Args:
        weights: a model for profile `msp`; if it has strengths, they are started from.
        side: of the crops.
        count: crops at once.
    """

    name = "grain"
    schedule = Schedule(3e-3, 20)
    model: Grain

    def __init__(self, photos: Photos, weights: Path, side: int, count: int) -> None:
        super().__init__(photos, side, count)
        self.base = models.read(weights, "msp")
        config, found = transform_of(self.base)
        self.network = replace(config, grain=HIDDEN)
        self.config: Mapping[str, Any] = {"hidden": HIDDEN, "weights": models.fingerprint(weights)}
        torch.manual_seed(0)
        self.transform = Transform(config).requires_grad_(False).eval()
        self.transform.load_state_dict(found)
        self.model = Grain(self.network)
        nn.init.constant_(self.model.condition, math.log(USUAL))
        if known := {n.removeprefix(NAMES): w.float() for n, w in self.base.tensors.items() if n.startswith(NAMES)}:
            known["condition"] -= self._drawn
            check_shapes(known, self.model.state_dict(), str(weights))
            self.model.load_state_dict(known)

    @property
    def _drawn(self) -> Tensor:
        """Logarithms of strengths less those of typical sizes, (knots, FUNCTIONS)."""
        return parts(self.network).log() + DEVIATION

    def optimizer(self) -> MuonAndAdam:
        return MuonAndAdam(wide(self.model), self.model.parameters())

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        pictures = as_pictures(batch)
        lambdas = draw_lambdas(len(pictures), batch.device, LAMBDAS)
        with reduced_precision(batch.device):
            features, knots, lost = self._lost(pictures, lambdas)
            found = self.model(features, knots).float()
        sizes = (lost.abs() + LEAST).log() + texture(pictures, PATCH).clamp_min(FAINTEST).log()
        return (sizes - found).square().mean(), {"size": found.detach().exp().mean()}

    @torch.no_grad()
    def _lost(self, pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of the decoder, weights of knots, and what is lost by each function, (batch, FUNCTIONS, h, w)."""
        transform = self.transform.to(pictures.device)
        gains, knots = transform.gains(lambdas), transform.knot_weights(lambdas)
        latents = (transform.encode(pictures, lambdas) * gains).round() / gains
        features = transform.decoder.features(latents, knots)
        left = F.pixel_unshuffle(2 * pictures - 1, PATCH) - transform.decoder.patches(features)
        kernel = torch.from_numpy(functions()).to(left)
        return features, knots, F.conv2d(left, kernel[:, :, None, None])

    def export(self, path: Path) -> None:
        """Write the model with the strengths."""
        own = {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}
        own["condition"] = own["condition"] + self._drawn
        tensors = {**self.base.tensors, **{NAMES + name: tensor.half() for name, tensor in own.items()}}
        config = {**self.base.config, "transform": asdict(self.network)}
        models.write(replace(self.base, config=config, tensors=tensors), path)


def parts(config: Config) -> Tensor:
    """Part of what is typically lost that is drawn, by knot and function, (knots, FUNCTIONS), above 0."""
    frequencies = torch.tensor([float(sum(pair)) for pair in FREQUENCIES])
    by_function = ((frequencies - NONE_UNTIL) / (ALL_FROM - NONE_UNTIL)).clamp(1e-6, 1)
    low, high = np.log(config.lambdas)
    knots = np.linspace(low, high, config.knots)
    by_knot = torch.from_numpy(np.interp(knots, np.log(PARTS_AT), PARTS)).float()
    return by_knot[:, None] * by_function
