"""Coding of a latent under the integer prior, in one order for both directions.

The grid is halved as often as the preset says (`codec/profiles/halving.py`). Of each offset come the phases; of each
phase bands of some rows of cells, which bound the memory that is needed; and in a band the groups of channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders.networks.coding_order import SCALE, phase_masks
from codec.autoencoders.networks.integer_prior import Conditioned
from codec.blocks import bands
from codec.container import CorruptError
from codec.entropy import selftest, tables
from codec.entropy.coder import LIMIT, Coder, Decoder, Encoder, Symbols, code_laplace, continuations
from codec.entropy.layers import Integers, Whole
from codec.profiles.halving import Activations, HalvingCoding
from codec.profiles.packets import Place
from codec.runtime import pieces, shared

ROWS, CELLS = 8, 256  # that a thread computes at least
SURE = 0  # scale index up to which a symbol whose mean rounds to zero is zero

Trade = NDArray[np.float32]
Cells = tuple[NDArray[np.intp], NDArray[np.intp]]  # rows and columns


def encode(
    prior: Conditioned, latent: NDArray[np.float32], spacing: int = 1, trade: Trade | None = None
) -> tuple[bytes, Symbols]:
    """Code a latent (height, width, channels) in symbols that are not rounded yet.

    Args:
        spacing: distance of the latent's positions in the picture's own latent.
        trade: (height, width, channels), squared error of each symbol that a bit is worth; 0, or None for all, where
            symbols are only rounded.

    Returns:
        The stream, and the symbols that it holds.
    """
    coder, (height, width, _) = Encoder(), latent.shape
    symbols = LatentCoding([coder], prior, height, width, latent, spacing, trade).run()
    return coder.finish(), symbols


def check(prior: Conditioned, stream: bytes, symbols: Symbols, spacing: int = 1) -> None:
    """Read a stream back.

    Raises:
        RuntimeError: it does not hold these symbols.
    """
    selftest.check_read_back(np.array_equal(decode(prior, stream, *symbols.shape[:2], spacing=spacing), symbols))


def decode(
    prior: Conditioned, stream: bytes, height: int, width: int, *, spacing: int = 1,
    truncated: bool = False,
) -> Symbols:  # fmt: skip
    """Symbols (height, width, channels) of a stream.

    Args:
        truncated: it is only a beginning; what it does not decide is what is expected.

    Raises:
        CorruptError: it is no stream of such a latent.
        RuntimeError: this machine decodes wrongly.
    """
    if truncated:
        return decode_beginning(prior, stream, height, width, spacing=spacing)[0]
    selftest.check()
    coder = Decoder(stream)
    symbols = LatentCoding([coder], prior, height, width, spacing=spacing).run()
    if not coder.exhausted:
        raise CorruptError("the latent does not end where its stream does: the file is damaged; get it again")
    return _in_range(symbols)


def decode_beginning(
    prior: Conditioned, stream: bytes, height: int, width: int, *, spacing: int = 1
) -> tuple[Symbols, NDArray[np.bool_]]:
    """Symbols (height, width, channels) of the beginning of a stream, and where (height, width) it decides them all.

    Those that it does not decide are what is expected.

    Raises:
        CorruptError: some that it decides are out of range.
        RuntimeError: this machine decodes wrongly.
    """
    selftest.check()
    coding = LatentCoding(continuations(stream), prior, height, width, spacing=spacing)
    return _in_range(coding.run()), coding.known


def _in_range(symbols: Symbols) -> Symbols:
    """The symbols; refuse them if some are beyond -LIMIT..LIMIT, which no writer writes."""
    if np.abs(symbols).max() > LIMIT:
        raise CorruptError("symbols of the latent are out of range: the file is damaged; get it again")
    return symbols


def bytes_by_scale(prior: Conditioned, stream: bytes, height: int, width: int) -> dict[int, int]:
    """Bytes that the positions of each scale take in a stream, by the distance between these.

    Raises:
        CorruptError: it is no stream of such a latent.
    """
    symbols, coder = decode(prior, stream, height, width).astype(np.float32), Encoder()
    coding = LatentCoding([coder], prior, height, width, symbols)
    ends = {stride: len(coder.finish()) for stride in coding.scales()}
    # Zeros at the end of a beginning are not counted, so the next one may be the shorter of the two.
    least = np.minimum.accumulate([*ends.values()][::-1])[::-1]
    return dict(zip(ends, np.diff(least, prepend=0).tolist(), strict=True))


class LatentCoding(HalvingCoding):
    """Coding of one latent, once.

    Args:
        coders, spacing: as of `HalvingCoding`; what decoders do not agree on is what is expected.
        latent: (height, width, channels), what to encode, in symbols that are not rounded yet; None to decode.
        trade: as of `encode`.

    Attributes:
        known: (height, width), where all symbols are coded, after `run`.
    """

    def __init__(
        self, coders: Sequence[Coder], prior: Conditioned, height: int, width: int,
        latent: NDArray[np.float32] | None = None, spacing: int = 1, trade: Trade | None = None,
    ) -> None:  # fmt: skip
        channels = prior.prior.channels
        symbols = np.zeros((height, width, channels), np.int32)
        super().__init__(coders, prior.prior.preset.halvings, spacing, symbols, channels)
        self._prior, self._latent, self._trade = prior, latent, trade
        self.known = np.zeros((height, width), bool)

    def _code_first(self, place: Place) -> None:
        rows, columns, channels = self._symbols[place].shape
        mean, scale = (np.broadcast_to(x, (rows * columns, channels)) for x in self._prior.first())
        row, column = np.nonzero(np.ones((rows, columns)))
        self._code(place, (row, column), slice(None), mean, scale)

    def _code_offset(self, level: int, offset: int, place: Place, known: list[Activations]) -> None:
        current = self._activations[place]
        for phase, own in self._phases(level, current, known[0]):
            for band in bands(*current.shape[:2]):
                self._code_band(level, offset, place, band, [*known, *own], phase)

    def _features(self, level: int, offset: int, inputs: Whole) -> Whole:
        return self._prior.context(level, offset, inputs)

    def _phases(
        self, level: int, current: Activations, first: Activations
    ) -> Iterator[tuple[NDArray[np.bool_], list[Activations]]]:
        """Cells of each phase, and what networks are told of those before: their activations, and which they are."""
        preset, (rows, columns) = self._prior.prior.preset, current.shape[:2]
        own, before = np.zeros_like(first), np.zeros_like(first[:, :, :1])
        for phase in phase_masks(preset.phases[level], rows, columns):
            yield phase, [own.copy(), SCALE * before] if preset.phased else []
            own[:rows, :columns][phase] = current[phase]
            before[:rows, :columns][phase] = 1

    def _code_band(
        self, level: int, offset: int, place: Place, band: slice, known: list[Activations],
        phase: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        def contexts(piece: slice) -> Whole:
            rows = slice(band.start + piece.start, band.start + piece.stop)
            return self._context(level, offset, known, rows)

        inside = phase[band]
        row, column = np.nonzero(inside)
        context = np.concatenate(shared(contexts, pieces(len(inside), ROWS)))[row, column]
        cells = row + band.start, column
        for group, channels in enumerate(self._prior.prior.groups):
            earlier = self._activations[place][*cells, : channels.start].astype(np.float32)

            def distributions(piece: slice, group: int = group, earlier: Whole = earlier) -> tuple[Integers, Integers]:
                return self._prior.distributions(level, offset, group, context[piece], earlier[piece])

            found = shared(distributions, pieces(len(context), CELLS))
            self._code(place, cells, channels, *map(np.concatenate, zip(*found, strict=True)))

    def _code(self, place: Place, cells: Cells, channels: slice, mean: Integers, scale: Integers) -> None:
        """Code some channels of some cells, given their distributions (cells, channels)."""
        row, column = cells
        told = None if self._latent is None else self._latent[place][row, column, channels]
        if told is not None and self._trade is not None:
            told = _traded(told, mean, scale, self._trade[place][row, column, channels])
        symbols = self._run(told, mean, scale)
        self._symbols[place][row, column, channels] = symbols
        self._activations[place][row, column, channels] = self._prior.units.activations(symbols, channels)
        self.known[place][row, column] = bool(self._coders)

    def _run(self, told: NDArray[np.float32] | None, mean: Integers, scale: Integers) -> Symbols:
        """Code symbols but for sure zeros, those of one width of tables after those of another."""
        shape, mean, scale = mean.shape, mean.ravel(), scale.ravel()
        symbols = tables.nearest(mean).astype(np.int32)
        width = np.where((scale > SURE) | (symbols != 0), tables.half_width_index()[scale], -1)
        for found in range(len(tables.HALF_WIDTHS)):
            chosen = np.flatnonzero(width == found)
            if self._coders and len(chosen):
                coded = None if told is None else np.rint(told.ravel()[chosen]).clip(-LIMIT, LIMIT).astype(np.int32)
                runs = [code_laplace(coder, coded, mean[chosen], scale[chosen]) for coder in self._coders]
                symbols[chosen] = self._decided(runs, symbols[chosen], tables.HALF_WIDTHS[found])
        return symbols.reshape(shape)


def _traded(told: NDArray[np.float32], mean: Integers, scale: Integers, trade: Trade) -> NDArray[np.float32]:
    """Symbols (n, channels) that cost least, squared error and bits, of those between the nearest and the likeliest.

    That is rate-distortion optimised quantisation (RDOQ), one symbol at a time in the order of coding.

    Args:
        trade: (n, channels), squared error that a bit is worth; where it is 0, symbols are the nearest ones.
    """
    best, centre = np.rint(told), tables.nearest(mean).astype(np.float32)
    undecided = best != centre
    best[undecided] = _cheapest(
        told[undecided], best[undecided], centre[undecided], mean[undecided], scale[undecided], trade[undecided]
    )
    return best


def _cheapest(
    told: NDArray[np.float32], nearest: NDArray[np.float32], centre: NDArray[np.float32], mean: Integers,
    scale: Integers, trade: Trade,
) -> NDArray[np.float32]:  # fmt: skip
    """Symbols (n,) as of `_traded`, where the nearest is not the likeliest."""
    # Away from the mean, each further one costs as many bits: a parabola and a line, of which this is the least.
    off = told - mean / tables.FRACTIONS
    drawn = np.sign(off) * np.maximum(0, np.abs(off) - trade / (2 * math.log(2) * tables.scales_of(scale)))
    between = np.rint(drawn + mean / tables.FRACTIONS)
    best, least = nearest, np.full(told.shape, np.inf)
    for tried in (nearest, centre, between):
        cost = np.square(told - tried) + trade * _bits(tried - centre, mean - centre * tables.FRACTIONS, scale)
        best, least = np.where(cost < least, tried, best), np.minimum(cost, least)
    return best.astype(np.float32)


def _bits(residual: NDArray[np.floating], fraction: NDArray[np.floating], scale: Integers) -> NDArray[np.float64]:
    """Bits (n, channels) of differences to the integers nearest to means, which are so many 1/16 beside these."""
    widest = tables.HALF_WIDTHS[-1]
    index = np.clip(residual, -widest, widest).astype(np.intp) + widest
    bits: NDArray[np.float64] = _all_bits()[scale, fraction.astype(np.intp) + tables.FRACTIONS // 2, index]
    return bits


@cache
def _all_bits() -> NDArray[np.float64]:
    """Bits of each symbol of the widest tables, (scales, 16, 2K + 2)."""
    bits: NDArray[np.float64] = -np.log2((tables.counts(len(tables.HALF_WIDTHS) - 1) + 1) / tables.TOTAL)
    return bits
