"""The overfitted function: gradients, synthesis, the fit, quantisation, and its bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import reader
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import codec
from codec.container import CorruptError, FormatError, LimitError, Section, UnsupportedError, unpack
from codec.entropy.arm import WEIGHT_BITS, WEIGHT_LIMIT
from codec.entropy.coder import LIMIT, Encoder
from codec.overfit import arm, bases, bitstream, blocks, fit, initial, synthesis
from codec.overfit.bitstream import QuantisedWeight, QuantisedWeights
from codec.overfit.fit import Function, Schedule
from codec.overfit.function import BICUBIC, Spec
from codec.overfit.quantise import as_tensors, dequantise, quantise

SAMPLES = Path(__file__).parent.parent / "samples"
SMALL = Spec(5, 4, 2, features=(2, 1, 1), spatial=3, references=2, hidden=3, residuals=2)
CPU = torch.device("cpu")


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """A crop of the astronaut's face."""
    with Image.open(SAMPLES / "astronaut.png") as image:
        return np.asarray(image.convert("RGB"))[60 : 60 + height, 180 : 180 + width]


def target_of(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.float32(pixels) / 255).permute(2, 0, 1).unsqueeze(0)


def example(spec: Spec, batch: int = 2, dtype: torch.dtype = torch.float64) -> Function:
    """Random functions with modest weights, so that scales are well within their bounds."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=dtype)

    weights = {name: 0.2 * normal(*shape) for name, shape in spec.weight_shapes.items()}
    weights["upsampling.taps"] += torch.tensor(BICUBIC)
    return Function(spec, weights, [2 * normal(n, *size) for n, size in zip(spec.features, spec.sizes, strict=True)])


def check_gradients(of: Callable[[Function], Tensor], function: Function) -> None:
    """Hold the gradients of a quantity in all grids and weights against differences."""
    levels, names = len(function.grids), list(function.weights)

    def from_tensors(*tensors: Tensor) -> Tensor:
        return of(Function(function.spec, dict(zip(names, tensors[levels:], strict=True)), list(tensors[:levels])))

    tensors = [t.requires_grad_() for t in (*function.grids, *function.weights.values())]
    assert torch.autograd.gradcheck(from_tensors, tensors, fast_mode=False)


# Rate and distortion


@pytest.mark.parametrize("references", [0, 2, 5])
def test_gradients_of_rate(references: int) -> None:
    spec = Spec(5, 4, 2, features=(2, 1, 1), spatial=3, references=references, hidden=1, residuals=0)
    check_gradients(lambda f: arm.rate(f.grids, f.weights, spec), example(spec))


@pytest.mark.parametrize("spec", [SMALL, Spec(3, 5, 1, features=(1,), spatial=1, references=0, hidden=2, residuals=0)])
def test_gradients_of_squared_error(spec: Spec) -> None:
    target = torch.rand(2, spec.outputs, spec.height, spec.width, dtype=torch.float64)
    check_gradients(lambda f: synthesis.squared_error(f.grids, f.weights, spec, target), example(spec))


def test_rate_is_that_of_laplace_distributions() -> None:
    """Weights of zero but for the biases: every sample of a plane has the same distribution."""
    function = example(SMALL)
    weights = {name: torch.zeros_like(w) for name, w in function.weights.items()}
    weights["arm.output_bias"] = function.weights["arm.output_bias"]
    grids = [g.round() for g in function.grids]
    bits = arm.rate(grids, weights, SMALL)
    for i, plane in enumerate(SMALL.planes):
        mean, log_scale = weights["arm.output_bias"][:, :, i, None, None].unbind(1)
        distribution = torch.distributions.Laplace(mean, log_scale.exp())
        values = grids[plane.level][:, plane.feature]
        probability = distribution.cdf(values + 0.5) - distribution.cdf(values - 0.5)
        torch.testing.assert_close(bits[:, i], -torch.log2(probability + arm.FLOOR).sum((1, 2)))


@pytest.mark.parametrize("height", [1, 8, 9, 21])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, height: int) -> None:
    """Value, gradients and picture are the same when made in blocks of one row (of eight in the synthesis) or nine."""
    spec = Spec(height, 6, 2, features=(1, 2, 1), spatial=8, references=2, hidden=3, residuals=2)
    target = torch.rand(2, 2, height, 6, dtype=torch.float64)

    def everything() -> list[Tensor]:
        function = example(spec)
        tensors = [t.requires_grad_() for t in (*function.grids, *function.weights.values())]
        bits = arm.rate(function.grids, function.weights, spec)
        error = synthesis.squared_error(function.grids, function.weights, spec, target)
        gradients = torch.autograd.grad(bits.sum() + error.sum(), tensors)
        return [bits, error, *gradients, synthesis.synthesise(function.grids, function.weights, spec)]

    expected = everything()
    for rows in (1, 9):
        monkeypatch.setattr(blocks, "BLOCK", {"cpu": rows * 2 * spec.width})
        torch.testing.assert_close(everything(), expected)


def test_a_batch_is_its_parts() -> None:
    function = example(SMALL)
    target = torch.rand(2, 2, 5, 4, dtype=torch.float64)
    lambdas = torch.tensor((0.1, 0.001), dtype=torch.float64)
    whole = fit.cost(function, target, lambdas)
    picture = synthesis.synthesise(function.grids, function.weights, SMALL)
    for i in range(2):
        one = function.select(torch.tensor([i]))
        torch.testing.assert_close(fit.cost(one, target[i : i + 1], lambdas[i : i + 1]), whole[i : i + 1])
        torch.testing.assert_close(synthesis.synthesise(one.grids, one.weights, SMALL), picture[i : i + 1])


# Synthesis


def plain_synthesis(function: Function) -> Tensor:
    """Upsampling and synthesis of one function as ordinary convolutions."""
    weights = {name: w[0] for name, w in function.weights.items()}
    features = function.grids[-1]
    for level in range(len(function.grids) - 2, -1, -1):
        taps = weights["upsampling.taps"][level]
        kernels = torch.stack([F.pad(taps, (0, 1)), F.pad(taps.flip(0), (1, 0))])
        for dim in (2, 3):
            lines = features.movedim(dim, -1)
            doubled = F.conv1d(F.pad(lines.reshape(-1, 1, lines.shape[-1]), (2, 2), "replicate"), kernels[:, None])
            features = doubled.mT.reshape(*lines.shape[:-1], -1).movedim(-1, dim)
        height, width = function.grids[level].shape[2:]
        features = torch.cat([function.grids[level], features[:, :, :height, :width]], 1)
    reach = function.spec.residuals
    x = F.pad(features, (reach,) * 4, "replicate")
    x = F.conv2d(x, weights["synthesis.hidden"][:, :, None, None], weights["synthesis.hidden_bias"]).relu()
    x = F.conv2d(x, weights["synthesis.output"][:, :, None, None], weights["synthesis.output_bias"])
    for i in range(1, reach + 1):
        kernel, bias = weights[f"synthesis.residual{i}"], weights[f"synthesis.residual{i}_bias"]
        x = x[:, :, 1:-1, 1:-1] + F.conv2d(x, kernel, bias)
    return x


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (10, 1), (17, 31)])
@pytest.mark.parametrize("features", [(1,), (1, 1, 1, 1, 1, 1, 1), (2, 3, 1)])
@pytest.mark.parametrize("residuals", [0, 3])
def test_synthesis(size: tuple[int, int], features: tuple[int, ...], residuals: int) -> None:
    spec = Spec(*size, 3, features, spatial=2, references=0, hidden=5, residuals=residuals)
    function = example(spec, batch=1)
    weights = dict(reversed(function.weights.items()))  # their order means nothing
    torch.testing.assert_close(synthesis.synthesise(function.grids, weights, spec), plain_synthesis(function))


# The fit


def soften(x: Tensor, noise: Tensor, temperature: float) -> Tensor:
    soft: Tensor = fit._Soften.apply(x, noise, temperature)  # type: ignore[no-untyped-call]
    return soft


def test_soft_rounding() -> None:
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)  # with all halves
    none = torch.zeros_like(x)
    soft = {t: soften(x, none, t) for t in (100.0, 0.3, 0.01)}
    torch.testing.assert_close(soft[100.0], x, atol=1e-4, rtol=0)  # hardly any rounding
    away = (x - x.floor() - 0.5).abs() > 0.05
    torch.testing.assert_close(soft[0.01][away], x.round()[away])  # hardly anything else
    assert (soft[0.3].diff() > 0).all()
    assert ((soft[0.3] - x.round()).abs() <= (x - x.round()).abs() + 1e-9).all()
    torch.testing.assert_close(soft[0.3][::100], x[::100])  # whole numbers stay
    noise = 0.2 * torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    between = torch.linspace(-2, 2, 50, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: soften(x, noise, 0.3), between)


def test_drift() -> None:
    """Nothing at the origin, more the further away, and a gradient that leads back."""
    origin = {name: w.detach() for name, w in example(SMALL).weights.items()}
    assert fit.drift(origin, origin).tolist() == [0, 0]
    moved = {name: (w + 0.1).requires_grad_() for name, w in origin.items()}
    near = fit.drift(moved, origin)
    far = fit.drift({name: w - 0.3 for name, w in origin.items()}, origin)
    assert (far > near).all()
    assert (near > 0).all()
    count = sum(w[0].numel() for w in origin.values())
    torch.testing.assert_close(far, torch.full_like(far, count * math.log2(1 + 0.3 * 32)))
    for gradient in torch.autograd.grad(near.sum(), [*moved.values()]):
        assert (gradient > 0).all()
    at_origin = {name: w.clone().requires_grad_() for name, w in origin.items()}
    for gradient in torch.autograd.grad(fit.drift(at_origin, origin).sum(), [*at_origin.values()]):
        assert not gradient.any()  # and not NaN either


def test_fit_lowers_the_cost_of_every_target() -> None:
    target = torch.cat([target_of(photo(32, 40)), target_of(photo(64, 80)[::2, ::2])])
    lambdas = torch.tensor((0.01, 0.0005))
    candidates = initial.candidates(target, lambdas)
    ticks: list[int] = []
    schedule = Schedule(warm_up=2, main=40, settle=10)
    fitted = fit.fit(target, lambdas, candidates, schedule, torch.Generator().manual_seed(0), ticks.append)
    assert ticks == list(range(1, schedule.total + 1))
    assert all(torch.equal(g, g.round()) for g in fitted.grids)
    with torch.no_grad():
        found = fit.cost(fitted, target, lambdas)
        first = torch.stack([fit.cost(c.rounded(), target, lambdas) for c in candidates]).amin(0)
    assert (found < first).all()
    assert fit.distortion(fitted, target)[0] > fit.distortion(fitted, target)[1]  # that is what lambda is for
    assert fit.rate(fitted)[0] < fit.rate(fitted)[1]


def estimated_bytes(weights: QuantisedWeights) -> float:
    return sum(bitstream.weight_bits(w.integers)[0] for w in weights.differences.values()) / 8


def weight_bytes(spec: Spec, weights: QuantisedWeights) -> int:
    empty = [np.zeros((n, *size), np.int32) for n, size in zip(spec.features, spec.sizes, strict=True)]
    return len(bitstream.write(spec, weights, empty)[0])


@pytest.mark.parametrize("budget", [2000, 150])
def test_quantised_weights(budget: int) -> None:
    spec = Spec(12, 10, 3, features=(1, 1, 1), spatial=6, references=2, hidden=6, residuals=1)
    function = example(spec, dtype=torch.float32).rounded()
    function.weights["synthesis.output_bias"][0, 0] = 7.7  # beyond what the finest step can code
    target = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    quantised = quantise(function, target, torch.tensor((1e-3, 1e-5)), budget)
    for i, weights in enumerate(quantised):
        assert weights.base == bases.PLAIN  # no other has this shape
        estimate = estimated_bytes(weights)
        assert estimate <= budget
        assert abs(weight_bytes(spec, weights) - estimate) < 0.02 * estimate + 14  # shape, empty planes, the end
        for name, value in dequantise(spec, weights, CPU).items():
            error = (value[0] - function.weights[name][i]).abs().numpy()
            difference = weights.differences[name]
            error[np.abs(difference.integers) == bound(difference.exponent)] = 0
            assert error.max() <= 2.0**-difference.exponent / 2 * 1.001


def bound(exponent: int) -> int:
    """Of the integers that `quantise` gives."""
    return min(LIMIT, (WEIGHT_LIMIT // 2 - 1) >> (WEIGHT_BITS - exponent))


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_nearest_base_is_chosen(outputs: int) -> None:
    """Functions that have hardly moved from their bases cost next to nothing; the plain base is one of them."""
    spec = bases.trained_spec(9, 14, outputs)
    assert bases.bases_for(spec) == list(range(bases.COUNT))
    origins = [as_tensors(bases.base_weights(number, spec), CPU) for number in range(bases.COUNT)]
    weights = {name: torch.cat([origin[name] for origin in origins]) + 1e-5 for name in spec.weight_shapes}
    grids = [torch.zeros(bases.COUNT, n, *size) for n, size in zip(spec.features, spec.sizes, strict=True)]
    target = torch.rand(bases.COUNT, outputs, 9, 14, generator=torch.Generator().manual_seed(0))
    quantised = quantise(Function(spec, weights, grids), target, torch.full((bases.COUNT,), 1e-3), 860)
    assert [each.base for each in quantised] == list(range(bases.COUNT))
    for each in quantised:
        assert not any(difference.integers.any() for difference in each.differences.values())
        assert weight_bytes(spec, each) < 60


def test_candidates_are_the_bases_of_the_nearest_lambdas() -> None:
    target, lambdas = torch.rand(2, 1, 9, 14), torch.tensor((0.03, 0.0001))
    for candidate, numbers in zip(initial.candidates(target, lambdas), ((1, 5), (2, 4)), strict=True):
        for i, number in enumerate(numbers):
            base = as_tensors(bases.base_weights(number, candidate.spec), CPU)
            assert all(torch.equal(candidate.weights[name][i], w[0]) for name, w in base.items())


# Bytes


@st.composite
def functions(draw: st.DrawFn) -> tuple[Spec, QuantisedWeights, list[NDArray[np.int32]]]:
    """Small functions of any shape and base, with any weights and samples that can be coded."""
    small = st.integers(1, 3)
    size = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    spec = Spec(
        *size, features=tuple(draw(st.lists(small, min_size=1, max_size=4))), spatial=draw(st.integers(1, 24)),
        references=draw(st.integers(0, 7)), hidden=draw(small), residuals=draw(st.integers(0, 3)),
    )  # fmt: skip
    base = draw(st.just(bases.PLAIN) | st.integers(0, bases.COUNT - 1))
    if base != bases.PLAIN:
        spec = bases.trained_spec(*size)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    wild = draw(st.booleans())

    def whole(shape: tuple[int, ...], limit: int | NDArray[np.int64]) -> NDArray[np.int32]:
        spread = generator.choice((0.1, 1, 20, *((400, 1e5) if wild else ())))
        return np.clip(np.rint(generator.laplace(0, spread, shape)), -limit, limit).astype(np.int32)

    differences = {}
    origin = bases.base_weights(base, spec)
    for name, shape in spec.weight_shapes.items():
        exponent = int(generator.integers(13)) if wild else 6
        room = (WEIGHT_LIMIT - 1 - np.abs(origin[name])) >> (WEIGHT_BITS - exponent)
        differences[name] = QuantisedWeight(
            whole(shape, np.minimum(LIMIT, room) if name.startswith("arm.") else LIMIT), exponent
        )
    weights = QuantisedWeights(base, differences)
    grids = [whole((n, *size), LIMIT) for n, size in zip(spec.features, spec.sizes, strict=True)]
    grids[int(generator.integers(len(grids)))][0] = 0
    return spec, weights, grids


@settings(deadline=None)
@given(functions())
def test_round_trip(drawn: tuple[Spec, QuantisedWeights, list[NDArray[np.int32]]]) -> None:
    """What is written is read, by this reader and by another."""
    spec, weights, grids = drawn
    sections = bitstream.write(spec, weights, grids)
    shape = spec.height, spec.width, spec.outputs
    read_spec, read_weights, read_grids = bitstream.read(*sections, *shape)
    other = reader.Function(*sections, *shape)
    assert read_spec == spec
    assert read_weights.base == weights.base == other.base
    assert list(read_weights.differences) == list(weights.differences) == list(other.integers)
    for name, weight in weights.differences.items():
        read = read_weights.differences[name]
        assert read.exponent == weight.exponent == other.exponents[name]
        np.testing.assert_array_equal(read.integers, weight.integers)
        np.testing.assert_array_equal(other.integers[name], weight.integers)
    check_whole(read_weights.whole(spec), other)
    for grid, read_grid in zip(grids, read_grids, strict=True):
        np.testing.assert_array_equal(grid, read_grid)
    planes = [grids[p.level][p.feature].tolist() for p in spec.planes]
    assert planes == other.grids
    levels = [torch.from_numpy(g).double()[None] for g in read_grids]
    values = {name: torch.from_numpy(w / 2**WEIGHT_BITS)[None] for name, w in read_weights.whole(spec).items()}
    for name, w in dequantise(spec, read_weights, CPU).items():
        torch.testing.assert_close(w.double(), values[name], rtol=2.0**-24, atol=0)
    output = synthesis.synthesise(levels, values, spec)[0].numpy()
    scale = 1 + np.abs(output).max()
    np.testing.assert_allclose(output / scale, other.output() / scale, atol=1e-6)


def check_whole(whole: dict[str, NDArray[np.int64]], other: reader.Function) -> None:
    """Weights are the same whole numbers for both readers."""
    assert whole.keys() == other.whole.keys()
    for name, w in whole.items():
        assert w.dtype == np.int64
        np.testing.assert_array_equal(w, other.whole[name])


def nothing(spec: Spec) -> tuple[dict[str, QuantisedWeight], list[NDArray[np.int32]]]:
    """Differences and grids of zero."""
    differences = {name: QuantisedWeight(np.zeros(s, np.int32), WEIGHT_BITS) for name, s in spec.weight_shapes.items()}
    return differences, [np.zeros((n, *size), np.int32) for n, size in zip(spec.features, spec.sizes, strict=True)]


@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("base", range(bases.COUNT))
def test_bases(base: int, outputs: int) -> None:
    """Differences of zero are the base itself; others add to it exactly; both readers have the same bases."""
    spec = bases.trained_spec(13, 7, outputs)
    differences, grids = nothing(spec)
    generator = np.random.default_rng(base)
    grids = [np.rint(generator.laplace(0, 1, g.shape)).astype(np.int32) for g in grids]
    origin = bases.base_weights(base, spec)
    for step in (None, 5):
        if step is not None:
            for name, shape in spec.weight_shapes.items():
                integers = np.rint(generator.laplace(0, 2, shape)).astype(np.int32)
                differences[name] = QuantisedWeight(integers, step)
        sections = bitstream.write(spec, QuantisedWeights(base, differences), grids)
        read_spec, weights, read_grids = bitstream.read(*sections, 13, 7, outputs)
        assert (read_spec, weights.base) == (spec, base)
        for name, w in weights.whole(spec).items():
            np.testing.assert_array_equal(
                w, origin[name] + differences[name].integers * 2 ** (WEIGHT_BITS - (step or 0))
            )
        assert all(np.array_equal(a, b) for a, b in zip(grids, read_grids, strict=True))
        other = reader.Function(*sections, 13, 7, outputs)
        check_whole(weights.whole(spec), other)
        assert other.grids == [grids[p.level][p.feature].tolist() for p in spec.planes]
        levels = [torch.from_numpy(g).float()[None] for g in grids]
        output = synthesis.synthesise(levels, dequantise(spec, weights, CPU), spec)[0].numpy()
        scale = 1 + np.abs(output).max()
        np.testing.assert_allclose(output / scale, other.output() / scale, atol=1e-5)


def test_bases_are_not_changed_by_what_is_made_of_them() -> None:
    """They are kept in memory, once read."""
    spec = bases.trained_spec(4, 4, 3)
    before = {name: w.copy() for name, w in bases.base_weights(3, spec).items()}
    whole = QuantisedWeights(3, nothing(spec)[0]).whole(spec)
    tensors = as_tensors(bases.base_weights(3, spec), CPU)
    for name in before:
        whole[name] += 1
        tensors[name] += 1
        np.testing.assert_array_equal(bases.base_weights(3, spec)[name], before[name])


@cache
def coded_photo() -> tuple[Spec, QuantisedWeights, list[NDArray[np.int32]], dict[Section, bytes]]:
    sections = unpack(codec.encode(photo(256, 256), effort=1, device="cpu")).sections
    return *bitstream.read(sections[Section.WEIGHTS], sections[Section.GRIDS], 256, 256, 3), sections


def test_estimated_bits_are_real() -> None:
    spec, weights, grids, sections = coded_photo()
    levels = [torch.from_numpy(g).float()[None] for g in grids]
    estimate = float(arm.rate(levels, dequantise(spec, weights, CPU), spec).sum()) / 8
    assert abs(len(sections[Section.GRIDS]) - estimate) < 0.01 * estimate + 8
    estimate = estimated_bytes(weights)
    assert abs(len(sections[Section.WEIGHTS]) - estimate) < 0.01 * estimate + 14


def test_truncated_grids_are_right_or_zero() -> None:
    """However many bytes are left: the planes that they decide as they were, zeros for the rest."""
    spec, _, grids, sections = coded_photo()
    body = sections[Section.GRIDS]
    whole = [grids[p.level][p.feature] for p in spec.planes]
    before = 0
    for length in (0, 1, 5, 9, 17, 40, 100, 150, 200, 600, 1000, 3000, len(body) - 9, len(body) - 1):
        read = bitstream.read(sections[Section.WEIGHTS], body[:length], 256, 256, 3, truncated=True)[2]
        planes = [read[p.level][p.feature] for p in spec.planes]
        right = [np.array_equal(plane, expected) for plane, expected in zip(planes, whole, strict=True)]
        known = right.index(False) if False in right else len(right)
        assert not any(plane.any() for plane in planes[known:])
        assert known >= before
        before = known
    assert before >= len(whole) - 1


def test_reading_refuses_what_is_left_over() -> None:
    spec, _, _, sections = coded_photo()
    size = spec.height, spec.width, spec.outputs
    with pytest.raises(CorruptError, match="weights do not end"):
        bitstream.read(sections[Section.WEIGHTS] + b"\1" * 8, sections[Section.GRIDS], *size)
    with pytest.raises(CorruptError, match="grids do not end"):
        bitstream.read(sections[Section.WEIGHTS], sections[Section.GRIDS] + b"\1" * 8, *size)


def shape_bytes(levels: int, features: int, spatial: int, references: int) -> bytes:
    """The beginning of a body of weights."""
    encoder = Encoder()
    encoder.uniform(levels - 1, 4)
    for _ in range(levels):
        encoder.uniform(features - 1, 4)
    for number, bits in ((spatial - 1, 5), (references, 4), (0, 6), (0, 2)):
        encoder.uniform(number, bits)
    return encoder.finish()


@pytest.mark.parametrize(
    ("data", "size", "error"),
    [
        (shape_bytes(1, 1, 25, 0), (9, 9), CorruptError),  # no such context
        (shape_bytes(1, 1, 24, 8), (9, 9), CorruptError),  # too many contexts
        (shape_bytes(16, 16, 1, 15), (2**14, 2**14), LimitError),  # too many samples
        (b"\xff" * 16, (9, 9), CorruptError),  # what the range coder never writes
    ],
)
def test_reading_refuses_functions_out_of_bounds(data: bytes, size: tuple[int, int], error: type[FormatError]) -> None:
    with pytest.raises(error):
        bitstream.read(data, b"", *size, 3)


SHAPED = bases.trained_spec(4, 4, 3)
OTHER = Spec(4, 4, 3, (1,) * 7, spatial=14, references=2, hidden=15, residuals=2)


def refused(
    sections: tuple[bytes, bytes], spec: Spec, error: type[FormatError], other: type[Exception], what: str
) -> None:
    """By both readers, for the same reason."""
    size = spec.height, spec.width, spec.outputs
    with pytest.raises(error, match=what):
        bitstream.read(*sections, *size)
    with pytest.raises(other):
        reader.Function(*sections, *size)


@pytest.mark.parametrize(
    ("base", "spec", "error", "other", "what"),
    [
        (bases.COUNT, SHAPED, UnsupportedError, reader.UnknownError, "please update"),
        (15, SHAPED, UnsupportedError, reader.UnknownError, "please update"),
        (15, OTHER, UnsupportedError, reader.UnknownError, "please update"),
        (1, OTHER, CorruptError, reader.DamagedError, "shape of its base 1"),
        (5, Spec(4, 4, 1, (2,)), CorruptError, reader.DamagedError, "shape of its base 5"),
    ],
)
def test_reading_refuses_bases(
    base: int, spec: Spec, error: type[FormatError], other: type[Exception], what: str
) -> None:
    differences, grids = nothing(spec)
    with pytest.raises(error, match=what):
        bitstream.write(spec, QuantisedWeights(base, differences), grids)
    with pytest.MonkeyPatch.context() as patch:  # a writer without its own checks
        patch.setattr(bitstream, "base_weights", lambda _, spec: bases.base_weights(bases.PLAIN, spec))
        sections = bitstream.write(spec, QuantisedWeights(base, differences), grids)
    refused(sections, spec, error, other, what)


def test_shapes_of_bases() -> None:
    """The shapes of tensors count: how the contexts divide into spatial ones and references is free."""
    assert bases.bases_for(OTHER) == [bases.PLAIN]
    spec = Spec(4, 4, 3, (1,) * 7, spatial=16, references=0, hidden=16, residuals=2)
    assert bases.bases_for(spec) == list(range(bases.COUNT))
    sections = bitstream.write(spec, QuantisedWeights(2, nothing(spec)[0]), nothing(spec)[1])
    assert bitstream.read(*sections, 4, 4, 3)[1].base == reader.Function(*sections, 4, 4, 3).base == 2


@pytest.mark.parametrize("name", ["arm.output", "synthesis.hidden", "upsampling.taps"])
def test_reading_refuses_steps_out_of_bounds(name: str) -> None:
    differences, grids = nothing(SHAPED)
    differences[name] = QuantisedWeight(differences[name].integers, WEIGHT_BITS + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bitstream, "WEIGHT_BITS", 15)
        sections = bitstream.write(SHAPED, QuantisedWeights(1, differences), grids)
    refused(sections, SHAPED, CorruptError, reader.DamagedError, "step")


@pytest.mark.parametrize("base", [bases.PLAIN, 1])
@pytest.mark.parametrize("exponent", [4, 5])
@pytest.mark.parametrize("sign", [-1, 1])
def test_weights_of_the_model_are_bounded_with_their_base(base: int, exponent: int, sign: int) -> None:
    """Not the difference but the sum of base and difference has the bound."""
    name, unit = "arm.hidden2", 1 << WEIGHT_BITS - exponent
    origin = sign * bases.base_weights(base, SHAPED)[name].reshape(-1)
    place = int(origin.argmin()) if exponent == 4 else int(origin.argmax())
    most = (WEIGHT_LIMIT - 1 - int(origin[place])) // unit
    for number, fits in ((most, True), (most + 1, False)):
        differences, grids = nothing(SHAPED)
        integers = differences[name].integers.copy()
        integers.reshape(-1)[place] = sign * number
        differences[name] = QuantisedWeight(integers, exponent)
        weights = QuantisedWeights(base, differences)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bitstream, "WEIGHT_LIMIT", 2 * WEIGHT_LIMIT)
            sections = bitstream.write(SHAPED, weights, grids)
        if fits:
            found = bitstream.read(*sections, 4, 4, 3)[1].whole(SHAPED)
            assert WEIGHT_LIMIT - unit <= np.abs(found[name]).max() < WEIGHT_LIMIT
            check_whole(found, reader.Function(*sections, 4, 4, 3))
        else:
            refused(sections, SHAPED, CorruptError, reader.DamagedError, r"arm\.hidden2")


def test_reading_refuses_numbers_out_of_bounds() -> None:
    spec, weights, grids, _ = coded_photo()
    assert weights.base != bases.PLAIN
    large = QuantisedWeight(np.full((2, spec.contexts), 300, np.int32), 0)
    differences = QuantisedWeights(weights.base, {**weights.differences, "arm.output": large})
    beyond = [grids[0] * 0 + LIMIT + 1, *(g * 0 for g in grids[1:])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bitstream, "WEIGHT_LIMIT", 2 * WEIGHT_LIMIT)
        patch.setattr(bitstream, "LIMIT", 2 * LIMIT)
        empty = [g * 0 for g in grids]
        damaged = [bitstream.write(spec, differences, empty), bitstream.write(spec, weights, beyond)]
    for sections, what in zip(damaged, (r"arm\.output", "samples are out of range"), strict=True):
        with pytest.raises(CorruptError, match=what):
            bitstream.read(*sections, spec.height, spec.width, spec.outputs)
