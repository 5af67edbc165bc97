"""Conversion between functions as they are fitted and evaluated and as they are coded."""

from __future__ import annotations

from dataclasses import replace
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


def to_write(function: Function, weights: QuantisedWeights) -> tuple[Spec, QuantisedWeights, list[bitstream.Integers]]:
    """Arguments of `bitstream.write` for one function."""
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
    spec, quantised, coded = bitstream.read(weights, grids, *size, universal, truncated=truncated)
    with computing(device):
        present, columns, integers = _without_zeros(spec, coded)
        held = dequantise(spec, quantised, device)
        for name in ("synthesis.hidden", "synthesis.linear"):
            if name in held:
                held[name] = held[name].index_select(2, torch.tensor(columns, device=device))
        levels = [torch.from_numpy(g).float().unsqueeze(0).to(device) for g in integers]
        return synthesis.synthesise(levels, held, present), quantised


def _without_zeros(
    spec: Spec, grids: list[list[bitstream.Integers]]
) -> tuple[Spec, list[int], list[bitstream.Integers]]:
    """A function without features that are zero, which add nothing, but could take more memory than there is.

    Args:
        grids: by level and feature.

    Returns:
        Its shape, which of the features it has, finest first, and its grids; levels above the coarsest that is not zero
        are left out, and if all are zero there is one feature.
    """
    kept = [[i for i, plane in enumerate(features) if plane.any()] for features in grids]
    if not any(kept):
        kept[0] = [0]
    while not kept[-1]:
        kept.pop()
    columns = [sum(spec.features[:level]) + i for level, features in enumerate(kept) for i in features]
    present = [
        np.stack([grids[level][i] for i in features]) if features else np.zeros((0, *spec.sizes[level]), np.int32)
        for level, features in enumerate(kept)
    ]
    return replace(spec, features=tuple(map(len, kept))), columns, present
