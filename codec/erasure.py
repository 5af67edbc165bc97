"""Erasure code: parity rows of bytes, any of which restore as many rows that are missing.

It is a systematic Reed-Solomon code by a Cauchy matrix, as of Blömer, Kalfane, Karp, Karpinski, Luby and Zuckerman, "An
XOR-Based Erasure-Resilient Coding Scheme", ICSI TR-95-048, 1995. Bytes are numbers of GF(256): polynomials over GF(2)
modulo x^8 + x^4 + x^3 + x^2 + 1, where powers of x are all numbers but 0.

All rows have numbers, 0..255, none of them twice, parity rows included. A parity row depends on its number and on the
rows, not on what other parity rows there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x11D
_ORDER = 255  # of x: that many powers of it differ


def _powers() -> NDArray[np.int64]:
    """Powers of x, (255,): those of exponents 0, 1 ..."""
    found = [1]
    while len(found) < _ORDER:
        doubled = found[-1] << 1
        found.append(doubled ^ _POLYNOMIAL if doubled > 0xFF else doubled)
    return np.array(found)


_POWERS = _powers()
_LOGS = np.zeros(256, np.int64)  # that of 0, which has none, is 0
_LOGS[_POWERS] = np.arange(_ORDER)


def _multiples(log: int) -> bytes:
    """All 256 numbers times x^log."""
    products = _POWERS[(_LOGS + log) % _ORDER]
    products[0] = 0
    return products.astype(np.uint8).tobytes()


_MULTIPLES = tuple(_multiples(log) for log in range(_ORDER))


def parity(rows: Mapping[int, bytes], numbers: Iterable[int]) -> dict[int, bytes]:
    """Parity rows with these numbers, of at least one row; all are as long as the longest row, others end in zeros."""
    length = max(map(len, rows.values()))
    return {number: _sum(_terms(rows, number), length) for number in numbers}


def restored(rows: Mapping[int, bytes], parities: Mapping[int, bytes], missing: Collection[int]) -> dict[int, bytes]:
    """Rows that are missing, by number, as long as parity rows are: what is beyond a row's end is zero.

    Args:
        rows: all others, none of them longer than parity rows.
        parities: of one length; at least one, and as many as are missing.
    """
    chosen, length = dict(list(parities.items())[: len(missing)]), max(map(len, parities.values()))
    # Without the rows that there are, parity rows are those of the missing ones alone.
    left = [_sum([(0, row), *_terms(rows, number)], length) for number, row in chosen.items()]
    inverse = _inverse(list(chosen), list(missing))
    return {number: _sum(zip(logs, left, strict=True), length) for number, logs in zip(missing, inverse, strict=True)}


def _terms(rows: Mapping[int, bytes], number: int) -> Iterable[tuple[int, bytes]]:
    """Logarithms of a row of Cauchy's matrix, 1 / (number + numbers of `rows`), and what they are factors of."""
    return ((int(-_LOGS[number ^ other]), row) for other, row in rows.items())


def _sum(terms: Iterable[tuple[int, bytes]], length: int) -> bytes:
    """Sum of rows times x^log, of so many bytes."""
    total = np.zeros(length, np.uint8)
    for log, row in terms:
        total[: len(row)] ^= np.frombuffer(row.translate(_MULTIPLES[log % _ORDER]), np.uint8)
    return total.tobytes()


def _inverse(parities: list[int], missing: list[int]) -> NDArray[np.int64]:
    """Logarithms of the inverse of Cauchy's matrix of rows `parities` and columns `missing`, which are as many.

    With x and y for these, that of row i and column j is (prod_k (x_j + y_k) (x_k + y_i)) / ((x_j + y_i)
    prod_(k != j) (x_j + x_k) prod_(k != i) (y_i + y_k)), as the paper has it.
    """
    x, y = np.array(parities, np.int64), np.array(missing, np.int64)
    both = _LOGS[x[:, None] ^ y]
    numerator = both.sum(1) + both.sum(0)[:, None] - both.T
    # Terms with k = j or k = i are logarithms of 0, which count nothing.
    logs: NDArray[np.int64] = numerator - _LOGS[x[:, None] ^ x].sum(1) - _LOGS[y[:, None] ^ y].sum(1)[:, None]
    return logs
