"""Between functions as they are fitted and evaluated and as they are coded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec.device import computing
from codec.overfit import bitstream, synthesis
from codec.overfit.bitstream import QuantisedWeights
from codec.overfit.function import Function
from codec.overfit.quantise import dequantise
from codec.overfit.spec import Spec

if TYPE_CHECKING:
    from codec.overfit.lambda_conditioned_weights import LambdaConditionedWeights


def whole(function: Function, weights: QuantisedWeights) -> tuple[Spec, QuantisedWeights, list[bitstream.Integers]]:
    """What `bitstream.write` takes, of one function."""
    return function.spec, weights, [g[0].cpu().numpy().astype(np.int32) for g in function.grids]


def decode(
    weights: bytes, grids: bytes, size: tuple[int, int, int], device: torch.device,
    universal: LambdaConditionedWeights | None = None, *, truncated: bool,
) -> tuple[Tensor, QuantisedWeights]:  # fmt: skip
    """Evaluate the function in these sections.

    Args:
        size: height, width and channels of its output.

    Returns:
        The output (1, outputs, height, width) on the device, and the weights it was made with.
    """
    spec, quantised, integers = bitstream.read(weights, grids, *size, universal, truncated=truncated)
    with computing(device):
        levels = [torch.from_numpy(g).float().unsqueeze(0).to(device) for g in integers]
        return synthesis.synthesise(levels, dequantise(spec, quantised, device), spec), quantised
