"""Order in which maps of indices and latents are coded: both are halved again and again.

First comes what is left after all halvings; then each halving, coarsest first; and in it the three offsets of the
positions that are missing in cells of 2 x 2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders.networks.coding_order import BLOCKS, OFFSETS
from codec.entropy.coder import Coder, Symbols
from codec.entropy.layers import Whole
from codec.profiles.packets import Place

Activations = NDArray[np.int16]


class HalvingCoding(ABC):
    """Coding of one map or latent, once, in either direction.

    Args:
        coders: an encoder or a decoder; or two decoders of the least and the greatest continuation of a truncated
            stream: symbols are known as long as both agree.
        halvings: how often the grid is halved.
        spacing: distance of its positions in the picture's own grid: networks are those of halvings in which positions
            are about as far apart, as far as there are any.
        symbols: (height, width) or (height, width, channels), what there is where nothing is coded.
        inputs: activations that networks see of each position.
    """

    def __init__(self, coders: Sequence[Coder], halvings: int, spacing: int, symbols: Symbols, inputs: int) -> None:
        self._coders, self._halvings, self._level = list(coders), halvings, spacing.bit_length() - 1
        self._symbols, self._activations = symbols, np.zeros((*symbols.shape[:2], inputs), np.int16)

    def run(self) -> Symbols:
        """The symbols; those of an encoder are what a decoder gets."""
        for _ in self.scales():
            pass
        return self._symbols

    def scales(self) -> Iterator[int]:
        """Code scale by scale; after each, yield how many positions are between those that are known by then."""
        stride = 1 << self._halvings
        self._code_first(np.s_[::stride, ::stride])
        yield stride
        for halving in reversed(range(self._halvings)):
            self._refine(halving)
            yield 1 << halving

    def _refine(self, halving: int) -> None:
        """Code the positions that are missing at a halving."""
        stride, level = 1 << halving, min(halving + self._level, self._halvings - 1)
        first = self._activations[:: 2 * stride, :: 2 * stride]
        known = [first]
        for offset, (row, column) in enumerate(OFFSETS):
            place = np.s_[row * stride :: 2 * stride, column * stride :: 2 * stride]
            rows, columns = self._symbols[place].shape[:2]
            if rows and columns:
                self._code_offset(level, offset, place, known)
            complete = first.copy()  # where the grid ends in a cell, its first position stands for those that lack
            complete[:rows, :columns] = self._activations[place]
            known.append(complete)

    def _context(self, level: int, offset: int, known: Sequence[Activations], rows: slice) -> Whole:
        """Features (rows, w, hidden) of some rows of cells, given also those around that networks see."""
        halo = slice(max(0, rows.start - BLOCKS), rows.stop + BLOCKS)
        inputs = np.concatenate([grid[halo] for grid in known], -1).astype(np.float32)
        return self._features(level, offset, inputs)[rows.start - halo.start :][: rows.stop - rows.start]

    def _decided(self, found: Sequence[Symbols], others: Symbols | int, reach: int | None = None) -> Symbols:
        """Symbols (n,) up to the first on which coders disagree, others from there on; then no more are coded.

        Args:
            reach: distance from the others beyond which symbols are escapes, which follow all else; None if none are.
        """
        differ = found[0] != found[-1]
        if not differ.any():
            return found[0]
        if reach is not None:
            escapes = np.all([np.abs(each - others) > reach for each in found], 0)
            if (differ & ~escapes).any():  # then coders read escapes at different places
                differ |= escapes
        self._coders = []
        decided: Symbols = np.where(np.arange(len(differ)) < differ.argmax(), found[0], others)
        return decided

    @abstractmethod
    def _code_first(self, place: Place) -> None:
        """Code what is left after all halvings."""

    @abstractmethod
    def _code_offset(self, level: int, offset: int, place: Place, known: list[Activations]) -> None:
        """Code the positions of an offset, of which there are some.

        Args:
            level: halving whose networks are to be taken.
            known: what is known of each cell (h, w), its first position and the offsets before: (h, w, inputs) each.
        """

    @abstractmethod
    def _features(self, level: int, offset: int, inputs: Whole) -> Whole:
        """Features that distributions depend on, of what is known: (h, w, n), whole numbers, to (h, w, hidden)."""
