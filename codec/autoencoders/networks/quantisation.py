"""Trained priors made of integers, and back."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.autoencoders.networks.coding_order import LIMIT, SCALE
from codec.autoencoders.networks.index_prior import IndexPrior
from codec.autoencoders.networks.integer_index_prior import IntegerIndexPrior
from codec.autoencoders.networks.integer_prior import LOG, MEAN, OUTPUT, IntegerPrior
from codec.autoencoders.networks.progressive_prior import ProgressivePrior
from codec.entropy.layers import Integers, Layer, Proven, quantise
from codec.entropy.tables import LOGIT_FRACTIONS

State = dict[str, Integers]
Weights = dict[str, NDArray[Any]]


def quantised(prior: ProgressivePrior) -> State:
    """State of an `IntegerPrior` made from a trained one.

    Raises:
        ValueError: its weights are too great for sums to be exact.
    """
    return {
        "log_unit": whole(prior.unit.log() * LOG),
        "condition": whole(prior.condition * SCALE),
        "log_scale": whole(prior.log_scale * LOG),
        "mean": whole(prior.mean * MEAN),
        **_state_of_steps(prior.steps),
    }


def quantised_indices(prior: IndexPrior) -> State:
    """State of an `IntegerIndexPrior` made from a trained one; raises as `quantised`."""
    made = {
        "code": whole(prior.code * SCALE).clip(-LIMIT, LIMIT),
        "first": whole(prior.first * LOGIT_FRACTIONS),
        "bias": whole(prior.bias * LOGIT_FRACTIONS),
        "condition": whole(prior.condition * SCALE),
        **_state_of_steps(prior.steps),
    }
    for book, (start, stop) in enumerate(pairwise(prior.starts)):
        rows = prior.output.weight[start:stop], prior.output.bias[start:stop]
        made |= layer_state(f"output.{book}", *rows, -LIMIT, LOGIT_FRACTIONS)
    return made


def _state_of_steps(steps: nn.ModuleList) -> State:
    """State in integers of each layer of the networks of all offsets."""
    made: State = {}
    for name, layer in steps.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            continue
        weight, bias, scale = layer.weight, layer.bias, SCALE
        assert bias is not None
        if _gives_distributions(name):
            weight, bias, scale = _in_output_units(weight), _in_output_units(bias), OUTPUT
        # What follows a rectifier is not negative.
        low = 0 if "context" in name and name.endswith(("mix", "output")) else -LIMIT
        made |= layer_state(f"steps.{name}", weight, bias, low, scale)
    return made


def whole(numbers: Tensor) -> Integers:
    """The nearest integers."""
    found: Integers = numbers.detach().cpu().round().to(torch.int64).numpy()
    return found


def layer_state(name: str, weight: Tensor, bias: Tensor, low: int, scale: int) -> State:
    """State of a trained layer in integers, whose inputs are `low`..LIMIT in units of 1 / SCALE.

    Args:
        scale: what stands for 1.0 in outputs.

    Raises:
        ValueError: sums would not be exact.
    """
    found = quantise(_numbers(weight), _numbers(bias), (low, LIMIT), SCALE, scale)
    return {f"{name}.{field}": numbers for field, numbers in found._asdict().items()}


def layer_weights(layer: Layer, scale: Integers | int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight and bias that a layer in integers stands for: the reverse of `layer_state`.

    Args:
        scale: what stands for 1.0 in outputs: of each one, or of all.
    """
    factor = 2.0**-layer.shift / scale
    rows = layer.weight.reshape(len(factor), -1) * factor[:, None] * SCALE
    return rows.reshape(layer.weight.shape), layer.bias * factor


def _numbers(weights: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = weights.detach().to("cpu", torch.float64).numpy()
    return found


def _in_output_units(rows: Tensor) -> Tensor:
    """Rows of an output layer, those of means as great as MEAN and OUTPUT, the one scale of all, want it."""
    means, logarithms = rows.detach().chunk(2)
    return torch.cat([means * (MEAN / OUTPUT), logarithms])


def dequantised(prior: IntegerPrior) -> ProgressivePrior:
    """The prior in floating point, differentiable, that integers stand for."""
    knots, hidden = prior.condition.shape[2:]
    with torch.device("meta"):  # without random numbers
        made = ProgressivePrior(prior.preset, prior.channels, knots, hidden)
    state = {
        "unit": np.exp(prior.log_unit / LOG), "condition": prior.condition / SCALE,
        "log_scale": prior.log_scale / LOG, "mean": prior.mean / MEAN, **_weights_of_steps(prior),
    }  # fmt: skip
    made.load_state_dict(_tensors(state), assign=True)
    return made.requires_grad_(False)


def dequantised_indices(prior: IntegerIndexPrior) -> dict[str, Tensor]:
    """State of the `IndexPrior` that integers stand for."""
    weights, biases = zip(*(layer_weights(layer, LOGIT_FRACTIONS) for layer in prior.output), strict=True)
    return _tensors({
        "code": prior.code / SCALE, "first": prior.first / LOGIT_FRACTIONS, "bias": prior.bias / LOGIT_FRACTIONS,
        "condition": prior.condition / SCALE, **_weights_of_steps(prior),
        "output.weight": np.concatenate(weights), "output.bias": np.concatenate(biases),
    })  # fmt: skip


def _weights_of_steps(prior: Proven) -> Weights:
    """Weights and biases that the layers of the networks of all offsets stand for."""
    found: Weights = {}
    for name, layer in prior.layers():
        if name.startswith("steps."):
            scale = np.repeat([MEAN, OUTPUT], len(layer.shift) // 2) if _gives_distributions(name) else SCALE
            found[f"{name}.weight"], found[f"{name}.bias"] = layer_weights(layer, scale)
    return found


def _tensors(weights: Weights) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.float32(numbers)) for name, numbers in weights.items()}


def _gives_distributions(name: str) -> bool:
    """Whether a layer of this name is one whose outputs are means and logarithms of scales."""
    return ".output." in name and ".context." not in name
