"""The prior of a map of codebook indices in integers: distributions that are the same on any machine.

It is made from an `IndexPrior` (`quantisation.py`), as that of a latent is (`integer_prior.py`).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders.networks.coding_order import LIMIT, OFFSETS
from codec.autoencoders.networks.integer_prior import OUTPUT_LIMIT, IntegerContext, bounded, check_bound
from codec.entropy.layers import Integers, Linear, Proven, Whole

HALVINGS = 4
CODE = 32  # dimensions of what the networks know of an entry


class IntegerIndexStep(IntegerContext):
    """An `IndexStep` of the trained prior."""

    def __init__(self, known: int, hidden: int) -> None:
        super().__init__(known * CODE, hidden)
        self.mix = Linear(hidden, hidden)

    def features(self, known: Whole, condition: Integers) -> Whole:
        """(h, w, known * CODE), (hidden,) to (h, w, hidden)."""
        context = self.embedded(known, condition)
        return bounded(context + self.mix(context).clip(0, LIMIT))


class IntegerIndexPrior(Proven):
    """Distributions of indices, made without numbers: complete once a state that `quantised_indices` made is loaded."""

    code: Integers
    first: Integers
    bias: Integers
    condition: Integers

    def __init__(self, starts: tuple[int, ...], hidden: int) -> None:
        total, offsets = starts[-1], len(OFFSETS)
        super().__init__(
            code=(total, CODE), first=(total,), bias=(HALVINGS, offsets, total),
            condition=(HALVINGS, offsets, len(starts) - 1, hidden),
        )  # fmt: skip
        self.books = [slice(a, b) for a, b in pairwise(starts)]
        self.steps = [IntegerIndexStep(1 + offset, hidden) for offset in range(offsets)]
        self.output = [Linear(b - a, hidden) for a, b in pairwise(starts)]

    def prove(self) -> None:
        check_bound("code", self.code, LIMIT)
        for name in ("first", "bias", "condition"):
            check_bound(name, getattr(self, name), OUTPUT_LIMIT)

    def codes(self, book: int) -> NDArray[np.int16]:
        """Activations of each entry of a codebook, (size, CODE)."""
        return self.code[self.books[book]].astype(np.int16)

    def of_first(self, book: int) -> Integers:
        """Logits of the positions that are left after all halvings, (size,), in 1 / LOGIT_FRACTIONS as all of them."""
        return self.first[self.books[book]]

    def features(self, book: int, halving: int, offset: int, known: Whole) -> Whole:
        """Features that logits at an offset depend on: (h, w, known * CODE), whole numbers, to (h, w, hidden)."""
        return self.steps[offset].features(known, self.condition[halving, offset, book])

    def logits(self, book: int, halving: int, offset: int, features: Whole) -> Integers:
        """Logits (n, size) of features (n, hidden)."""
        found: Integers = self.output[book](features).astype(np.int64) + self.bias[halving, offset, self.books[book]]
        return found


class EquallyLikely:
    """The prior of models that have none.

    Args:
        sizes: entries of each codebook.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes

    def codes(self, book: int) -> NDArray[np.int16]:
        """Nothing is known of entries: (size, 0)."""
        return np.zeros((self._sizes[book], 0), np.int16)

    def of_first(self, book: int) -> Integers:
        return np.zeros(self._sizes[book], np.int64)

    def features(self, book: int, halving: int, offset: int, known: Whole) -> Whole:
        """(h, w, 0) to the same."""
        return known

    def logits(self, book: int, halving: int, offset: int, features: Whole) -> Integers:
        """Zeros (n, size), which take no memory."""
        return np.broadcast_to(np.int64(0), (len(features), self._sizes[book]))


AnyPrior = IntegerIndexPrior | EquallyLikely
