"""Coding of a map of codebook indices under the integer prior, in one order for both directions.

First come the positions that are left after all halvings of the map, then each halving, coarsest first; in it the three
offsets of the positions that are missing in cells of 2 x 2, and of each bands of some rows of cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from codec.autoencoders.networks.coding_order import BLOCKS, OFFSETS
from codec.autoencoders.networks.index_transformer import UNKNOWN, Indices
from codec.autoencoders.networks.integer_index_prior import HALVINGS, AnyPrior
from codec.blocks import bands
from codec.container import CorruptError
from codec.entropy import selftest
from codec.entropy.coder import Coder, Decoder, Encoder, code_categorical, continuations
from codec.entropy.tables import LOGIT_FRACTIONS

Costs = NDArray[np.float32]
Trade = NDArray[np.float32]
Place = tuple[slice, slice]


def encode(
    prior: AnyPrior, book: int, spacing: int, costs: Costs | Indices, trade: Trade | float
) -> tuple[bytes, Indices]:
    """Choose the indices of a map step by step, and code them.

    Args:
        book: index of the codebook.
        spacing: distance of the map's positions in the picture's own map.
        costs: (h, w, size), of each index at each position; or indices (h, w), which are coded as they are.
        trade: cost of a bit, (h, w) or the same everywhere. Each index costs least with its bits; what it does to
            later ones is not foreseen.

    Returns:
        The stream, and the indices (h, w).
    """
    coder, (height, width) = Encoder(), costs.shape[:2]
    indices = IndexCoding([coder], prior, book, spacing, height, width, costs, trade).run()
    return coder.finish(), indices


def decode(
    prior: AnyPrior, book: int, spacing: int, stream: bytes, height: int, width: int, *,
    truncated: bool = False,
) -> Indices:  # fmt: skip
    """Indices (height, width) of a stream.

    Args:
        truncated: it is only a beginning; what it does not decide is `UNKNOWN`.

    Raises:
        CorruptError: it is no stream of such a map.
        RuntimeError: this machine decodes wrongly.
    """
    selftest.check()
    coder = Decoder(stream)
    coders = continuations(stream) if truncated else [coder]
    indices = IndexCoding(coders, prior, book, spacing, height, width).run()
    if not (truncated or coder.exhausted):
        raise CorruptError("the indices do not end where their packet does: the file is damaged; get it again")
    return indices


class IndexCoding:
    """Coding of one map, once.

    Args:
        coders: an encoder or a decoder; or two decoders of the least and the greatest continuation of a truncated
            stream: indices are known as long as both agree.
        costs, trade: as of `encode`; None to decode.
    """

    def __init__(
        self, coders: Sequence[Coder], prior: AnyPrior, book: int, spacing: int, height: int, width: int,
        costs: Costs | Indices | None = None, trade: Trade | float = 0.0,
    ) -> None:  # fmt: skip
        self._coders, self._prior, self._book = list(coders), prior, book
        self._level = spacing.bit_length() - 1
        self._costs, self._trade = costs, np.broadcast_to(np.float32(trade), (height, width))
        self._codes = prior.codes(book)
        self._indices = np.full((height, width), UNKNOWN, np.int32)

    def run(self) -> Indices:
        """The indices (height, width), or `UNKNOWN` from where decoders do not agree."""
        cell = 1 << HALVINGS
        place = np.s_[::cell, ::cell]
        cells = np.ones_like(self._indices[place], bool)
        self._code(place, cells, np.tile(self._prior.of_first(self._book), (cells.size, 1)))
        for halving in reversed(range(HALVINGS)):
            self._refine(halving)
        return self._indices

    def _refine(self, halving: int) -> None:
        """Code the positions that are missing at a halving."""
        stride = 1 << halving
        first = self._indices[:: 2 * stride, :: 2 * stride]
        known = [first]
        for offset, (row, column) in enumerate(OFFSETS):
            place = np.s_[row * stride :: 2 * stride, column * stride :: 2 * stride]
            rows, columns = self._indices[place].shape
            for band in bands(rows, columns) if columns else ():
                if not self._coders:
                    return
                self._code_band(halving, offset, place, band, known)
            complete = first.copy()  # where the map ends in a cell, its first position stands for those that lack
            complete[:rows, :columns] = self._indices[place]
            known.append(complete)

    def _code_band(self, halving: int, offset: int, place: Place, band: slice, known: list[Indices]) -> None:
        halo = slice(max(0, band.start - BLOCKS), band.stop + BLOCKS)
        inputs = np.concatenate([self._codes[grid[halo]] for grid in known], -1).astype(np.float32)
        level = self._level + halving
        features = self._prior.features(self._book, level, offset, inputs)[band.start - halo.start :]
        cells = np.zeros(self._indices[place].shape, bool)
        cells[band] = True
        rows, columns = cells[band].shape
        found = features[:rows, :columns].reshape(cells[band].size, features.shape[-1])
        self._code(place, cells, self._prior.logits(self._book, level, offset, found))

    def _code(self, place: Place, cells: NDArray[np.bool_], logits: NDArray[np.int64]) -> None:
        """Code the indices of some cells (h, w), given their logits (n, size)."""
        told = None
        if self._costs is not None:
            given = self._costs[place][cells]
            chosen = given if given.ndim == 1 else self._cheapest(given, place, cells, logits)
            told = chosen.astype(np.int32)
        found = [code_categorical(coder, told, logits) for coder in self._coders]
        differ = found[0] != found[-1]
        if differ.any():
            self._coders = []
            found[0][differ.argmax() :] = UNKNOWN
        self._indices[place][cells] = found[0]

    def _cheapest(
        self, costs: Costs | Indices, place: Place, cells: NDArray[np.bool_], logits: NDArray[np.int64]
    ) -> Indices:
        """Indices (n,) of those that cost least with their bits, of the costs (n, size) of all of some cells (h, w)."""
        chosen: Indices = (costs + self._trade[place][cells][:, None] * _bits(logits)).argmin(1)
        return chosen


def _bits(logits: NDArray[np.int64]) -> NDArray[np.float32]:
    """Bits of each index, nearly."""
    natural = torch.from_numpy(logits).float() / LOGIT_FRACTIONS
    bits: NDArray[np.float32] = (natural.log_softmax(1) / -np.log(2)).numpy()
    return bits
