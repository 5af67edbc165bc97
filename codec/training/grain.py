"""Strengths of the texture that a learned transform's decoder may draw; all else of the transform stays as it is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.model import check, read, write
from codec.autoencoders.networks.enhancement import FREQUENCIES
from codec.autoencoders.networks.grain import functions
from codec.autoencoders.networks.transform import Grain, Transform
from codec.autoencoders.networks.transform_config import PATCH
from codec.device import reduced_precision
from codec.files import replacing
from codec.training.data import Photos, PhotoTask, as_pictures
from codec.training.optimizers import MuonAndAdam, Schedule, wide
from codec.training.prior import draw_lambdas
from codec.training.transform import transform_of

HIDDEN = 256
LAMBDAS = 1e-3, 6e-2  # for files that have no enhancement layer
USUAL = 0.02  # size of what is lost
LEAST = 0.004  # below which remainders are all alike: half a level of 8 bits, of samples in -1..1
DEVIATION = 0.635  # logarithm of a normal distribution's deviation less the mean of the logarithms of its sizes
# Part of what is typically lost that is drawn, and frequencies, sums of those along both axes, from which on there is
# any, and all of it. Noise of low frequencies costs ten times as much SSIMULACRA2 as that of high ones, which is what
# makes things look crisp.
PART, NONE_BELOW, ALL_FROM = 0.7, 2, 5


class GrainTask(PhotoTask):
    """Training of strengths, as the typical size of what is lost at each frequency.

    That is the mean of logarithms, which is far below the root of the mean square where little is known, as beside
    edges: noise where there is no texture is worse than too little of it.

    Args:
        weights: a model for profile `msp`; the strengths that it has are replaced.
        side: of the crops.
        count: crops at once.
    """

    name = "grain"
    schedule = Schedule(3e-3, 20)
    model: Grain

    def __init__(self, photos: Photos, weights: Path, side: int, count: int) -> None:
        super().__init__(photos, side, count)
        self.base = read(weights)
        config, found = transform_of(self.base)
        self.network = replace(config, grain=HIDDEN)
        self.config: Mapping[str, Any] = {"hidden": HIDDEN, "weights": sha256(weights.read_bytes()).hexdigest()}
        torch.manual_seed(0)
        self.transform = Transform(config).requires_grad_(False).eval()
        self.transform.load_state_dict(found)
        self.model = Grain(self.network)
        nn.init.constant_(self.model.condition, math.log(USUAL))

    def optimizer(self) -> MuonAndAdam:
        return MuonAndAdam(wide(self.model), self.model.parameters())

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        pictures = as_pictures(batch)
        lambdas = draw_lambdas(len(pictures), batch.device, LAMBDAS)
        with reduced_precision(batch.device):
            features, knots, lost = self._lost(pictures, lambdas)
            found = self.model(features, knots).float()
        sizes = (lost.abs() + LEAST).log()
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
        own = {f"decoder.grain.{name}": tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        own["decoder.grain.condition"] += parts().log() + DEVIATION
        kept = {name: tensor for name, tensor in self.base.tensors.items() if not name.startswith("decoder.grain.")}
        told = json.loads(json.dumps(asdict(self.network)))
        tensors = {**kept, **{name: tensor.half().cpu() for name, tensor in own.items()}}
        model = replace(self.base, config={**self.base.config, "transform": told}, tensors=tensors)
        check(model, "the trained model")
        with replacing(path) as temporary:
            write(model, temporary)


def parts() -> Tensor:
    """Part of what is typically lost that is drawn by each function, (FUNCTIONS,), above 0."""
    frequencies = torch.tensor([float(sum(pair)) for pair in FREQUENCIES])
    return PART * ((frequencies - NONE_BELOW) / (ALL_FROM - NONE_BELOW)).clamp(1e-6, 1)
