"""Sensitivity of a decoded picture to errors of its latent, and the quantisation step that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from codec.autoencoders.autoencoder import Autoencoder
from codec.overfit import initialisation, synthesis
from codec.overfit.function import Function
from codec.profiles.clric.distortion import PictureDistortion

UNSEEN = 0.03  # part of the mean sensitivity that is added to all: no direction is free
TRIED = tuple(2.0**i for i in range(-2, 5))  # steps
TRIAL = 512  # side of the part of a picture on which steps are tried, in pixels


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity to errors of the latent: e (channels,) costs |root @ e|**2 in the picture, but for a common factor.

    Attributes:
        root: (channels, channels), of the mean product of the decoder's Jacobian with itself, scaled to a mean square
            of its eigenvalues of 1.
    """

    root: Tensor

    @classmethod
    @torch.enable_grad()
    def through(cls, autoencoder: Autoencoder, latent: Tensor, height: int, width: int) -> Sensitivity:
        """Sensitivity of a decoder near the latent of a picture of this size, by a random projection of the picture."""
        latent = latent.detach().requires_grad_()
        made = autoencoder.decode(latent, height, width)
        drawn = torch.randint(2, made.shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        signs = drawn.to(made) * 2 - 1
        [gradient] = torch.autograd.grad((made * signs).sum(), latent)
        columns = gradient.transpose(0, 1).flatten(1)
        values, axes = torch.linalg.eigh(columns @ columns.mT)
        values = values / values.mean() + UNSEEN
        return cls(axes * (values / values.mean()).sqrt() @ axes.mT)

    def of(self, latent: Tensor) -> Tensor:
        """Latent (1, channels, height, width) weighted by the sensitivity: root @ latent at each position."""
        return torch.einsum("oc,bcyx->boyx", self.root, latent)

    def undone(self, function: Function) -> Function:
        """A function of the latent, from one of the weighted latent (see `of`) without residual layers."""
        inverse, weights = torch.linalg.inv(self.root), dict(function.weights)
        for name in ("synthesis.linear", "synthesis.output", "synthesis.output_bias"):
            weights[name] = torch.einsum("oc,bc...->bo...", inverse, weights[name])
        return replace(function, weights=weights)


@dataclass(frozen=True)
class StepTrials:
    """Distortion and rate by quantisation steps of the weighted latent (see `Sensitivity.of`) of a picture.

    Attributes:
        sensitivity: sensitivity of the decoder near this latent.
        costs: distortion and bits per pixel, by the steps in `TRIED`.
    """

    sensitivity: Sensitivity
    costs: list[tuple[float, float]]

    @classmethod
    def on(cls, autoencoder: Autoencoder, picture: Tensor) -> StepTrials:
        """Try all steps on the middle of a picture (1, 3, height, width)."""
        top, left = ((n - min(n, TRIAL)) // 2 for n in picture.shape[2:])
        part = picture[:, :, top : top + TRIAL, left : left + TRIAL]
        latent, distortion = autoencoder.encode(part), PictureDistortion(autoencoder, part)
        sensitivity = Sensitivity.through(autoencoder, latent, *part.shape[2:])
        with torch.no_grad():
            return cls(sensitivity, [_trial(latent, sensitivity, step, distortion) for step in TRIED])

    def step(self, lam: float) -> float:
        """The step that lambda asks for; between those tried, cost is taken for a parabola in their logarithm."""
        costs = [distortion + lam * bits for distortion, bits in self.costs]
        middle = min(max(int(np.argmin(costs)), 1), len(TRIED) - 2)
        near = slice(middle - 1, middle + 2)
        bend, slope, _ = np.polyfit(np.log(TRIED[near]), costs[near], 2)
        lowest = -slope / (2 * bend) if bend > 0 else math.log(TRIED[int(np.argmin(costs))])
        return float(np.exp(np.clip(lowest, math.log(TRIED[0]), math.log(TRIED[-1]))))

    def bits(self, step: float) -> float:
        """Estimated bits per pixel with this step."""
        return float(np.interp(math.log(step), np.log(TRIED), [bits for _, bits in self.costs]))


def _trial(latent: Tensor, sensitivity: Sensitivity, step: float, distortion: PictureDistortion) -> tuple[float, float]:
    """Distortion, and estimated bits per pixel, if a picture's weighted latent is quantised with this step."""
    function = sensitivity.undone(initialisation.principal(sensitivity.of(latent), step)).rounded()
    made = synthesis.synthesise(function.grids, function.weights, function.spec)
    bits = sum(_entropy(plane) for plane in function.grids[0][0]) / distortion.picture[0, 0].numel()
    return distortion.distortion(made).item(), bits


def _entropy(plane: Tensor) -> float:
    """Bits of a plane of integers, if each is coded by how often it occurs."""
    counts = plane.unique(return_counts=True)[1].double()
    return float((counts * (counts.sum() / counts).log2()).sum())
