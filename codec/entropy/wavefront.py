"""The order in which a plane's samples are coded: all that are ready, at once.

Sample (y, x) is coded in wave x + 2y. Its causal neighbours all lie in earlier waves. The plane is held skewed, with
a wave a row, so that a wave and each of its neighbours are runs of memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codec.entropy.arm import IntegerARM
from codec.entropy.coder import Coder, code_laplace

SLOPE = 2
Plane = NDArray[np.int32]


def code_plane(
    coder: Coder,
    shape: tuple[int, int],
    values: Plane | None,
    references: Sequence[Plane],
    arm: IntegerARM,
    offsets: Sequence[tuple[int, int]],
) -> Plane:
    """Code one plane.

    Args:
        shape: (height, width).
        values: (height, width), what to encode; not needed to decode.
        references: planes of the same shape that are known already, each one a context.
        arm: the network, whose inputs are the causal neighbours, then the references.
        offsets: (row, column) of each causal neighbour; column + 2 * row is negative.

    Returns:
        (height, width): the values; a decoder of damaged data returns arbitrary ones.
    """
    height, width = shape
    back = max(-(dx + SLOPE * dy) for dy, dx in offsets)
    above = max(-dy for dy, _ in offsets)
    waves, columns = width + SLOPE * (height - 1), height + above
    skewed = np.zeros((waves + back, columns), np.int32)
    flat = skewed.reshape(-1)
    neighbours = np.array([(dx + SLOPE * dy) * columns + dy for dy, dx in offsets])[:, None]
    known = [_skew(plane, waves) for plane in references]
    source = None if values is None else _skew(values, waves)
    for wave in range(waves):
        first, last = max(0, -(-(wave - width + 1) // SLOPE)), min(height - 1, wave // SLOPE)
        start, count = (wave + back) * columns + above + first, last + 1 - first
        contexts = np.empty((len(offsets) + len(known), count))
        contexts[: len(offsets)] = flat.take(neighbours + np.arange(start, start + count))
        for i, plane in enumerate(known, len(offsets)):
            contexts[i] = plane[wave, first : last + 1]
        mean, scale = arm(contexts)
        told = None if source is None else source[wave, first : last + 1]
        flat[start : start + count] = code_laplace(coder, told, mean, scale)
    return _unskew(skewed[back:, above:], width)


def _skew(plane: Plane, waves: int) -> Plane:
    """(height, width) -> (waves, height), where [x + 2y, y] is the plane's [y, x]."""
    height, width = plane.shape
    skewed = np.zeros((waves, height), np.int32)
    y, x = np.ogrid[:height, :width]
    skewed[x + SLOPE * y, y] = plane
    return skewed


def _unskew(skewed: Plane, width: int) -> Plane:
    y, x = np.ogrid[: skewed.shape[1], :width]
    plane: Plane = skewed[x + SLOPE * y, y]
    return plane
