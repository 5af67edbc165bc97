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


def whole(function: Function, weights: QuantisedWeights) -> tuple[Spec, QuantisedWeights, list[bitstream.Integers]]:
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
    spec, quantised, planes = bitstream.read_planes(weights, grids, *size, universal, truncated=truncated)
    with computing(device):
        present, columns, integers = _without_zeros(spec, planes)
        held = dequantise(spec, quantised, device)
        for name in ("synthesis.hidden", "synthesis.linear"):
            if name in held:
                held[name] = held[name].index_select(2, torch.tensor(columns, device=device))
        levels = [torch.from_numpy(g).float().unsqueeze(0).to(device) for g in integers]
        return synthesis.synthesise(levels, held, present), quantised


def _without_zeros(spec: Spec, planes: list[bitstream.Integers]) -> tuple[Spec, list[int], list[bitstream.Integers]]:
    """A function without features that are zero, which add nothing, but could take more memory than there is.

    Args:
        planes: in coding order.

    Returns:
        Its shape, which of the features it has, finest first, and its grids; levels above the coarsest that is not zero
        are left out, and if all are zero there is one feature.
    """
    kept: list[list[int]] = [[] for _ in spec.features]
    for i, (plane, samples) in enumerate(zip(spec.planes, planes, strict=True)):
        if samples.any():
            kept[plane.level].append(i)
    if not any(kept):
        kept[0] = [len(planes) - 1]
    while not kept[-1]:
        kept.pop()
    starts = [sum(spec.features[:level]) for level in range(len(kept))]
    columns = [starts[level] + spec.planes[i].feature for level, of_level in enumerate(kept) for i in of_level]
    grids = [
        np.array([planes[i] for i in of_level], np.int32).reshape(len(of_level), *spec.sizes[level])
        for level, of_level in enumerate(kept)
    ]
    return replace(spec, features=tuple(map(len, kept))), columns, grids
