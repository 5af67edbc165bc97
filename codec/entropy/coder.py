"""One interface for both directions: a coder is asked for symbols, and an encoder is told them."""

from __future__ import annotations

from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from codec.container import CorruptError
from codec.entropy import tables

Symbols = NDArray[np.int32]

LIMIT = (1 << 14) - 1  # of a symbol's absolute value

_stream = constriction.stream
_tabled = _stream.model.Categorical(perfect=False)


class Coder(Protocol):
    """Codes runs of symbols. An encoder returns the symbols it is given; a decoder ignores them."""

    def run(self, symbols: Symbols | None, counts: NDArray[np.float64]) -> Symbols:
        """Code one symbol a row of counts (n, m), integers that sum to 2**24 - m; probability (c + 1) / 2**24."""

    def uniform(self, symbol: int, bits: int) -> int:
        """Code one number of so many raw bits, 1..16."""

    def trusted(self, values: Symbols) -> Symbols:
        """Return what a run gave, with its escapes; or numbers that nothing else gives, if it is not to be trusted."""


class Encoder:
    """Writes symbols with constriction's range coder."""

    def __init__(self) -> None:
        self._encoder = _stream.queue.RangeEncoder()

    def run(self, symbols: Symbols | None, counts: NDArray[np.float64]) -> Symbols:
        assert symbols is not None
        self._encoder.encode(symbols, _tabled, counts)
        return symbols

    def uniform(self, symbol: int, bits: int) -> int:
        self._encoder.encode(symbol, _stream.model.Uniform(1 << bits))
        return symbol

    def trusted(self, values: Symbols) -> Symbols:
        return values

    def finish(self) -> bytes:
        """Return the bytes written so far, without the zero bytes at their end, which the decoder adds again."""
        words: NDArray[np.uint32] = self._encoder.get_compressed()
        return words.astype("<u4").tobytes().rstrip(b"\0")


class Decoder:
    """Reads symbols from what `Encoder.finish` gave. Bytes that are no such thing give arbitrary symbols.

    Args:
        instead: value of all symbols of a Laplace run once the data are invalid; None: that raises a `CorruptError`.
    """

    def __init__(self, data: bytes, *, instead: int | None = None) -> None:
        self._instead, self._damaged = instead, False
        words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)
        self._decoder = _stream.queue.RangeDecoder(words)

    def run(self, symbols: Symbols | None, counts: NDArray[np.float64]) -> Symbols:
        found = self._checked(_tabled, counts)
        if found is None:  # the greatest number: what is too low to be valid does not occur
            return np.full(len(counts), counts.shape[1] - 2, np.int32)
        return found  # type: ignore[no-any-return]

    def uniform(self, symbol: int, bits: int) -> int:
        return int(self._checked(_stream.model.Uniform(1 << bits)) or 0)

    def trusted(self, values: Symbols) -> Symbols:
        return np.full_like(values, self._instead) if self._damaged else values

    def _checked(self, *model: Any) -> Any:
        try:
            return self._decoder.decode(*model)
        except AssertionError as error:  # what constriction raises for bytes that no encoder writes
            if self._instead is not None:
                self._damaged = True
                return None
            raise CorruptError("the entropy-coded data is not valid: the file is damaged; get it again") from error

    @property
    def exhausted(self) -> bool:
        """Whether nothing but the end of the stream may be left."""
        return bool(self._decoder.maybe_exhausted())


def continuations(beginning: bytes) -> list[Decoder]:
    """Decoders of the least and the greatest stream that begin so: what both give is decided by the beginning."""
    return [Decoder(beginning + end, instead=LIMIT + 1 + i) for i, end in enumerate((b"", b"\xff" * 16))]


_BLOCK = 1 << 12  # symbols whose tables, of up to 4 KB each, are in memory at a time
_CATEGORIES = 1 << 17  # of all symbols whose tables are made at a time: they stay in the processor's cache


def code_laplace(
    coder: Coder, values: NDArray[np.int32] | None, mean: NDArray[np.int64], scale: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Code integers in -LIMIT..LIMIT under Laplace distributions.

    Args:
        values: (n,) what to encode; not needed to decode.
        mean: (n,) in 1/16, within -16 * LIMIT..16 * LIMIT.
        scale: (n,) index of the scale, 0..63.

    Returns:
        (n,) the values; a decoder of damaged data may return numbers beyond `LIMIT`.
    """
    width = int(tables.half_width_index()[scale.max()])
    k = tables.HALF_WIDTHS[width]
    centre = tables.nearest(mean)
    counts, fraction = tables.counts(width), mean - tables.FRACTIONS * centre + tables.FRACTIONS // 2
    residual = None if values is None else values - centre
    escape = 2 * k + 1
    symbols = None if residual is None else np.where(np.abs(residual) <= k, residual + k, escape).astype(np.int32)
    blocks = [slice(i, i + _BLOCK) for i in range(0, len(mean), _BLOCK)]
    runs = [coder.run(None if symbols is None else symbols[b], counts[scale[b], fraction[b]]) for b in blocks]
    symbols = np.concatenate(runs)
    decoded = symbols - k
    for i in np.flatnonzero(symbols == escape):
        decoded[i] = _code_escape(coder, 0 if residual is None else int(residual[i]), k)
    return coder.trusted((decoded + centre).astype(np.int32))


def _code_escape(coder: Coder, residual: int, k: int) -> int:
    """Code a number beyond -k..k: its sign, then how far it is, as an Exp-Golomb code of raw bits."""
    sign = coder.uniform(int(residual < 0), 1)
    excess = abs(residual) - k
    length = coder.uniform(excess.bit_length() - 1, 4)
    excess = (1 << length) | (coder.uniform(excess & ((1 << length) - 1), length) if length else 0)
    return -(excess + k) if sign else excess + k


def code_categorical(
    coder: Coder, values: NDArray[np.int32] | None, logits: NDArray[np.signedinteger]
) -> NDArray[np.int32]:
    """Code symbols 0..m - 1 under a softmax of each one's logits.

    Args:
        values: (n,) what to encode; not needed to decode.
        logits: (n, m) integers in 1/64 of natural logarithms, of which only differences count; those of more
            than 17 below the greatest are all the same. 2 <= m <= 2**14.

    Returns:
        (n,) the values; a decoder of damaged data returns arbitrary ones, within 0..m - 1 unless it gives others
        instead.
    """
    count, categories = logits.shape
    if not 2 <= categories <= tables.MAX_CATEGORIES or logits.dtype.kind != "i":
        raise ValueError(
            f"logits must be signed whole numbers, of 2 to {tables.MAX_CATEGORIES} categories: "
            f"these are {logits.dtype}, of {categories}"
        )
    if values is not None and len(values) != count:
        raise ValueError(f"there are {len(values)} symbols for the logits of {count}")
    if values is not None and count and not 0 <= values.min() <= values.max() < categories:
        raise ValueError(f"symbols must be 0 to {categories - 1}, not {values.min()} to {values.max()}")
    coded = np.empty(count, np.int32)
    rows = max(1, _CATEGORIES // categories)
    for block in (slice(i, i + rows) for i in range(0, count, rows)):
        told = None if values is None else values[block].astype(np.int32)
        coded[block] = coder.run(told, tables.softmax(logits[block]))
    return coder.trusted(coded)
