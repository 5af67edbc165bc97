"""Integer tables, the range coder, the integer probability model and the coding order, each against a plain one."""

from __future__ import annotations

import hashlib
import re
import tracemalloc
from collections.abc import Callable
from copy import copy
from dataclasses import fields
from decimal import Decimal, localcontext
from itertools import compress
from pathlib import Path

import numpy as np
import pytest
import reader
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import codec
from codec.container import CorruptError
from codec.entropy import selftest, tables
from codec.entropy.coder import LIMIT, Decoder, Encoder, code_laplace
from codec.entropy.integer_arm import MAX_CONTEXTS, WEIGHT_BITS, WEIGHT_LIMIT, IntegerARM
from codec.entropy.wavefront import code_planes
from codec.overfit import arm
from codec.overfit.spec import SPATIAL_CONTEXTS, Spec

FORMAT_MD = Path(__file__).parent.parent / "docs" / "FORMAT.md"
BOUND = WEIGHT_LIMIT - 1
Whole = NDArray[np.float64]

widths = st.integers(0, len(tables.HALF_WIDTHS) - 1)
seeds = st.integers(0, 2**32)


def numbers(count: int, limit: int) -> st.SearchStrategy[list[int]]:
    """Small numbers, any numbers and the extremes."""
    one = st.integers(-9, 9) | st.integers(-limit, limit) | st.sampled_from((-limit, limit))
    return st.lists(one, min_size=count, max_size=count)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Values, means and scales."""
    count = draw(st.integers(1, 40))
    scales = st.lists(st.integers(0, draw(st.integers(0, 63))), min_size=count, max_size=count)
    return draw(numbers(count, LIMIT)), draw(numbers(count, 16 * LIMIT)), draw(scales)


def encoded(values: list[int], means: list[int], scales: list[int]) -> bytes:
    encoder = Encoder()
    code_laplace(encoder, np.array(values, np.int32), np.array(means), np.array(scales))
    return encoder.finish()


# Tables


@given(st.integers(-(10**6), 10**5), st.integers(1, 10**4))
def test_exponential(numerator: int, denominator: int) -> None:
    assume(abs(numerator) < 40 * denominator)
    with localcontext(prec=60):
        exact = (Decimal(numerator) / denominator).exp() * 2**96
        error = abs(tables.exp_fixed(numerator, denominator) - exact)
        assert error <= 2 + exact * Decimal(2) ** -89


@pytest.mark.parametrize("width", range(len(tables.HALF_WIDTHS)))
def test_tables_are_laplace_distributions(width: int) -> None:
    counts = tables.counts(width)
    k = tables.HALF_WIDTHS[width]
    assert (counts >= 0).all()
    assert (counts == np.rint(counts)).all()
    assert (counts.sum(-1) + 2 * k + 2 == tables.TOTAL).all()
    scale = np.exp((np.arange(len(counts)) + tables.LOG_SCALE_MIN_EIGHTHS) / 8)[:, None, None]
    mean = (np.arange(tables.FRACTIONS) - 8)[:, None] / 16
    edges = (np.arange(-k - 1, k + 1) + 0.5 - mean) / scale
    cumulative = np.where(edges < 0, np.exp(-np.abs(edges)) / 2, 1 - np.exp(-np.abs(edges)) / 2)
    escape = 1 - (cumulative[..., -1:] - cumulative[..., :1])
    exact = np.concatenate([np.diff(cumulative), escape], -1)
    error = np.abs(counts / (tables.TOTAL - 2 * k - 2) - exact)
    assert error[..., k].max() < (2 * k + 2) / tables.TOTAL  # where what rounding down leaves goes
    error[..., k] = 0
    assert error.max() < 2.0**-20


@given(widths, st.data())
def test_tables_are_those_of_the_specification(width: int, data: st.DataObject) -> None:
    counts = tables.counts(width)
    scale, j = data.draw(st.integers(0, len(counts) - 1)), data.draw(st.integers(0, tables.FRACTIONS - 1))
    assert (counts[scale, j] + 1).tolist() == reader.frequencies(tables.HALF_WIDTHS[width], scale, j)


def test_specification_has_the_hash_of_the_tables() -> None:
    digest = hashlib.sha256()
    for width in range(len(tables.HALF_WIDTHS)):
        digest.update((tables.counts(width) + 1).astype("<u4").tobytes())
    [stated] = re.findall(r"<!-- tables -->\n`([0-9a-f]{64})`", FORMAT_MD.read_text())
    assert digest.hexdigest() == stated


def test_integers_decide_what_floating_point_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = tables.counts(1)
    monkeypatch.setattr(tables, "NEAR", 1.0)  # so that floating point is never sure
    np.testing.assert_array_equal(tables.counts.__wrapped__(1), counts)


def test_half_widths() -> None:
    chosen = [tables.HALF_WIDTHS[i] for i in tables.half_width_index()]
    assert chosen == [reader.half_width(scale) for scale in range(tables.SCALES)]
    assert chosen == sorted(chosen)


# Range coder


@given(runs())
def test_laplace_round_trip(run: tuple[list[int], list[int], list[int]]) -> None:
    values, means, scales = run
    data = encoded(*run)
    decoder = Decoder(data)
    assert code_laplace(decoder, None, np.array(means), np.array(scales)).tolist() == values
    assert decoder.exhausted
    stream = reader.Stream(data)
    assert stream.run(means, scales) == values
    stream.end()


@given(st.lists(st.integers(1, 16).flatmap(lambda n: st.tuples(st.integers(0, 2**n - 1), st.just(n)))))
def test_raw_bits_round_trip(pairs: list[tuple[int, int]]) -> None:
    encoder = Encoder()
    for number, bits in pairs:
        encoder.uniform(number, bits)
    data = encoder.finish()
    decoder, stream = Decoder(data), reader.Stream(data)
    for number, bits in pairs:
        assert decoder.uniform(0, bits) == number
        assert stream.bits(bits) == number
    assert decoder.exhausted
    stream.end()
    assert len(data) <= sum(bits for _, bits in pairs) / 8 + 5


@given(st.binary(max_size=40), runs())
def test_readers_agree_on_any_bytes(data: bytes, run: tuple[list[int], list[int], list[int]]) -> None:
    _, means, scales = run
    decoder, stream = Decoder(data), reader.Stream(data)
    try:
        expected = stream.run(means, scales)
    except reader.DamagedError:
        with pytest.raises(CorruptError, match="damaged"):
            code_laplace(decoder, None, np.array(means), np.array(scales))
        return
    assert code_laplace(decoder, None, np.array(means), np.array(scales)).tolist() == expected
    left = False
    try:
        stream.end()
    except reader.DamagedError:
        left = True
    assert decoder.exhausted != left


def test_long_runs_take_little_memory() -> None:
    """Tables of all numbers of this run at once would take 256 MB. It is longer than a block, and has escapes."""
    values = np.full(2**16, 3, np.int32)
    values[::5000] = 9000
    mean, scale = np.zeros(len(values), np.int64), np.full(len(values), tables.SCALES - 1)
    tables.counts(len(tables.HALF_WIDTHS) - 1)
    tracemalloc.start()
    encoder = Encoder()
    code_laplace(encoder, values, mean, scale)
    decoded = code_laplace(Decoder(encoder.finish()), None, mean, scale)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(decoded, values)
    assert peak < 2**26


def test_carries_and_long_streams() -> None:
    """Probable symbols for long, then improbable ones: the coder's interval straddles many words."""
    generator = np.random.default_rng(0)
    values = np.where(generator.random(20000) < 0.003, generator.integers(-LIMIT, LIMIT, 20000), 0).tolist()
    means, scales = [0] * len(values), [0] * len(values)
    assert reader.Stream(encoded(values, means, scales)).run(means, scales) == values


@settings(max_examples=20)
@given(st.integers(0, 50), st.integers(0, 15), seeds)
def test_cost_is_near_the_entropy(scale: int, fraction: int, seed: int) -> None:
    b, mean = np.exp((scale - 24) / 8), (fraction - 8) / 16
    values = np.rint(np.random.default_rng(seed).laplace(mean, b, 4000))
    low, high = (values - 0.5 - mean) / b, (values + 0.5 - mean) / b
    inside = 1 - (np.exp(-np.abs(low)) + np.exp(-np.abs(high))) / 2
    beside = np.abs(np.exp(-np.abs(low)) - np.exp(-np.abs(high))) / 2
    ideal = -np.log2(np.where(low * high < 0, inside, beside) + 2.0**-24).sum()
    data = encoded(values.astype(int).tolist(), [fraction - 8] * 4000, [scale] * 4000)
    assert -8 < 8 * len(data) - ideal < 0.01 * ideal + 64


# The integer probability model


def integer_reference(weights: list[Whole], contexts: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """The specification's formulas in int64, one sample at a time."""
    a1, b1, a2, b2, o, s, b3 = (w.astype(np.int64) for w in weights)
    means, scales = [], []
    for c in contexts.T:
        u = np.clip((c << 12) + a1 @ c + b1, 0, 2**27)
        v = np.clip(u + ((a2 @ u + (b2 << 12)) >> 12), 0, 2**27)
        w = o @ v + (s @ c << 12) + (b3 << 12)
        means.append(int(np.clip((w[0] + 2**19) >> 20, -16 * LIMIT, 16 * LIMIT)))
        scales.append(int(np.clip(((w[1] + 2**20) >> 21) + 24, 0, 63)))
    return means, scales


def draw_weights(generator: np.random.Generator, contexts: int, spread: float) -> list[Whole]:
    """Weights whose magnitudes are spread over so many powers of ten, some at the bounds."""
    shapes = [(contexts, contexts), (contexts,)] * 2 + [(2, contexts)] * 2 + [(2,)]
    weights = []
    for shape in shapes:
        size = 10 ** -generator.uniform(0, spread, shape) if spread else np.ones(shape)
        weights.append(np.rint(BOUND * size * generator.choice((-1, 1), shape)))
    return weights


@given(st.integers(1, MAX_CONTEXTS), st.sampled_from((0.0, 1.0, 3.0, 6.0)), seeds)
def test_model_is_exact(contexts: int, spread: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = draw_weights(generator, contexts, spread)
    limits = generator.choice((1, 8, 200, LIMIT), (contexts, 1))
    samples = np.concatenate([generator.integers(-limits, limits + 1, (contexts, 9)), limits, -limits], 1)
    mean, scale = IntegerARM(*(w[None] for w in weights))(samples.astype(np.float64)[None])
    assert (mean[0].tolist(), scale[0].tolist()) == integer_reference(weights, samples)


@pytest.mark.parametrize("sign", [-1, 1])
def test_model_is_exact_at_all_bounds_at_once(sign: int) -> None:
    """The greatest sums that there can be, and odd ones, in which float64 would lose the last bit first."""
    full = np.full((MAX_CONTEXTS, MAX_CONTEXTS), float(BOUND))
    bias, output = full[0], sign * full[:2]
    weights = [full, bias, full, bias, output, output, output[:, 0]]
    samples = np.array([[LIMIT], [LIMIT - 1], [-LIMIT], [1]]).repeat(MAX_CONTEXTS, 1).T
    mean, scale = IntegerARM(*(w[None] for w in weights))(samples.astype(np.float64)[None])
    assert (mean[0].tolist(), scale[0].tolist()) == integer_reference(weights, samples)
    second = (MAX_CONTEXTS * BOUND + 2**12) * 2**27 + (BOUND << 12)
    output_sum = MAX_CONTEXTS * BOUND * 2**27 + ((MAX_CONTEXTS * BOUND * LIMIT + BOUND) << 12)
    assert max(second, output_sum) < 2**53


@settings(max_examples=20)
@given(seeds)
def test_model_is_near_the_one_that_is_fitted(seed: int) -> None:
    generator = np.random.default_rng(seed)
    spec = Spec(9, 7, 3, (1,), spatial=14, references=2)
    shapes = [spec.weight_shapes[name] for name in arm.WEIGHTS[:-1]]
    whole = [np.rint(generator.normal(size=s) * 2**WEIGHT_BITS * 0.2) for s in shapes] + [np.array([100.0, -4000.0])]
    values = np.rint(generator.laplace(0, 2, (9, 7)))
    floats = [torch.from_numpy(w / 2**WEIGHT_BITS)[None] for w in whole]
    floats[-1] = floats[-1].unsqueeze(2)
    [pieces] = arm._blocks(spec, 1, torch.device("cpu"))
    block = arm._Block(pieces, arm._padded([torch.from_numpy(values)[None, None]]), floats, spec)
    [mean], [scale] = IntegerARM(*(w[None] for w in whole))(block.inputs.numpy())
    output = block.output[0].numpy()
    assert np.abs(mean / 16 - output[0]).max() <= 1 / 32 + 0.01
    log_scale = np.clip(output[1], arm.LOG_SCALE_MIN, arm.LOG_SCALE_MAX)
    assert np.abs((scale + tables.LOG_SCALE_MIN_EIGHTHS) / 8 - log_scale).max() <= 1 / 16 + 0.01


# Coding order


class Recorder:
    """A model that keeps the contexts it is asked about, and says something that depends on all of them."""

    def __init__(self) -> None:
        self.seen: list[list[list[float]]] = []

    def __call__(self, contexts: Whole) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        self.seen.append(contexts.tolist())
        mixed = (contexts.astype(np.int64) * np.arange(1, contexts.shape[1] + 1)[:, None]).sum(1)
        mixed += np.arange(len(contexts))[:, None]
        return mixed % 97 - 48, np.abs(mixed) % 31


@st.composite
def groups(draw: st.DrawFn) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_], int]:
    """Known planes, planes to be coded, which of these are, and the number of spatial contexts."""
    shape = draw(
        st.tuples(st.integers(1, 12), st.integers(1, 12)) | st.sampled_from(((1, 60), (60, 1), (2, 1), (1, 1)))
    )
    generator = np.random.default_rng(draw(seeds))
    known, count = draw(st.integers(0, 4)), draw(st.integers(1, 4))
    planes = np.rint(generator.laplace(0, 3, (known + count, *shape))).astype(np.int32)
    coded = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    planes[known:][~coded] = 0
    return planes[:known], planes[known:], coded, draw(st.integers(1, len(SPATIAL_CONTEXTS)))


@given(groups())
def test_wavefront(drawn: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_], int]) -> None:
    known, values, coded, spatial = drawn
    offsets = SPATIAL_CONTEXTS[:spatial]
    recorder, encoder = Recorder(), Encoder()
    shape = values.shape[1], values.shape[2]
    told = [(plane, 0) if plane.any() else None for plane in known]
    written = code_planes(encoder, told, values, coded, recorder, offsets, shape)
    np.testing.assert_array_equal(written, values)
    decoder, again = Decoder(encoder.finish()), Recorder()
    read = code_planes(decoder, told, None, coded, again, offsets, shape)
    np.testing.assert_array_equal(read, values)
    assert decoder.exhausted
    assert recorder.seen == again.seen  # a context that were not known in time would be zero here

    everything = np.concatenate([known, values])
    count, height, width = values.shape
    waves: dict[int, list[list[list[float]]]] = {}
    for k, y, x in np.ndindex(count, height, width):
        places = [(y + dy, x + dx) for dy, dx in offsets]
        near = [float(values[k, *p]) if p[0] >= 0 and 0 <= p[1] < width else 0.0 for p in places]
        before = [float(everything[len(known) + k - 1 - i, y, x]) for i in range(len(known))]
        if coded[k]:
            waves.setdefault(x + 2 * y + k, [[] for _ in range(count)])[k].append(near + before)
    assert len(recorder.seen) == len(waves)
    for seen, (_, expected) in zip(recorder.seen, sorted(waves.items()), strict=True):
        for contexts, wanted in zip(seen, compress(expected, coded), strict=True):
            columns = [list(column) for column in zip(*contexts, strict=True)]
            assert all(column in columns for column in wanted)


def test_contexts_are_causal_and_in_earlier_waves() -> None:
    assert len(set(SPATIAL_CONTEXTS)) == len(SPATIAL_CONTEXTS)
    assert all(dy <= 0 and (dy < 0 or dx < 0) and dx + 2 * dy < 0 for dy, dx in SPATIAL_CONTEXTS)
    assert reader.CONTEXTS == SPATIAL_CONTEXTS
    listed = FORMAT_MD.read_text().split("<!-- contexts -->")[1].split("```")[1]
    assert [(int(dy), int(dx)) for dy, dx in re.findall(r"\((-?\d+), (-?\d+)\)", listed)] == list(SPATIAL_CONTEXTS)


def test_tall_planes_take_little_memory() -> None:
    shape = (2500, 3)
    values = np.ones((1, *shape), np.int32)
    tracemalloc.start()
    model = IntegerARM(*(np.zeros((1, *s)) for s in ((4, 4), (4,), (4, 4), (4,), (2, 4), (2, 4), (2,))))
    code_planes(Encoder(), [], values, np.array([True]), model, SPATIAL_CONTEXTS[:4], shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * values.size * 4 + 2**24


# The check at the first decode


def of_range_coder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Decoder, "uniform", lambda decoder, symbol, bits: 0)


def of_tables(patch: pytest.MonkeyPatch) -> None:
    counts = tables.counts(0) + np.arange(16) % 2 - 0.5
    patch.setattr(tables, "counts", lambda width: np.floor(counts))


def of_sums(patch: pytest.MonkeyPatch) -> None:
    """As if products were computed in a lower precision."""
    call = IntegerARM.__call__

    def rounded(model: IntegerARM, contexts: Whole) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        low = {f.name: getattr(model, f.name).astype(np.float32) for f in fields(model)}
        other = copy(model)
        for name, weights in low.items():
            object.__setattr__(other, name, weights)
        return call(other, contexts.astype(np.float32))

    patch.setattr(IntegerARM, "__call__", rounded)


@pytest.mark.parametrize("spoil", [of_range_coder, of_tables, of_sums])
def test_machines_that_decode_wrongly_say_so(
    spoil: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (FORMAT_MD.parents[1] / "tests" / "golden" / "rgb.clric").read_bytes()
    selftest.check.cache_clear()
    with monkeypatch.context() as patch:
        spoil(patch)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="this machine decodes numbers wrongly"):
                codec.decode(data, device="cpu")
    codec.decode(data, device="cpu")
    assert selftest.check.cache_info().misses == 3  # once it is right, that is enough
    codec.decode(data, device="cpu")
    assert selftest.check.cache_info().misses == 3
