"""Symbols under categorical distributions: tables against Python's whole numbers, and streams against the other reader.

`codec.entropy.tables.softmax` and `codec.entropy.coder.code_categorical`.
"""

from __future__ import annotations

import tracemalloc
from decimal import Decimal, localcontext
from operator import itemgetter

import numpy as np
import pytest
import reader
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.container import CorruptError
from codec.entropy import tables
from codec.entropy.coder import Decoder, Encoder, code_categorical, code_laplace

Logits = NDArray[np.signedinteger]
LIMITS: dict[type[np.signedinteger], int] = {
    np.int8: 127,
    np.int16: 2**15 - 1,
    np.int32: 2**31 - 1,
    np.int64: 2**62 - 1,
}


@st.composite
def logits(draw: st.DrawFn) -> Logits:
    """Logits of any type, near each other or as far away as they can be."""
    dtype, limit = draw(st.sampled_from(sorted(LIMITS.items(), key=itemgetter(1))))
    number = st.integers(-9, 9) | st.integers(-limit, limit) | st.sampled_from((-limit, limit))
    near = st.integers(-min(limit, 1200), min(limit, 1200))
    count, categories = draw(st.integers(0, 6)), draw(st.integers(2, 40))
    row = st.lists(draw(st.sampled_from((number, near))), min_size=categories, max_size=categories)
    return np.array(draw(st.lists(row, min_size=count, max_size=count)), dtype).reshape(count, categories)


@st.composite
def runs(draw: st.DrawFn) -> tuple[NDArray[np.int32], Logits]:
    of = draw(logits())
    symbols = draw(st.lists(st.integers(0, of.shape[1] - 1), min_size=len(of), max_size=len(of)))
    return np.array(symbols, np.int32), of


def frequencies(row: list[int]) -> list[int]:
    """Frequencies by the specification, with nothing but Python's integers."""
    weights = [reader.exponential(max(x - max(row), -2000), 64) * 2**24 >> 96 for x in row]
    room = 2**24 - len(row)
    ratio = 2**29 * room // sum(weights)
    counts = [w * ratio // 2**29 for w in weights]
    counts[row.index(max(row))] += room - sum(counts)
    return [c + 1 for c in counts]


def encoded(symbols: NDArray[np.int32], of: Logits) -> bytes:
    encoder = Encoder()
    assert code_categorical(encoder, symbols, of).tolist() == symbols.tolist()
    return encoder.finish()


# Tables


def test_exponentials() -> None:
    with localcontext(prec=40):
        exact = [int((Decimal(-i) / 64).exp() * 2**24) for i in range(1066)]
    assert tables.exponentials().tolist() == exact
    assert exact[-2:] == [1, 0]


@settings(deadline=None)
@given(logits())
def test_tables_are_those_of_whole_numbers(of: Logits) -> None:
    expected = [frequencies(row) for row in of.tolist()]
    assert (tables.softmax(of) + 1).astype(np.int64).tolist() == expected
    assert all(sum(row) == tables.TOTAL for row in expected)


@pytest.mark.parametrize("categories", [2, 3, 1024, tables.MAX_CATEGORIES])
@pytest.mark.parametrize("spread", [0, 30, 300, 3000, 2**40])
def test_tables_are_softmax(categories: int, spread: int) -> None:
    """All sums are exact, and what rounding costs is little."""
    of = np.random.default_rng(0).integers(-spread, spread + 1, (20, categories))
    counts = tables.softmax(of)
    assert (counts == np.rint(counts)).all()
    assert (counts >= 0).all()
    assert (counts.sum(1) + categories == tables.TOTAL).all()
    exact = np.exp((of - of.max(1, keepdims=True)) / 64)
    exact /= exact.sum(1, keepdims=True)
    lost = (exact * np.log2(np.maximum(exact, 1e-300) * tables.TOTAL / (counts + 1))).sum(1)
    assert lost.max() < 3 * categories / tables.TOTAL


@given(logits(), st.integers(-1000, 1000))
@settings(deadline=None)
def test_only_differences_count(of: Logits, by: int) -> None:
    np.testing.assert_array_equal(tables.softmax(of), tables.softmax(of.astype(np.int64) + by))


# Streams


@settings(deadline=None)
@given(runs())
def test_round_trip(run: tuple[NDArray[np.int32], Logits]) -> None:
    symbols, of = run
    data = encoded(symbols, of)
    decoder, stream = Decoder(data), reader.Stream(data)
    assert code_categorical(decoder, None, of).tolist() == symbols.tolist()
    assert decoder.exhausted
    counts = (tables.softmax(of) + 1).astype(np.int64).tolist()
    assert [stream.symbol(row) for row in counts] == symbols.tolist()
    stream.end()


@settings(deadline=None)
@given(st.binary(max_size=40), logits())
def test_any_bytes_give_symbols_or_a_clear_error(data: bytes, of: Logits) -> None:
    decoder, stream = Decoder(data), reader.Stream(data)
    try:
        expected = [stream.symbol(row) for row in (tables.softmax(of) + 1).astype(np.int64).tolist()]
    except reader.DamagedError:
        with pytest.raises(CorruptError, match="damaged"):
            code_categorical(decoder, None, of)
        lenient = code_categorical(Decoder(data, instead=0), None, of)
        assert ((lenient >= 0) & (lenient < of.shape[1])).all()
        return
    assert code_categorical(decoder, None, of).tolist() == expected


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_streams(damage: str) -> None:
    generator = np.random.default_rng(0)
    of = generator.integers(-300, 300, (3000, 50))
    symbols = generator.integers(0, 50, 3000).astype(np.int32)
    data = encoded(symbols, of)
    damaged = {"truncated": data[:999], "flipped": data[:500] + bytes([data[500] ^ 4]) + data[501:], "empty": b""}
    found = code_categorical(Decoder(damaged[damage], instead=0), None, of)
    assert found.shape == (3000,)
    assert ((found >= 0) & (found < 50)).all()
    assert (found != symbols).any()


def test_runs_share_a_stream() -> None:
    """With others, and however they are divided."""
    generator = np.random.default_rng(0)
    of, symbols = generator.integers(-99, 99, (500, 1000)), generator.integers(0, 1000, 500).astype(np.int32)
    values, mean, scale = np.arange(9, dtype=np.int32), np.zeros(9, np.int64), np.full(9, 30)
    streams = []
    for parts in (1, 7, 500):
        encoder = Encoder()
        code_laplace(encoder, values, mean, scale)
        for told, part in zip(np.array_split(symbols, parts), np.array_split(of, parts), strict=True):
            code_categorical(encoder, told, part)
        encoder.uniform(77, 9)
        streams.append(encoder.finish())
    assert streams[0] == streams[1] == streams[2]
    decoder = Decoder(streams[0])
    assert code_laplace(decoder, None, mean, scale).tolist() == values.tolist()
    assert code_categorical(decoder, None, of).tolist() == symbols.tolist()
    assert decoder.uniform(0, 9) == 77
    assert decoder.exhausted


def test_cost_is_the_entropy() -> None:
    generator = np.random.default_rng(0)
    of = np.rint(64 * generator.normal(0, 2, (4000, 256))).astype(np.int32)
    symbols = (of / 64 + generator.gumbel(size=of.shape)).argmax(1).astype(np.int32)
    probability = np.exp(of / 64 - np.log(np.exp(of / 64).sum(1, keepdims=True)))
    ideal = -np.log2(probability[np.arange(4000), symbols]).sum()
    assert abs(8 * len(encoded(symbols, of)) - ideal) < 0.0005 * ideal + 64


def test_long_runs_take_little_memory() -> None:
    """Tables of all symbols of this run at once would take 256 MB."""
    of = np.zeros((1, 1024), np.int8).repeat(2**15, 0)
    symbols = (np.arange(len(of)) % 1024).astype(np.int32)
    tracemalloc.start()
    decoded = code_categorical(Decoder(encoded(symbols, of)), None, of)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(decoded, symbols)
    assert peak < 2**23


@pytest.mark.parametrize(
    ("of", "symbols", "message"),
    [
        (np.zeros((1, 1), int), [0], "of 2 to 16384 categories: these are int64, of 1"),
        (np.zeros((1, 16385), int), [0], "of 2 to 16384 categories: these are int64, of 16385"),
        (np.zeros((1, 3)), [0], "signed whole numbers, .* these are float64"),
        (np.zeros((1, 3), np.uint8), [0], "signed whole numbers, .* these are uint8"),
        (np.zeros((2, 3), int), [0, 3], "symbols must be 0 to 2, not 0 to 3"),
        (np.zeros((2, 3), int), [-1, 2], "symbols must be 0 to 2, not -1 to 2"),
        (np.zeros((2, 3), int), [0], "1 symbols for the logits of 2"),
    ],
)
def test_wrong_arguments(of: Logits, symbols: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        code_categorical(Encoder(), np.array(symbols, np.int32), of)
