"""Probabilities of quantised latents while autoencoders are trained: those of universal functions, by lambda.

Each channel of the latent is divided by a step, which depends on lambda, and rounded; so one autoencoder serves every
lambda (Cui et al., "Asymmetric gained deep image compression", CVPR 2021). The samples of each channel are coded under
the probability model that files have for them, in floating point: see `codec.overfit.arm`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.entropy.integer_arm import MAX_CONTEXTS
from codec.overfit.function import Weights as Tensors
from codec.overfit.spec import MARGIN, MAX_REFERENCES, SPATIAL_CONTEXTS, Spec
from codec.training.transform_network import knot_weights
from codec.training.weights import Weights, whole

LAMBDAS = (5e-4, 0.3)  # least and greatest: distortion, as that of `codec.distortion.pixels`, for a bit per pixel
MIDDLE = 0.02  # lambda at which a step of 1 is best for latents of usual models
KNOTS = 7  # between which weights are interpolated, evenly spaced in log lambda
STEPS = "steps"  # of weights of a universal function, their logarithms
# Shape of the functions, but for what depends on the model.
SHAPE: dict[str, Any] = {"spatial": 12, "hidden": 8, "residuals": 1, "separate": True, "linear": True}


def function_shape(channels: int) -> dict[str, Any]:
    """Fields of the `Spec` of universal functions of latents, but for its size: a plane for each channel."""
    references = min(channels - 1, MAX_CONTEXTS - SHAPE["spatial"], MAX_REFERENCES)
    return {"features": (channels,), "references": references, **SHAPE}


def initial_function(channels: int) -> Weights:
    """Weights by knot of a universal function: plain rounding, and distributions that do not depend on contexts."""
    low, high = (math.log(bound / MIDDLE) / 2 for bound in LAMBDAS)  # a step grows with the root of lambda
    weights = {STEPS: torch.linspace(low, high, KNOTS)[:, None].repeat(1, channels)}
    for name, shape in Spec(1, 1, channels, **function_shape(channels)).weight_shapes.items():
        w = torch.zeros(shape)
        if name in ("arm.hidden1", "arm.hidden2"):
            w = 0.1 * torch.randn(shape)
        elif name == "synthesis.hidden":
            w = torch.randn(shape) / math.sqrt(shape[-1])
        elif name == "synthesis.linear":
            w = torch.eye(*shape)
        weights[name] = w.repeat(KNOTS, *[1] * len(shape))
    return Weights(weights)


def interpolated(function: Weights, lambdas: Tensor) -> tuple[Tensors, Tensor]:
    """Weights by name, (batch, ...) each, and steps (batch, channels, 1, 1) of a universal function at lambdas."""
    between, knots = knot_weights(lambdas, LAMBDAS, KNOTS), function.named()
    knots[STEPS] = knots[STEPS].exp()
    weights = {name: torch.einsum("bk,k...->b...", between, w) for name, w in knots.items()}
    return weights, weights.pop(STEPS)[:, :, None, None]


def distributions(grid: Tensor, weights: Tensors, spec: Spec) -> tuple[Tensor, Tensor]:
    """Means and log-scales of the samples of a grid (batch, planes, h, w) of which each plane has a model of its own.

    As `codec.overfit.arm`, which makes rates and gradients at once and so has no gradients of other rates.
    """
    own = {name.removeprefix("arm."): w for name, w in weights.items() if name.startswith("arm.")}
    inputs = contexts(grid, spec).flatten(3)
    first = F.relu(inputs + own["hidden1"] @ inputs + own["hidden1_bias"][..., None])
    second = F.relu(first + own["hidden2"] @ first + own["hidden2_bias"][..., None])
    output = own["output"] @ second + own["stabiliser"] @ inputs + own["output_bias"].mT[..., None]
    mean, log_scale = output.unflatten(3, grid.shape[2:]).unbind(2)
    return mean, log_scale


def contexts(grid: Tensor, spec: Spec) -> Tensor:
    """Contexts (batch, planes, contexts, h, w) of the samples of a grid (batch, planes, h, w): 0 if unknown."""
    planes, height, width = grid.shape[1:]
    padded = F.pad(grid, (MARGIN, MARGIN, MARGIN, 0))
    known = [
        padded[:, :, MARGIN + dy : MARGIN + dy + height, MARGIN + dx : MARGIN + dx + width]
        for dy, dx in SPATIAL_CONTEXTS[: spec.spatial]
    ]
    earlier = F.pad(grid, (0, 0, 0, 0, spec.references, 0))
    known += [earlier[:, start : start + planes] for start in reversed(range(spec.references))]
    return torch.stack(known, 2)


def integers(function: Weights, unit: Tensor | None = None) -> dict[str, Tensor]:
    """Tensors of a universal function as models have them, by name.

    Args:
        unit: of each channel, (channels,), in which steps are told; 1 by default.

    Raises:
        ValueError: a weight is larger than files can hold.
    """
    weights = function.named()
    steps = weights[STEPS].exp()
    numbers = whole({**weights, STEPS: steps if unit is None else steps / unit})
    return {f"function.{name}": w for name, w in numbers.items()}


def description(channels: int) -> dict[str, Any]:
    """Description of a universal function, as models have it."""
    return {"shape": function_shape(channels), "lambdas": LAMBDAS, "distortion": "pictures"}
