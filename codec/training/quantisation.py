"""Trained priors made of integers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.autoencoders.networks.coding_order import LIMIT, SCALE
from codec.autoencoders.networks.dequantisation import as_tensors, gives_distributions, layer_weights, weights_of_steps
from codec.autoencoders.networks.integer_index_prior import IntegerIndexPrior
from codec.autoencoders.networks.integer_prior import LOG, MEAN, OUTPUT
from codec.autoencoders.networks.progressive_prior import ProgressivePrior
from codec.entropy.layers import Integers, quantise
from codec.entropy.tables import LOGIT_FRACTIONS
from codec.training.index_prior import IndexPrior

State = dict[str, Integers]


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
        if gives_distributions(name):
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


def _numbers(weights: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = weights.detach().to("cpu", torch.float64).numpy()
    return found


def _in_output_units(rows: Tensor) -> Tensor:
    """Rows of an output layer, those of means as great as MEAN and OUTPUT, the one scale of all, want it."""
    means, logarithms = rows.detach().chunk(2)
    return torch.cat([means * (MEAN / OUTPUT), logarithms])


def dequantised_indices(prior: IntegerIndexPrior) -> dict[str, Tensor]:
    """State of the `IndexPrior` that integers stand for."""
    weights, biases = zip(*(layer_weights(layer, LOGIT_FRACTIONS) for layer in prior.output), strict=True)
    return as_tensors({
        "code": prior.code / SCALE, "first": prior.first / LOGIT_FRACTIONS, "bias": prior.bias / LOGIT_FRACTIONS,
        "condition": prior.condition / SCALE, **weights_of_steps(prior),
        "output.weight": np.concatenate(weights), "output.bias": np.concatenate(biases),
    })  # fmt: skip
