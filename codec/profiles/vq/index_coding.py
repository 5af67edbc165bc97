"""Coding of a map of codebook indices under the integer prior, in one order for both directions.

The map is halved four times (`codec/profiles/halving.py`), and each offset is coded in bands of some rows of cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from codec.autoencoders.networks.index_transformer import UNKNOWN, Indices
from codec.autoencoders.networks.integer_index_prior import HALVINGS, AnyPrior
from codec.blocks import bands
from codec.container import CorruptError
from codec.entropy import selftest
from codec.entropy.coder import Coder, Decoder, Encoder, code_categorical, continuations
from codec.entropy.layers import Whole
from codec.entropy.tables import LOGIT_FRACTIONS
from codec.profiles.halving import Activations, HalvingCoding
from codec.profiles.packets import Place

Costs = NDArray[np.float32]
Trade = NDArray[np.float32]


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


class IndexCoding(HalvingCoding):
    """Coding of one map, once.

    Args:
        coders, spacing: as of `HalvingCoding`; indices are `UNKNOWN` from where decoders do not agree.
        costs, trade: as of `encode`; None to decode.
    """

    def __init__(
        self, coders: Sequence[Coder], prior: AnyPrior, book: int, spacing: int, height: int, width: int,
        costs: Costs | Indices | None = None, trade: Trade | float = 0.0,
    ) -> None:  # fmt: skip
        self._prior, self._book, self._codes = prior, book, prior.codes(book)
        self._costs, self._trade = costs, np.broadcast_to(np.float32(trade), (height, width))
        indices = np.full((height, width), UNKNOWN, np.int32)
        super().__init__(coders, HALVINGS, spacing, indices, self._codes.shape[1])

    def _code_first(self, place: Place) -> None:
        indices, first = self._symbols[place], self._prior.of_first(self._book)
        self._code(place, slice(None), np.broadcast_to(first, (indices.size, len(first))))

    def _code_offset(self, level: int, offset: int, place: Place, known: list[Activations]) -> None:
        rows, columns = self._symbols[place].shape
        for band in bands(rows, columns):
            if self._coders:  # or no more are known
                features = self._context(level, offset, known, band)[:, :columns]
                features = features.reshape(len(features) * columns, features.shape[2])
                self._code(place, band, self._prior.logits(self._book, level, offset, features))

    def _features(self, level: int, offset: int, inputs: Whole) -> Whole:
        return self._prior.features(self._book, level, offset, inputs)

    def _code(self, place: Place, rows: slice, logits: NDArray[np.int64]) -> None:
        """Code the indices of some rows of cells, given their logits (n, size)."""
        told = None
        if self._costs is not None:
            told = _cheapest(self._costs[place][rows], self._trade[place][rows], logits)
        found = self._decided([code_categorical(coder, told, logits) for coder in self._coders], UNKNOWN)
        indices = self._symbols[place][rows]
        indices[...] = found.reshape(indices.shape)
        self._activations[place][rows] = self._codes[indices]


def _cheapest(costs: Costs | Indices, trade: Trade, logits: NDArray[np.int64]) -> Indices:
    """Indices (h * w,) that cost least with their bits, of the costs (h, w, size) of all; or given ones (h, w).

    Args:
        trade: (h, w), cost of a bit.
    """
    if costs.ndim == 2:
        return costs.ravel().astype(np.int32)
    chosen: Indices = (costs.reshape(logits.shape) + trade.ravel()[:, None] * _bits(logits)).argmin(1).astype(np.int32)
    return chosen


def _bits(logits: NDArray[np.int64]) -> NDArray[np.float32]:
    """Bits of each index, nearly."""
    natural = torch.from_numpy(logits.astype(np.float32)) / LOGIT_FRACTIONS
    bits: NDArray[np.float32] = (natural.log_softmax(1) / -np.log(2)).numpy()
    return bits
