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
_ZERO = (0, 0, 62)  # of a plane that is zero, as `_laid_out` says
Planes = NDArray[np.int32]


class Model(Protocol):
    """Distributions from contexts: see `codec.entropy.integer_arm.IntegerARM`."""

    def __call__(self, contexts: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(planes, contexts, n) to mean in 1/16 and index of the scale, (planes, n) each."""


def waves(count: int, height: int, width: int) -> NDArray[np.int64]:
    """Wave in which each sample of some planes is coded, (count, height, width)."""
    k, y, x = np.ogrid[:count, :height, :width]
    wave: NDArray[np.int64] = x + SLOPE * y + k
    return wave


def zero(height: int, width: int) -> Planes:
    """A plane (height, width) that is zero and takes no memory; it cannot be written to."""
    return np.broadcast_to(np.int32(0), (height, width))


def code_planes(
    coder: Coder,
    known: Sequence[tuple[Planes, int] | None],
    values: Planes | None,
    coded: NDArray[np.bool_],
    model: Model,
    offsets: Sequence[tuple[int, int]],
    shape: tuple[int, int],
) -> list[Planes]:
    """Code some planes of one shape.

    Args:
        known: planes that are known already, the latest last, each with how many levels it is coarser; None stands for
            one that is zero.
        values: (n, height, width), what to encode; not needed to decode.
        coded: (n,), for each plane whether it is coded; the others are zero.
        model: the networks of those that are, whose inputs are the causal neighbours, then the same place in the plane
            before, in the one before that, and so on, as many as there are known ones.
        offsets: (row, column) of each causal neighbour; column + 2 * row is negative.
        shape: height and width.

    Returns:
        n planes (height, width): the values; a decoder of damaged data returns arbitrary ones.
    """
    if not coded.any():
        return [zero(*shape)] * len(coded)
    height, width = shape
    side = max(abs(dx) for _, dx in offsets)
    columns = width + 2 * side
    flat, table = _laid_out(known, coded, (max(-dy for dy, _ in offsets), side), shape)
    k = np.flatnonzero(coded)[:, None]
    first, last = table[len(known) + k, 0], k.max()
    start, stride, levels = np.moveaxis(table[len(known) + k - 1 - np.arange(len(known))], 2, 0)[..., None]
    near = np.array([dy * columns + dx for dy, dx in offsets])[:, None]
    for wave in range(width + SLOPE * (height - 1) + last):
        y = np.arange(max(0, -((width - 1 + last - wave) // SLOPE)), min(height - 1, wave // SLOPE) + 1)
        x = wave - k - SLOPE * y
        ready = (x >= 0) & (x < width)
        if not ready.any():
            continue
        x = x.clip(0, width - 1)  # the others are worked out in vain
        places = first + y * columns + x
        contexts = np.empty((len(k), len(near) + len(known), len(y)))
        contexts[:, : len(near)] = flat.take(places[:, None] + near)
        contexts[:, len(near) :] = flat.take(start + (y >> levels) * stride + (x[:, None] >> levels))
        mean, scale = model(contexts)
        told = None if values is None else values[k, y, x][ready]
        flat[places[ready]] = code_laplace(coder, told, mean[ready], scale[ready])
    rows = (flat[at - side : at - side + height * columns].reshape(height, columns) for at in first[:, 0])
    return [next(rows)[:, side : side + width].copy() if is_coded else zero(*shape) for is_coded in coded]


def _laid_out(
    known: Sequence[tuple[Planes, int] | None], coded: NDArray[np.bool_], margins: tuple[int, int],
    shape: tuple[int, int],
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:  # fmt: skip
    """One array for all samples that are looked at while planes are coded, and where they are in it.

    It holds a zero, the known planes, and the coded ones with margins (rows above, columns on both sides) of zeros.

    Returns:
        The array, and (known + n, 3): of each plane where it begins, how far apart its rows are, and how many levels it
        is coarser; of those that are zero such numbers that all samples are found in the same place.
    """
    above, side = margins
    columns = shape[1] + 2 * side
    table, end = list[tuple[int, int, int]](), 1
    for plane in known:
        table.append((end, plane[0].shape[1], plane[1]) if plane else _ZERO)
        end += plane[0].size if plane else 0
    for is_coded in coded:
        table.append((end + above * columns + side, columns, 0) if is_coded else _ZERO)
        end += (above + shape[0]) * columns if is_coded else 0
    flat = np.zeros(end, np.int32)
    for plane, (start, _, _) in zip(known, table, strict=False):
        if plane:
            flat[start : start + plane[0].size] = plane[0].reshape(-1)
    return flat, np.array(table)
