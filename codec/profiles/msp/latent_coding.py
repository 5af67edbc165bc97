"""Coding of a latent under the integer prior, in one order for both directions.

First comes what is left when the grid has been halved as often as the preset says; then each halving, coarsest first;
in it the three offsets of the positions that are missing in cells of 2 x 2; of each offset the phases; of each phase
bands of some rows of cells, which bound the memory that is needed; and in a band the groups of channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders.networks.coding_order import BLOCKS, OFFSETS, SCALE, phase_masks
from codec.autoencoders.networks.integer_prior import Conditioned
from codec.blocks import bands
from codec.container import CorruptError
from codec.entropy import selftest, tables
from codec.entropy.coder import LIMIT, Coder, Decoder, Encoder, code_laplace, continuations
from codec.entropy.layers import Integers, Whole
from codec.runtime import pieces, shared

ROWS, CELLS = 8, 256  # that a thread computes at least
SURE = 0  # scale index up to which a symbol whose mean rounds to zero is zero

Symbols = NDArray[np.int32]
Activations = NDArray[np.int16]
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
    if not coder.exhausted or np.abs(symbols).max() > LIMIT:
        raise CorruptError("the latent does not end where its stream does: the file is damaged; get it again")
    return symbols


def decode_beginning(
    prior: Conditioned, stream: bytes, height: int, width: int, *, spacing: int = 1
) -> tuple[Symbols, NDArray[np.bool_]]:
    """Symbols (height, width, channels) of the beginning of a stream, and where (height, width) it decides them all.

    Those that it does not decide are what is expected.

    Raises:
        RuntimeError: this machine decodes wrongly.
    """
    selftest.check()
    coding = LatentCoding(continuations(stream), prior, height, width, spacing=spacing)
    return coding.run(), coding.known


def bytes_by_scale(prior: Conditioned, stream: bytes, height: int, width: int) -> dict[int, int]:
    """Bytes that the positions of each scale take in a stream, by the distance between these.

    Raises:
        CorruptError: it is no stream of such a latent.
    """
    symbols, coder, found = decode(prior, stream, height, width), Encoder(), dict[int, int]()
    for stride in LatentCoding([coder], prior, height, width, symbols.astype(np.float32)).scales():
        found[stride] = len(coder.finish()) - sum(found.values())
    return found


class LatentCoding:
    """Coding of one latent, once.

    Args:
        coders: an encoder or a decoder; or two decoders of the least and the greatest continuation of a truncated
            stream: symbols are known as long as both agree, and after that those that are expected.
        latent: (height, width, channels), what to encode, in symbols that are not rounded yet; None to decode.
        spacing: distance of the latent's positions in the picture's own latent: networks are those of halvings in which
            positions are about as far apart, as far as there are any.
        trade: as of `encode`.

    Attributes:
        known: (height, width), where all symbols are coded, after `run`.
    """

    def __init__(
        self, coders: Sequence[Coder], prior: Conditioned, height: int, width: int,
        latent: NDArray[np.float32] | None = None, spacing: int = 1, trade: Trade | None = None,
    ) -> None:  # fmt: skip
        self._coders, self._prior, self._latent, self._trade = list(coders), prior, latent, trade
        self._level = spacing.bit_length() - 1
        channels = prior.prior.channels
        self._symbols = np.zeros((height, width, channels), np.int32)
        self._activations = np.zeros((height, width, channels), np.int16)
        self.known = np.zeros((height, width), bool)

    def run(self) -> Symbols:
        """The latent (height, width, channels), rounded; that of an encoder is what a decoder gets."""
        for _ in self.scales():
            pass
        return self._symbols

    def scales(self) -> Iterator[int]:
        """Code it scale by scale; after each, yield how many positions are between those that are known by then."""
        halvings = self._prior.prior.preset.halvings
        self._first(1 << halvings)
        yield 1 << halvings
        for halving in reversed(range(halvings)):
            self._refine(halving)
            yield 1 << halving

    def _first(self, stride: int) -> None:
        """Code what is left after all halvings."""
        place = np.s_[::stride, ::stride]
        rows, columns, channels = self._symbols[place].shape
        mean, scale = (np.broadcast_to(x, (rows * columns, channels)) for x in self._prior.first())
        row, column = np.nonzero(np.ones((rows, columns)))
        self._code(place, (row, column), slice(None), mean, scale)

    def _refine(self, halving: int) -> None:
        """Code the positions that are missing at a halving."""
        stride = 1 << halving
        level = min(halving + self._level, self._prior.prior.preset.halvings - 1)
        first = self._activations[:: 2 * stride, :: 2 * stride]
        known = [first]
        for offset, (row, column) in enumerate(OFFSETS):
            place = np.s_[row * stride :: 2 * stride, column * stride :: 2 * stride]
            current = self._activations[place]
            rows, columns = current.shape[:2]
            if current.size:
                for phase, own in self._phases(level, current, first):
                    for band in bands(rows, columns):
                        self._code_band(level, offset, place, band, [*known, *own], phase)
            complete = first.copy()  # where the picture ends in a cell, its first position stands for those that lack
            complete[:rows, :columns] = current
            known.append(complete)

    def _phases(
        self, halving: int, current: Activations, first: Activations
    ) -> Iterator[tuple[NDArray[np.bool_], list[Activations]]]:
        """Cells of each phase, and what networks are told of those before: their activations, and which they are."""
        preset, (rows, columns) = self._prior.prior.preset, current.shape[:2]
        own, before = np.zeros_like(first), np.zeros_like(first[:, :, :1])
        for phase in phase_masks(preset.phases[halving], rows, columns):
            yield phase, [own.copy(), SCALE * before] if preset.phased else []
            own[:rows, :columns][phase] = current[phase]
            before[:rows, :columns][phase] = 1

    def _code_band(
        self, halving: int, offset: int, place: tuple[slice, slice], band: slice, known: list[Activations],
        phase: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        def contexts(piece: slice) -> Whole:
            start, stop = band.start + piece.start, band.start + piece.stop
            halo = slice(max(0, start - BLOCKS), stop + BLOCKS)
            inputs = np.concatenate([grid[halo] for grid in known], -1).astype(np.float32)
            return self._prior.context(halving, offset, inputs)[start - halo.start :][: stop - start]

        inside = phase[band]
        row, column = np.nonzero(inside)
        context = np.concatenate(shared(contexts, pieces(len(inside), ROWS)))[row, column]
        cells = row + band.start, column
        for group, channels in enumerate(self._prior.prior.groups):
            earlier = self._activations[place][*cells, : channels.start].astype(np.float32)

            def distributions(piece: slice, group: int = group, earlier: Whole = earlier) -> tuple[Integers, Integers]:
                return self._prior.distributions(halving, offset, group, context[piece], earlier[piece])

            found = shared(distributions, pieces(len(context), CELLS))
            self._code(place, cells, channels, *map(np.concatenate, zip(*found, strict=True)))

    def _code(
        self, place: tuple[slice, slice], cells: Cells, channels: slice,
        mean: Integers, scale: Integers,
    ) -> None:  # fmt: skip
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
        symbols = ((mean + tables.FRACTIONS // 2) // tables.FRACTIONS).astype(np.int32)
        width = np.where((scale > SURE) | (symbols != 0), tables.half_width_index()[scale], -1)
        for found in range(len(tables.HALF_WIDTHS)):
            chosen = np.flatnonzero(width == found)
            if self._coders and len(chosen):
                coded = None if told is None else np.rint(told.ravel()[chosen]).clip(-LIMIT, LIMIT).astype(np.int32)
                symbols[chosen] = self._decided(coded, mean[chosen], scale[chosen], symbols[chosen])
        return symbols.reshape(shape)

    def _decided(self, told: Symbols | None, mean: Integers, scale: Integers, expected: Symbols) -> Symbols:
        """Code symbols; from the first on in which decoders differ, there are expected ones."""
        found = [code_laplace(coder, told, mean, scale) for coder in self._coders]
        differ = found[0] != found[-1]
        if not differ.any():
            return found[0]
        self._coders = []
        known = np.arange(len(differ)) < differ.argmax()
        return np.where(known, found[0], expected)


def _traded(told: NDArray[np.float32], mean: Integers, scale: Integers, trade: Trade) -> NDArray[np.float32]:
    """Symbols (n, channels) that cost least, squared error and bits, of those between the nearest and the likeliest.

    Args:
        trade: (n, channels), squared error that a bit is worth; where it is 0, symbols are the nearest ones.
    """
    best, centre = np.rint(told), np.floor((mean + tables.FRACTIONS // 2) / tables.FRACTIONS).astype(np.float32)
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
    spread = np.exp((tables.LOG_SCALE_MIN_EIGHTHS + scale) / tables.LOG_SCALE_FRACTIONS)
    # Away from the mean, each further one costs as many bits: a parabola and a line, of which this is the least.
    off = told - mean / tables.FRACTIONS
    drawn = np.sign(off) * np.maximum(0, np.abs(off) - trade / (2 * math.log(2) * spread))
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
