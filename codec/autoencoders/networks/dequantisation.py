"""Priors in floating point, as they were trained, of those in integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.autoencoders.networks.coding_order import SCALE
from codec.autoencoders.networks.integer_prior import LOG, MEAN, OUTPUT, IntegerPrior
from codec.autoencoders.networks.progressive_prior import ProgressivePrior
from codec.entropy.layers import Integers, Layer, Proven

Weights = dict[str, NDArray[Any]]


def layer_weights(layer: Layer, scale: Integers | int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight and bias that a layer in integers stands for: the reverse of `codec.training.quantisation.layer_state`.

    Args:
        scale: what stands for 1.0 in outputs: of each one, or of all.
    """
    factor = 2.0**-layer.shift / scale
    rows = layer.weight.reshape(len(factor), -1) * factor[:, None] * SCALE
    return rows.reshape(layer.weight.shape), layer.bias * factor


def dequantised(prior: IntegerPrior) -> ProgressivePrior:
    """The prior in floating point, differentiable, that integers stand for."""
    knots, hidden = prior.condition.shape[2:]
    with torch.device("meta"):  # without random numbers
        made = ProgressivePrior(prior.preset, prior.channels, knots, hidden)
    state = {
        "unit": np.exp(prior.log_unit / LOG), "condition": prior.condition / SCALE,
        "log_scale": prior.log_scale / LOG, "mean": prior.mean / MEAN, **weights_of_steps(prior),
    }  # fmt: skip
    made.load_state_dict(as_tensors(state), assign=True)
    return made.requires_grad_(False)


def weights_of_steps(prior: Proven) -> Weights:
    """Weights and biases that the layers of the networks of all offsets stand for."""
    found: Weights = {}
    for name, layer in prior.layers():
        if name.startswith("steps."):
            scale = np.repeat([MEAN, OUTPUT], len(layer.shift) // 2) if gives_distributions(name) else SCALE
            found[f"{name}.weight"], found[f"{name}.bias"] = layer_weights(layer, scale)
    return found


def as_tensors(weights: Weights) -> dict[str, Tensor]:
    """The same in float32, as tensors."""
    return {name: torch.from_numpy(np.float32(numbers)) for name, numbers in weights.items()}


def gives_distributions(name: str) -> bool:
    """Whether a layer of this name is one whose outputs are means and logarithms of scales."""
    return ".output." in name and ".context." not in name
