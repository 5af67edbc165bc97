"""The order in which a plane's samples are coded: all that are ready, at once.

Sample (y, x) is coded in wave x + 2y. Its causal neighbours all lie in earlier waves.
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
    above, side = max(-dy for dy, _ in offsets), max(abs(dx) for _, dx in offsets)
    columns = width + 2 * side
    padded = np.zeros((above + height, columns), np.int32)
    flat, plane = padded.reshape(-1), padded[above:, side : side + width]
    neighbours = np.array([dy * columns + dx for dy, dx in offsets])[:, None]
    for wave in range(width + SLOPE * (height - 1)):
        y = np.arange(max(0, -((width - 1 - wave) // SLOPE)), min(height - 1, wave // SLOPE) + 1)
        if not y.size:  # only where the plane is one column wide
            continue
        x = wave - SLOPE * y
        places = (above + y) * columns + side + x
        contexts = np.empty((len(offsets) + len(references), y.size))
        contexts[: len(offsets)] = flat.take(neighbours + places)
        for i, reference in enumerate(references, len(offsets)):
            contexts[i] = reference[y, x]
        mean, scale = arm(contexts)
        flat[places] = code_laplace(coder, None if values is None else values[y, x], mean, scale)
    return plane
