"""Probability tables, defined by integer arithmetic only: of discretised Laplace distributions, and of logits.

A Laplace distribution has one of 64 scales and a mean whose distance from the nearest integer is a multiple of 1/16. A
symbol is the distance to that integer, from -K to K, or the escape symbol 2K + 1, after which the rest follows in raw
bits. A categorical distribution has a logit for each symbol, in 1/64 of natural logarithms, of which only differences
count. Probabilities are multiples of 2**-24, and none is zero.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

SCALES = 64  # b = exp(-3 + i / 8)
LOG_SCALE_FRACTIONS = 8
LOG_SCALE_MIN_EIGHTHS = -24
FRACTIONS = 16  # mean = (i - 8) / 16
HALF_WIDTHS = (7, 15, 31, 63, 127, 255)  # K, chosen by the largest scale among the symbols coded together
TOTAL = 1 << 24
LOGIT_FRACTIONS = 64
MAX_CATEGORIES = 1 << 14  # keeps what rounding down leaves to the most probable symbol below 2**-9

# Squared error, in squared steps of a uniform quantiser, that a bit is worth where steps are small: D = step^2 / 12 and
# R = h - log2(step), so dD/dR = -step^2 ln 2 / 6. Gish and Pierce, "Asymptotically efficient quantizing", 1968.
HIGH_RATE_SLOPE = math.log(2) / 6

NEAR = 1e-6  # far more than errors of floating point in counts

EXP_BITS = 96  # fractional bits of `exp_fixed`
_ONE = 1 << EXP_BITS
_LN2 = 0xB17217F7D1CF79ABC9E3B39803F2F6AF >> (128 - EXP_BITS)


def exp_fixed(numerator: int, denominator: int) -> int:
    """floor-like exp(numerator / denominator) * 2**96, by range reduction and Taylor's series in integers."""
    x = (numerator << EXP_BITS) // denominator
    shift, x = divmod(x, _LN2)
    term = total = _ONE
    for n in range(1, 40):
        term = (term * x >> EXP_BITS) // n
        total += term
    return total << shift if shift >= 0 else total >> -shift


def scales_of(indices: NDArray[np.integer]) -> NDArray[np.float64]:
    """Scales of Laplace distributions, nearly, by their indices."""
    scales: NDArray[np.float64] = np.exp((LOG_SCALE_MIN_EIGHTHS + indices) / LOG_SCALE_FRACTIONS)
    return scales


def nearest(mean: NDArray[np.integer]) -> NDArray[np.integer]:
    """Integers that are nearest to means in 1/16; of two, the greater one."""
    centre: NDArray[np.integer] = (mean + FRACTIONS // 2) // FRACTIONS
    return centre


@cache
def half_width_index() -> NDArray[np.intp]:
    """Index, for each scale, of the half-width that leaves less than about 1/1000 to the escape; (64,)."""
    widths = []
    for i in range(SCALES):
        reach = 7 * exp_fixed(LOG_SCALE_MIN_EIGHTHS + i, LOG_SCALE_FRACTIONS) >> EXP_BITS
        widths.append(next((j for j, k in enumerate(HALF_WIDTHS) if k > reach), len(HALF_WIDTHS) - 1))
    return np.array(widths, np.intp)


@cache
def counts(width: int) -> NDArray[np.float64]:
    """Tables for one half-width K = HALF_WIDTHS[width], for the scales that use it and all smaller ones.

    Returns:
        (scales, 16, 2K + 2): integers c that sum to 2**24 - (2K + 2) along the last axis; the coder's
        probability is (c + 1) / 2**24.
    """
    k = HALF_WIDTHS[width]
    scales = int((half_width_index() <= width).sum())
    shares = _shares(scales, k) * (TOTAL - (2 * k + 2))
    found = np.floor(shares)
    found[..., k] += TOTAL - (2 * k + 2) - found.sum(-1)
    # What is this near a whole number could be rounded down otherwise than by integers, which decide.
    for scale, fraction in np.argwhere((np.abs(shares - np.maximum(np.rint(shares), 1)) < NEAR).any(-1)):
        found[scale, fraction] = _row(int(scale), int(fraction), k)
    return found


def _shares(scales: int, k: int) -> NDArray[np.float64]:
    """Probabilities of the residuals -k..k and the escape, with errors below 1e-14: (scales, 16, 2k + 2)."""
    scale = scales_of(np.arange(scales))[:, None, None]
    mean = (np.arange(FRACTIONS) - FRACTIONS // 2)[:, None] / FRACTIONS
    edges = np.arange(-k - 1, k + 1) + 0.5 - mean
    tails = np.exp(-np.abs(edges) / scale) / 2
    low, high = tails[..., :-1], tails[..., 1:]
    inside = np.where((edges[:, :-1] < 0) & (edges[:, 1:] >= 0), 1 - low - high, np.abs(low - high))
    return np.concatenate([inside, tails[..., :1] + tails[..., -1:]], -1)


def _row(scale: int, fraction: int, k: int) -> list[int]:
    """Counts of the residuals -k..k and the escape."""
    scale_fixed = exp_fixed(LOG_SCALE_MIN_EIGHTHS + scale, LOG_SCALE_FRACTIONS)
    unit = 2 * FRACTIONS  # boundaries k + 1/2 - mean are odd or even multiples of 1 / 32
    edges = [unit * i + unit // 2 - 2 * (fraction - FRACTIONS // 2) for i in range(-k - 1, k + 1)]
    ratio = exp_fixed(-(1 << EXP_BITS), scale_fixed)
    tails = _tails(edges, ratio, unit, scale_fixed)
    # tails[i] is the mass beyond edge i, on its own side of the mean
    room = TOTAL - (2 * k + 2)
    row = [max(0, _mass(tails[i], edges[i], tails[i + 1], edges[i + 1]) * room >> EXP_BITS) for i in range(2 * k + 1)]
    row.append(room * (tails[0] + tails[-1]) >> EXP_BITS)
    row[k] += room - sum(row)
    return row


def _tails(edges: list[int], ratio: int, unit: int, scale_fixed: int) -> list[int]:
    """exp(-|edge| / b) / 2 for each edge (in 1 / unit), as fixed-point numbers, by the recurrence of one unit."""
    middle = next(i for i, edge in enumerate(edges) if edge >= 0)
    tails = [0] * len(edges)

    def first(edge: int) -> int:
        return exp_fixed(-(abs(edge) << EXP_BITS), unit * scale_fixed) >> 1

    for start, step in ((middle, 1), (middle - 1, -1)):
        value = first(edges[start])
        for i in range(start, len(edges) if step > 0 else -1, step):
            tails[i] = value
            value = value * ratio >> EXP_BITS
    return tails


def _mass(tail: int, edge: int, next_tail: int, next_edge: int) -> int:
    """Probability between two neighbouring edges, given the mass beyond each on its own side of the mean."""
    if edge < 0 <= next_edge:
        return _ONE - tail - next_tail
    return abs(tail - next_tail)


@cache
def exponentials() -> NDArray[np.float64]:
    """floor(2**24 * exp(-i / 64)) for i = 0, 1, ... up to the first that is zero."""
    values = [TOTAL]
    while values[-1]:
        values.append(exp_fixed(-len(values), LOGIT_FRACTIONS) * TOTAL >> EXP_BITS)
    return np.array(values, np.float64)


def softmax(logits: NDArray[np.signedinteger]) -> NDArray[np.float64]:
    """Tables of categorical distributions.

    With e = exponentials()[max - logit], N = 2**24 - m and r = floor(2**29 * N / sum of e), counts are
    floor(e * r / 2**29), and what is missing from N is added to the first of the most probable symbols. As
    e <= 2**24 <= sum of e, all products are below 2**53 and so exact in float64.

    Args:
        logits: (n, m) in 1/64, below 2**62 in absolute value, 2 <= m <= MAX_CATEGORIES.

    Returns:
        (n, m): integers c that sum to N in each row; the coder's probability is (c + 1) / 2**24.
    """
    rows, first = np.arange(len(logits)), logits.argmax(1)
    below = np.subtract(logits[rows, first][:, None], logits, dtype=np.int64)
    counts: NDArray[np.float64] = exponentials().take(below, mode="clip")
    room = TOTAL - logits.shape[1]
    ratio = (room << 29) // counts.sum(1).astype(np.int64)
    counts *= (ratio * 2.0**-29)[:, None]
    np.floor(counts, out=counts)
    counts[rows, first] += room - counts.sum(1)
    return counts
