"""The order in which samples are coded: all that are ready, at once.

Planes of one resolution whose samples depend on each other at the same place are coded together: sample (y, x) of the
k-th of them is coded in wave x + 2y + k. Its causal neighbours, and the same place in earlier planes, all lie in
earlier waves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from codec.entropy.coder import Coder, code_laplace

SLOPE = 2
Planes = NDArray[np.int32]


class Model(Protocol):
    """Distributions from contexts: see `codec.entropy.integer_arm.IntegerARM`."""

    def __call__(self, contexts: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(planes, contexts, n) to mean in 1/16 and index of the scale, (planes, n) each."""


def waves(count: int, height: int, width: int) -> NDArray[np.int64]:
    """In which wave each sample of some planes is coded, (count, height, width)."""
    k, y, x = np.ogrid[:count, :height, :width]
    wave: NDArray[np.int64] = x + SLOPE * y + k
    return wave


def code_planes(
    coder: Coder,
    known: Planes,
    values: Planes | None,
    coded: NDArray[np.bool_],
    model: Model,
    offsets: Sequence[tuple[int, int]],
) -> Planes:
    """Code some planes of one shape.

    Args:
        known: (references, height, width), planes that are known already, the latest last.
        values: (n, height, width), what to encode; not needed to decode.
        coded: (n,), for each plane whether it is coded; the others are zero.
        model: the networks of those that are, whose inputs are the causal neighbours, then the same place in the plane
            before, in the one before that, and so on, as many as there are known ones.
        offsets: (row, column) of each causal neighbour; column + 2 * row is negative.

    Returns:
        (n, height, width): the values; a decoder of damaged data returns arbitrary ones.
    """
    references, height, width = known.shape
    above, side = max(-dy for dy, _ in offsets), max(abs(dx) for _, dx in offsets)
    rows, columns = above + height, width + 2 * side
    stack = np.zeros((references + len(coded), rows, columns), np.int32)
    inside = stack[:, above:, side : side + width]
    inside[:references] = known
    flat, area = stack.reshape(-1), rows * columns
    near = [dy * columns + dx for dy, dx in offsets] + [-(i + 1) * area for i in range(references)]
    contexts_at = np.array(near)[:, None]
    k = np.flatnonzero(coded)[:, None]
    first = (references + k) * area + above * columns + side
    last = k.max(initial=0)
    for wave in range(width + SLOPE * (height - 1) + last if len(k) else 0):
        y = np.arange(max(0, -((width - 1 + last - wave) // SLOPE)), min(height - 1, wave // SLOPE) + 1)
        x = wave - k - SLOPE * y
        ready = (x >= 0) & (x < width)
        if not ready.any():
            continue
        x = x.clip(0, width - 1)  # the others are worked out in vain
        places = first + y * columns + x
        mean, scale = model(flat.take(places[:, None] + contexts_at).astype(np.float64))
        told = None if values is None else values[k, y, x][ready]
        flat[places[ready]] = code_laplace(coder, told, mean[ready], scale[ready])
    return inside[references:]
