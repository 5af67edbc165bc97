"""From a fitted function to bytes and back: write, verify; read, synthesise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec.device import computing
from codec.overfit import bitstream, synthesis
from codec.overfit.bitstream import QuantisedWeights
from codec.overfit.fit import Function
from codec.overfit.quantise import dequantise

if TYPE_CHECKING:
    from codec.overfit.universal import Universal


def coded(function: Function, weights: QuantisedWeights) -> tuple[bytes, bytes]:
    """Bodies of a function's sections."""
    return bitstream.write(function.spec, weights, _integers(function))


def write(function: Function, weights: QuantisedWeights) -> tuple[bytes, bytes]:
    """Bodies of a function's sections, which were read back.

    Raises:
        RuntimeError: the bytes did not decode to what was written.
    """
    sections = coded(function, weights)
    verify(sections, function, weights)
    return sections


def _integers(function: Function) -> list[bitstream.Integers]:
    return [g[0].cpu().numpy().astype(np.int32) for g in function.grids]


def verify(sections: tuple[bytes, bytes], function: Function, weights: QuantisedWeights) -> None:
    """Read back what was written; anything else than the same would be a file that shows another picture.

    Raises:
        RuntimeError: it is not the same.
    """
    spec, grids = function.spec, _integers(function)
    size = spec.height, spec.width, spec.outputs
    read_spec, read_weights, read_grids = bitstream.read(*sections, *size, weights.origin.universal)
    same = read_spec == spec and all(np.array_equal(a, b) for a, b in zip(grids, read_grids, strict=True))
    whole, read_whole = weights.whole(spec), read_weights.whole(spec)
    same &= all(np.array_equal(whole[name], read_whole[name]) for name in whole)
    if not same:
        raise RuntimeError("what was written does not read back the same: please report this with the picture")


def decode(
    weights: bytes, grids: bytes, size: tuple[int, int, int], device: torch.device,
    universal: Universal | None = None, *, truncated: bool,
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
