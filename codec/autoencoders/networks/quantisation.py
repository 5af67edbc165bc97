"""Trained priors made of integers, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.autoencoders.networks.coding_order import LIMIT, SCALE
from codec.autoencoders.networks.integer_prior import LOG, MEAN, OUTPUT, IntegerPrior
from codec.autoencoders.networks.progressive_prior import ProgressivePrior
from codec.entropy.layers import Integers, Layer, quantise

State = dict[str, Integers]


def quantised(prior: ProgressivePrior) -> State:
    """State of an `IntegerPrior` made from a trained one.

    Raises:
        ValueError: its weights are too great for sums to be exact.
    """
    made = {
        "log_unit": whole(prior.unit.log() * LOG),
        "condition": whole(prior.condition * SCALE),
        "log_scale": whole(prior.log_scale * LOG),
        "mean": whole(prior.mean * MEAN),
    }
    for name, layer in prior.steps.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            continue
        weight, bias, scale = layer.weight, layer.bias, SCALE
        assert bias is not None
        if _gives_distributions(name):
            weight, bias, scale = _in_output_units(weight), _in_output_units(bias), OUTPUT
        low = 0 if name.endswith(("mix", "output")) and "context" in name else -LIMIT
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
    state: dict[str, NDArray[Any]] = {
        "unit": np.exp(prior.log_unit / LOG), "condition": prior.condition / SCALE,
        "log_scale": prior.log_scale / LOG, "mean": prior.mean / MEAN,
    }  # fmt: skip
    for name, layer in prior.layers():
        scale = np.repeat([MEAN, OUTPUT], len(layer.shift) // 2) if _gives_distributions(name) else SCALE
        state[f"{name}.weight"], state[f"{name}.bias"] = layer_weights(layer, scale)
    tensors = {name: torch.from_numpy(np.float32(numbers)) for name, numbers in state.items()}
    made.load_state_dict(tensors, assign=True)
    return made.requires_grad_(False)


def _gives_distributions(name: str) -> bool:
    """Whether a layer of this name is one whose outputs are means and logarithms of scales."""
    return ".output." in name and ".context." not in name
