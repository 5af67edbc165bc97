"""Concealment of what lost packets leave unknown of a latent: what the prior expects there, given all that is around.

A position that is not known becomes the mean of its neighbours at first. Then the prior says what it expects of each
such position, as of those that are coded last of all: given a complete latent around it. No file depends on it.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders.networks.coding_order import BLOCKS, OFFSETS
from codec.autoencoders.networks.integer_prior import Conditioned
from codec.blocks import BAND, bands, slices
from codec.entropy.tables import FRACTIONS

Means = NDArray[np.int32]  # of symbols, in 1 / FRACTIONS
Mask = NDArray[np.bool_]
Places = NDArray[np.intp]  # rows, or columns

LAST = len(OFFSETS) - 1  # the offset that is coded last, the first position of a cell's second row


def conceal(prior: Conditioned, symbols: NDArray[np.int32], known: Mask) -> Means:
    """Means (height, width, channels) of symbols: those that are known, and what is expected elsewhere.

    Args:
        symbols: (height, width, channels).
        known: (height, width), where they are known.
    """
    means = FRACTIONS * symbols
    if not known.any():
        means[...] = prior.first()[0]
    elif not known.all():
        _fill(means, known.copy())
        _predict(prior, means, ~known)
    return means


def _fill(means: Means, known: Mask) -> None:
    """Fill in what is not known by means of what is known nearby: one step, then two steps away, then four, and so on.

    Each time all positions that are known by then count, so that those of any size of hole are filled in at last.
    """
    distance = 1
    while not known.all():
        row, column = np.nonzero(~known)
        found = np.zeros(len(row), bool)
        for some in slices(len(row), BAND):
            mean, found[some] = _mean_around(means, known, row[some], column[some], distance)
            means[row[some], column[some]] = mean
        known[row[found], column[found]] = True
        distance *= 2


def _mean_around(means: Means, known: Mask, row: Places, column: Places, distance: int) -> tuple[Means, Mask]:
    """Means (n, channels) of what is known so far away from some positions (n,), and at which (n,) there is any."""
    height, width = known.shape
    total, count = np.zeros((len(row), means.shape[2]), np.int32), np.zeros(len(row), np.int32)
    for down, right in product((-distance, 0, distance), repeat=2):
        y, x = row + down, column + right
        counts = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        counts[counts] = known[y[counts], x[counts]]
        total[counts] += means[y[counts], x[counts]]
        count += counts
    return total // np.maximum(count, 1)[:, None], count > 0


def _predict(prior: Conditioned, means: Means, lost: Mask) -> None:
    """Replace means of lost positions by what the prior expects there, given the means around them."""
    height, width = lost.shape
    activations = np.empty(means.shape, np.int16)
    for band in bands(height, width):
        activations[band] = prior.units.activations(means[band], slice(None), FRACTIONS)
    around = np.pad(activations, ((1, 2), (1, 2), (0, 0)), "edge")
    wanted = np.pad(lost, ((1, 2), (1, 2)))
    for row, column in product((0, 1), repeat=2):  # so that each position is once the last one of its cell
        rows, columns = (height + row + 1) // 2, (width + column + 1) // 2
        grid, place = around[1 - row :, 1 - column :], wanted[1 - row :, 1 - column :]
        known = [grid[a::2, b::2][:rows, :columns] for a, b in ((0, 0), *OFFSETS[:LAST])]
        cells = place[1::2, ::2][:rows, :columns]
        for band in bands(rows, columns):
            y, x = np.nonzero(cells[band])
            if len(y):
                found = _expected(prior, known, band, (y, x))
                means[2 * (y + band.start) + 1 - row, 2 * x - column] = found


def _expected(prior: Conditioned, known: list[NDArray[np.int16]], band: slice, cells: tuple[Places, Places]) -> Means:
    """Means (n, channels) of the last positions of some cells of a band (n,), given the others of all cells."""
    halo = slice(max(0, band.start - BLOCKS), band.stop + BLOCKS)
    inputs = np.concatenate([grid[halo] for grid in known], -1).astype(np.float32)
    if prior.prior.preset.phased:
        unknown = (*inputs.shape[:2], prior.prior.channels + 1)  # other last positions, and where they are known
        inputs = np.concatenate([inputs, np.zeros(unknown, np.float32)], -1)
    context = prior.context(0, LAST, inputs)[band.start - halo.start :][cells]
    means = np.zeros((len(context), prior.prior.channels), np.int32)
    earlier = np.zeros(means.shape, np.float32)
    for group, channels in enumerate(prior.prior.groups):
        mean, _ = prior.distributions(0, LAST, group, context, earlier[:, : channels.start])
        means[:, channels] = mean
        earlier[:, channels] = prior.units.activations(mean, channels, FRACTIONS)
    return means
