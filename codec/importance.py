"""Importance of parts of a picture: weights of the distortion, by which encoders share out bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codec.blocks import to_multiple
from codec.tensors import to_tensor

Importance = NDArray[np.uint8]  # (height, width), of which only differences count

RATIO = 32.0  # of the weights of what is as important as can be and what is as unimportant


def log_weights(
    importance: Sequence[Importance | None], shape: Sequence[tuple[int, ...]], device: torch.device
) -> Tensor | None:
    """Natural logarithms of weights of the distortion of each pixel, which have a mean of 1 over each picture.

    So the same lambda asks for about as many bits as without weights, and none is below 1 / RATIO.

    Args:
        importance: of each picture, or None where all of it counts alike.
        shape: of each picture, of which the first two numbers are height and width.

    Returns:
        (batch, 1, height, width), float32, laid out as `codec.tensors.to_tensor` does it; None if all are 0.
    """
    if all(each is None for each in importance):
        return None
    maps = [np.zeros(s[:2], np.uint8) if m is None else m for m, s in zip(importance, shape, strict=True)]
    of_levels = RATIO ** (np.arange(256) / 255)
    means = [float(of_levels[m].mean()) for m in maps]
    logs = math.log(RATIO) * to_tensor(maps, device)
    return logs - logs.new_tensor(means).log().view(-1, 1, 1, 1)


def of_cells(weights: Tensor, side: int) -> Tensor:
    """Weights of cells of so many pixels a side, those at the end cut off, from pixels' (batch, 1, height, width).

    The greatest around each cell, as far as half a cell beyond it: what is coded there shows that far, and at the edge
    of what is important it would show most.
    """
    return F.max_pool2d(to_multiple(weights, side), 2 * side, side, side // 2)
