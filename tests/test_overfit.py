"""The overfitted function: gradients, synthesis, the fit, quantisation, and its bytes."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import count, product
from typing import Any

import numpy as np
import pictures
import pytest
import reader
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

import codec
from codec import blocks
from codec.container import CorruptError, FormatError, Header, LimitError, Section, UnsupportedError, pack, unpack
from codec.entropy.coder import LIMIT, Encoder
from codec.entropy.integer_arm import WEIGHT_BITS, WEIGHT_LIMIT
from codec.entropy.wavefront import waves
from codec.overfit import arm, bitstream, fit, initialisation, pipeline, reference_weights, synthesis
from codec.overfit.bitstream import Origin, QuantisedWeight, QuantisedWeights
from codec.overfit.fit import Schedule
from codec.overfit.function import Function
from codec.overfit.lambda_conditioned_weights import LAST, NONE, NUMBER_BITS, LambdaConditionedWeights
from codec.overfit.quantise import as_tensors, dequantise, quantise
from codec.overfit.soap import Soap
from codec.overfit.spec import BICUBIC, Spec
from codec.overfit.valid_region import ValidRegion

SMALL = Spec(5, 4, 2, features=(2, 1, 1), spatial=3, references=2, hidden=3, residuals=2)
CPU = torch.device("cpu")
photo = partial(pictures.photo, "astronaut.png", top=60, left=180)


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


@pytest.mark.parametrize(("references", "separate"), [(0, False), (2, False), (5, False), (0, True), (2, True)])
def test_gradients_of_rate(references: int, separate: bool) -> None:
    features = (4, 1, 1) if separate else (2, 1, 1)
    spec = Spec(5, 4, 2, features, spatial=3, references=references, hidden=1, residuals=0, separate=separate)
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
    expected = torch.zeros(2, dtype=torch.float64)
    for i, plane in enumerate(SMALL.planes):
        mean, log_scale = weights["arm.output_bias"][:, :, i, None, None].unbind(1)
        distribution = torch.distributions.Laplace(mean, log_scale.exp())
        values = grids[plane.level][:, plane.feature]
        probability = distribution.cdf(values + 0.5) - distribution.cdf(values - 0.5)
        expected -= torch.log2(probability + arm.FLOOR).sum((1, 2))
    torch.testing.assert_close(arm.rate(grids, weights, SMALL), expected)


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


UNEQUAL = ((13, 7), (4, 10), (5, 1))  # heights and widths of pictures in one batch, whose shape is 13 x 10


def unequal(residuals: int) -> Function:
    """Random functions in one batch, each for a part of their shape."""
    spec = Spec(13, 10, 2, features=(1, 2, 1), spatial=8, references=2, hidden=3, residuals=residuals)
    function = replace(example(spec, len(UNEQUAL)), region=ValidRegion(torch.tensor(UNEQUAL), (13, 10), 3))
    return replace(function, grids=function.cut(function.grids))


def test_unequal_pictures_in_a_batch_are_its_parts() -> None:
    """Rate and distortion are those of each alone, and nothing outside of a picture has a gradient."""
    function, target = unequal(residuals=0), torch.rand(3, 2, 13, 10, dtype=torch.float64)
    lambdas = torch.tensor((0.1, 0.001, 0.01), dtype=torch.float64)
    tensors = [t.requires_grad_() for t in (*function.grids, *function.weights.values())]
    whole = fit.cost(function, target, lambdas)
    gradients = torch.autograd.grad(whole.sum(), tensors)
    levels = len(function.grids)
    for i, (height, width) in enumerate(UNEQUAL):
        one = function.alone(i)
        assert (one.spec.height, one.spec.width, one.region) == (height, width, None)
        alone = fit.cost(one, target[i : i + 1, :, :height, :width], lambdas[i : i + 1])
        torch.testing.assert_close(alone, whole[i : i + 1])
        expected = torch.autograd.grad(alone.sum(), tensors)
        for got, other in zip(gradients[levels:], expected[levels:], strict=True):
            torch.testing.assert_close(got[i], other[i])
        for got, other, (h, w) in zip(gradients, expected, one.spec.sizes, strict=False):
            torch.testing.assert_close(got[i, :, :h, :w], other[i, :, :h, :w])


def test_unequal_pictures_with_residual_layers() -> None:
    """Only at lower and right edges are outputs those of a larger function."""
    function = unequal(residuals=1)
    zero = torch.zeros(3, 2, 13, 10, dtype=torch.float64)
    whole = fit.distortion(function, zero)
    for i, (height, width) in enumerate(UNEQUAL):
        alone = fit.distortion(function.alone(i), zero[i : i + 1, :, :height, :width])
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=0.2, atol=0)


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
def test_synthesis(
    size: tuple[int, int], features: tuple[int, ...], residuals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of as few rows as there may be."""
    monkeypatch.setattr(synthesis, "positions_a_block", lambda _: 1)
    spec = Spec(*size, 3, features, spatial=2, references=0, hidden=5, residuals=residuals)
    function = example(spec, batch=1)
    weights = dict(reversed(function.weights.items()))  # their order means nothing
    torch.testing.assert_close(synthesis.synthesise(function.grids, weights, spec), plain_synthesis(function))


# The fit


def soften(x: Tensor, noise: Tensor, temperature: float) -> Tensor:
    soft: Tensor = fit._Soften.apply(x, noise, torch.tensor(temperature, dtype=x.dtype))  # type: ignore[no-untyped-call]
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


def test_at_low_rates_fits_end_lower_from_empty_grids() -> None:
    target, lambdas = target_of(photo(64, 80)), torch.tensor((0.03,))
    guess = initialisation.trained(target, 3 * lambdas)
    start, schedule = initialisation.coarse(guess), Schedule(0, 150, 10, preconditioned=True)
    assert not any(g.any() for g in start.grids)
    ends = [fit.fit(target, lambdas, [each], schedule, torch.Generator().manual_seed(0)) for each in (guess, start)]
    with torch.no_grad():
        from_guess, from_empty = (float(fit.cost(end, target, lambdas)) for end in ends)
    assert from_empty < 0.95 * from_guess
    assert float(ends[1].grids[0].count_nonzero()) < 0.1 * ends[0].grids[0].count_nonzero()


def test_fit_lowers_the_cost_of_every_target() -> None:
    target = torch.cat([target_of(photo(32, 40)), target_of(photo(64, 80)[::2, ::2])])
    lambdas = torch.tensor((0.01, 0.0005))
    start = initialisation.trained(target, lambdas)
    candidates = [start, replace(start, grids=[torch.zeros_like(g) for g in start.grids])]
    ticks, generator = count(), torch.Generator().manual_seed(0)
    schedule = Schedule(warm_up=2, main=40, settle=10)
    fitted = fit.fit(target, lambdas, candidates, schedule, generator, lambda: next(ticks))
    assert next(ticks) == schedule.total
    assert all(torch.equal(g, g.round()) for g in fitted.grids)
    with torch.no_grad():
        found = fit.cost(fitted, target, lambdas)
        first = torch.stack([fit.cost(c.rounded(), target, lambdas) for c in candidates]).amin(0)
    assert (found < first).all()
    assert fit.distortion(fitted, target)[0] > fit.distortion(fitted, target)[1]  # that is what lambda is for
    assert fit.rate(fitted)[0] < fit.rate(fitted)[1]


def test_fits_that_are_lost_are_not_written() -> None:
    """Grids that are not finite would be written as any numbers."""
    spec = Spec(6, 5, 3, features=(1, 1), spatial=3, references=1, hidden=2, residuals=0)
    target, generator = torch.full((1, 3, 6, 5), torch.nan), torch.Generator().manual_seed(0)
    with pytest.raises(RuntimeError, match="did not stay finite"):
        fit.fit(target, torch.full((1,), 1e-3), [initialisation.random(spec, generator)], Schedule(0, 3, 2), generator)


def estimated_bytes(weights: QuantisedWeights) -> float:
    return sum(bitstream.weight_bits(w.integers)[0] for w in weights.differences.values()) / 8


def weight_bytes(spec: Spec, weights: QuantisedWeights) -> int:
    empty = [np.zeros((n, *size), np.int32) for n, size in zip(spec.features, spec.sizes, strict=True)]
    return len(bitstream.write(spec, weights, empty)[0])


@pytest.mark.parametrize("budget", [2000, 150])
def test_quantised_weights(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codec.overfit.quantise.MOST_WEIGHTS", 0)  # none makes up for the errors of others
    spec = Spec(12, 10, 3, features=(1, 1, 1), spatial=6, references=2, hidden=6, residuals=1)
    function = example(spec, dtype=torch.float32).rounded()
    function.weights["synthesis.output_bias"][0, 0] = 7.7  # beyond what the finest step can code
    target = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    quantised = quantise(function, target, torch.tensor((1e-3, 1e-5)), budget)
    for i, weights in enumerate(quantised):
        assert weights.origin.number == reference_weights.PLAIN  # no other has this shape
        estimate = estimated_bytes(weights)
        assert estimate <= budget
        assert abs(weight_bytes(spec, weights) - estimate) < 0.02 * estimate + 14  # shape, empty planes, the end
        for name, value in dequantise(spec, weights, CPU).items():
            error = (value[0] - function.weights[name][i]).abs().numpy()
            difference = weights.differences[name]
            error[np.abs(difference.integers) == bound(difference.exponent)] = 0
            assert error.max() <= 2.0**-difference.exponent / 2 * 1.001


def bound(exponent: int) -> int:
    """Greatest absolute value of the integers that `quantise` gives."""
    return min(LIMIT, (WEIGHT_LIMIT // 2 - 1) >> (WEIGHT_BITS - exponent))


WIDER: dict[str, Any] = {"spatial": 17, "references": 4, "hidden": 19}


@pytest.mark.parametrize(("wider", "numbers"), [({}, [*range(6)]), (WIDER, [0, *range(6, 11)])])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_nearest_base_is_chosen(outputs: int, wider: dict[str, Any], numbers: list[int]) -> None:
    """Functions that have hardly moved from their bases cost next to nothing; the plain base is one of them."""
    spec, count = replace(reference_weights.trained_spec(9, 14, outputs), **wider), len(numbers)
    assert reference_weights.numbers(spec) == numbers
    origins = [as_tensors(reference_weights.weights(number, spec), CPU) for number in numbers]
    weights = {name: torch.cat([origin[name] for origin in origins]) + 1e-5 for name in spec.weight_shapes}
    grids = [torch.zeros(count, n, *size) for n, size in zip(spec.features, spec.sizes, strict=True)]
    target = torch.rand(count, outputs, 9, 14, generator=torch.Generator().manual_seed(0))
    quantised = quantise(Function(spec, weights, grids), target, torch.full((count,), 1e-3), 860)
    assert [each.origin.number for each in quantised] == numbers
    for each in quantised:
        assert not any(difference.integers.any() for difference in each.differences.values())
        assert weight_bytes(spec, each) < 60


def test_fits_start_from_the_bases_of_the_nearest_lambdas() -> None:
    target, lambdas = torch.rand(3, 1, 9, 14), torch.tensor((0.1, 0.0015, 0.0001))
    start = initialisation.trained(target, lambdas)
    for i, number in enumerate((1, 3, 5)):
        base = as_tensors(reference_weights.weights(number, start.spec), CPU)
        assert all(torch.equal(start.weights[name][i], w[0]) for name, w in base.items())


def test_wider_functions_begin_as_narrow_ones() -> None:
    """What they have more counts for nothing, but has inputs, so that a fit can find use for it."""
    target, lambdas = torch.rand(2, 3, 20, 33), torch.tensor((0.03, 0.0005))
    narrow, wide = (initialisation.trained(target, lambdas, **wider) for wider in ({}, WIDER))
    assert torch.equal(*(synthesis.synthesise(f.grids, f.weights, f.spec) for f in (narrow, wide)))
    assert torch.allclose(fit.rate(narrow.rounded()), fit.rate(wide.rounded()), rtol=1e-4)
    new = wide.weights["synthesis.hidden"][:, 16:]
    assert torch.equal(wide.weights["synthesis.hidden"][:, :16], narrow.weights["synthesis.hidden"])
    assert new.shape == (2, 3, 7)
    assert new.ne(0).all()


# Bytes


@st.composite
def origins(draw: st.DrawFn) -> tuple[Spec, Origin]:
    """A small shape of any kind, and something that functions of this shape may be differences to."""
    small = st.integers(1, 3)
    size = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    named = draw(st.booleans())  # whether the file would name a model
    base = 0 if named else draw(st.just(reference_weights.PLAIN) | st.integers(0, 10))
    if base != reference_weights.PLAIN:
        wider: dict[str, Any] = {
            "spatial": draw(st.integers(14, 20)),
            "references": draw(st.integers(2, 7)),
            "hidden": draw(st.integers(16, 20)),
        }
        return replace(reference_weights.trained_spec(*size), **wider if base > 5 else {}), Origin(base)
    separate = named and draw(st.booleans())
    features = st.lists(small, min_size=1, max_size=4) | st.just([17 if separate else 16])
    shape: dict[str, Any] = {
        "features": tuple(draw(features)), "spatial": draw(small if separate else st.integers(1, 24)),
        "references": draw(st.integers(0, 7)), "hidden": draw(small), "residuals": draw(st.integers(0, 3)),
        "separate": separate, "linear": named and draw(st.booleans()),
    }  # fmt: skip
    spec = Spec(*size, **shape)
    if not named:
        return spec, Origin(reference_weights.PLAIN)
    universal = random_universal(shape, spec, knots=draw(st.integers(1, 4)))
    return spec, draw(
        st.builds(Origin, st.just(reference_weights.PLAIN) | st.integers(1, LAST), st.sampled_from((universal,)))
    )


def random_universal(shape: dict[str, Any], spec: Spec, knots: int) -> LambdaConditionedWeights:
    generator = np.random.default_rng(knots)

    def whole(*size: int) -> NDArray[np.int16]:
        return np.rint(generator.laplace(0, 300, (knots, *size))).astype(np.int16)

    tensors = {name: whole(*size) for name, size in spec.weight_shapes.items()}
    return LambdaConditionedWeights(shape, (0.005, 3.0), tensors, whole(spec.outputs))


def for_reader(universal: LambdaConditionedWeights | None) -> reader.Universal | None:
    """The same, as the other reader takes it."""
    if universal is None:
        return None
    tensors = {name: t.astype(np.int64) for name, t in {"steps": universal.steps, **universal.knots}.items()}
    return reader.Universal(reader.Shape(**universal.shape) if universal.knots else None, tensors)


@st.composite
def functions(draw: st.DrawFn) -> tuple[Spec, QuantisedWeights, list[NDArray[np.int32]]]:
    """Small functions of any shape and origin, with any weights and samples that can be coded."""
    spec, origin = draw(origins())
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    wild = draw(st.booleans())

    def whole(shape: tuple[int, ...], limit: int | NDArray[np.int64]) -> NDArray[np.int32]:
        spread = generator.choice((0.1, 1, 20, *((400, 1e5) if wild else ())))
        return np.clip(np.rint(generator.laplace(0, spread, shape)), -limit, limit).astype(np.int32)

    differences = {}
    base = origin.weights(spec)
    sparse = origin.universal is not None and origin.number != reference_weights.PLAIN  # tensors may be without any
    for name, shape in spec.weight_shapes.items():
        exponent = int(generator.integers(13)) if wild else 6
        room = (WEIGHT_LIMIT - 1 - np.abs(base[name])) >> (WEIGHT_BITS - exponent)
        integers = whole(shape, np.minimum(LIMIT, room) if name.startswith("arm.") else LIMIT)
        none = sparse and (generator.random() < 0.5 or not integers.any())
        differences[name] = QuantisedWeight.nothing(shape) if none else QuantisedWeight(integers, exponent)
    grids = [whole((n, *size), LIMIT) for n, size in zip(spec.features, spec.sizes, strict=True)]
    grids[int(generator.integers(len(grids)))][0] = 0
    return spec, QuantisedWeights(origin, differences), grids


@given(functions())
def test_round_trip(drawn: tuple[Spec, QuantisedWeights, list[NDArray[np.int32]]]) -> None:
    """Functions that are written are read, by this reader and by another."""
    spec, weights, grids = drawn
    number, universal = weights.origin.number, weights.origin.universal
    sections = bitstream.write(spec, weights, grids)
    shape = spec.height, spec.width, spec.outputs
    read_spec, read_weights, read_grids = bitstream.read(*sections, *shape, universal)
    other = reader.Function(*sections, *shape, for_reader(universal))
    assert read_spec == spec
    assert read_weights.origin.number == number == other.number
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
    levels = [torch.from_numpy(np.stack(g)).double()[None] for g in read_grids]
    values = {name: torch.from_numpy(w / 2**WEIGHT_BITS)[None] for name, w in read_weights.whole(spec).items()}
    for name, w in dequantise(spec, read_weights, CPU).items():
        torch.testing.assert_close(w.double(), values[name], rtol=2.0**-24, atol=0)
    output = synthesis.synthesise(levels, values, spec)[0].numpy()
    if universal and number != reference_weights.PLAIN:
        output = output * universal.step(number)[:, None, None]
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
@pytest.mark.parametrize("base", range(11))
def test_bases(base: int, outputs: int) -> None:
    """Differences of zero are the base itself; others add to it exactly; both readers have the same bases."""
    spec = replace(reference_weights.trained_spec(13, 7, outputs), **WIDER if base > 5 else {})
    differences, grids = nothing(spec)
    generator = np.random.default_rng(base)
    grids = [np.rint(generator.laplace(0, 1, g.shape)).astype(np.int32) for g in grids]
    origin = reference_weights.weights(base, spec)
    for step in (None, 5):
        if step is not None:
            for name, shape in spec.weight_shapes.items():
                integers = np.rint(generator.laplace(0, 2, shape)).astype(np.int32)
                differences[name] = QuantisedWeight(integers, step)
        sections = bitstream.write(spec, QuantisedWeights(Origin(base), differences), grids)
        read_spec, weights, read_grids = bitstream.read(*sections, 13, 7, outputs)
        assert (read_spec, weights.origin.number) == (spec, base)
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


MODEL_SHAPE: dict[str, Any] = {
    "features": (3,),
    "spatial": 2,
    "references": 1,
    "hidden": 2,
    "residuals": 1,
    "separate": True,
}
MODEL_SPEC = Spec(4, 5, 3, **MODEL_SHAPE)


def test_numbers_of_universal_functions() -> None:
    """They count evenly in the logarithm of lambda, which stays within its bounds."""
    universal = random_universal(MODEL_SHAPE, MODEL_SPEC, knots=2)
    low, high = universal.lambdas
    lambdas = np.geomspace(low, high, LAST)
    assert [universal.number(lam) for lam in lambdas] == list(range(1, LAST + 1))
    assert [universal.number(lam) for lam in (1e-9, low / 2, 2 * high, 1e9)] == [1, 1, LAST, LAST]


@pytest.mark.parametrize("knots", [1, 2, 3, 7, 8])
def test_universal_functions_lie_between_their_knots(knots: int) -> None:
    """At a knot they are just that; from one to the next they only rise or fall; both readers have the same."""
    universal = random_universal(MODEL_SHAPE, MODEL_SPEC, knots)
    other = for_reader(universal)
    assert other is not None
    every = [universal.weights(number) for number in range(1, LAST + 1)]
    steps = np.stack([universal.step(number) for number in range(1, LAST + 1)])
    for name, of_knots in {**universal.knots, "steps": universal.steps}.items():
        found = steps * 2**WEIGHT_BITS if name == "steps" else np.stack([weights[name] for weights in every])
        np.testing.assert_array_equal(found, [other.between(name, number) for number in range(1, LAST + 1)])
        np.testing.assert_array_equal(found[0], of_knots[0])
        np.testing.assert_array_equal(found[-1], of_knots[-1])
        places = np.arange(LAST) * (knots - 1) / (LAST - 1)
        exact = places == np.rint(places)
        np.testing.assert_array_equal(found[exact], of_knots[places[exact].astype(int)])
        assert exact.sum() == (LAST if knots == 1 else math.gcd(knots - 1, LAST - 1) + 1)
        before, after = (of_knots[rounded(places).astype(int)] for rounded in (np.floor, np.ceil))
        assert (np.minimum(before, after) <= found).all()
        assert (found <= np.maximum(before, after)).all()
        for i in np.flatnonzero(np.floor(places[1:]) == np.floor(places[:-1])):
            assert ((found[i + 1] - found[i]) * np.sign(after[i + 1] - before[i]) >= 0).all()


def test_a_universal_function_costs_next_to_nothing() -> None:
    universal = random_universal(MODEL_SHAPE, MODEL_SPEC, knots=3)
    differences = {name: QuantisedWeight.nothing(shape) for name, shape in MODEL_SPEC.weight_shapes.items()}
    weights = QuantisedWeights(Origin(77, universal), differences)
    assert weight_bytes(MODEL_SPEC, weights) <= 8  # 10 bits, and one for each tensor and each grid


def numbered(number: int) -> bytes:
    """The beginning of a body of weights in a file that names a model."""
    encoder = Encoder()
    encoder.uniform(number, NUMBER_BITS)
    return encoder.finish()


@pytest.mark.parametrize(
    ("change", "size", "error", "what"),
    [
        (None, (4, 5), CorruptError, "the model has none"),
        ({"spatial": 25, "references": 0}, (4, 5), CorruptError, "25 contexts"),
        ({"spatial": 24, "references": 8}, (4, 5), CorruptError, "32 contexts"),
        ({}, (2**15, 2**15), LimitError, "do not trust"),
    ],
)
def test_reading_refuses_universal_functions(
    change: dict[str, int] | None, size: tuple[int, int], error: type[FormatError], what: str
) -> None:
    universal = NONE
    if change is not None:
        shape = {**MODEL_SHAPE, **change}
        universal = random_universal(shape, Spec(4, 5, 3, **shape), knots=2)
    with pytest.raises(error, match=what):
        bitstream.read(numbered(1), b"", *size, 3, universal)
    if error is CorruptError:
        with pytest.raises(reader.DamagedError):
            reader.Function(numbered(1), b"", *size, 3, for_reader(universal))


def test_bases_are_not_changed_by_what_is_made_of_them() -> None:
    """They are kept in memory, once read."""
    spec = reference_weights.trained_spec(4, 4, 3)
    before = {name: w.copy() for name, w in reference_weights.weights(3, spec).items()}
    whole = QuantisedWeights(Origin(3), nothing(spec)[0]).whole(spec)
    tensors = as_tensors(reference_weights.weights(3, spec), CPU)
    for name in before:
        whole[name] += 1
        tensors[name] += 1
        np.testing.assert_array_equal(reference_weights.weights(3, spec)[name], before[name])


@cache
def coded_photo() -> tuple[Spec, QuantisedWeights, list[NDArray[np.int32]], dict[Section, bytes]]:
    sections = unpack(codec.encode(photo(256, 256), profile="coolchic", effort=1, device="cpu")).sections
    spec, weights, grids = bitstream.read(sections[Section.WEIGHTS], sections[Section.GRIDS], 256, 256, 3)
    return spec, weights, [np.stack(features) for features in grids], sections


def test_estimated_bits_are_real() -> None:
    spec, weights, grids, sections = coded_photo()
    levels = [torch.from_numpy(g).float()[None] for g in grids]
    estimate = float(arm.rate(levels, dequantise(spec, weights, CPU), spec).sum()) / 8
    assert abs(len(sections[Section.GRIDS]) - estimate) < 0.01 * estimate + 8
    estimate = estimated_bytes(weights)
    assert abs(len(sections[Section.WEIGHTS]) - estimate) < 0.01 * estimate + 14


def check_truncated(
    spec: Spec,
    weights: bytes,
    grids: list[NDArray[np.int32]],
    body: bytes,
    universal: LambdaConditionedWeights | None = None,
) -> None:
    """However many bytes are left: samples as they were up to some wave, zeros for the rest."""
    whole = [grids[p.level][p.feature] for p in spec.planes]
    size, before = (spec.height, spec.width, spec.outputs), 0
    parts = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
    lengths = {0, 1, 5, 9, *(int(len(body) * part) for part in parts), len(body) - 9, len(body) - 1}
    for length in sorted(lengths):
        read = bitstream.read(weights, body[:length], *size, universal, truncated=True)[2]
        planes = [read[p.level][p.feature] for p in spec.planes]
        decided = [waves_decided(planes, whole, group) for group in spec.groups]
        undecided = next((i for i, (known, count) in enumerate(decided) if known < count), len(decided))
        assert not any(planes[i].any() for group in spec.groups[undecided + 1 :] for i in group)
        right = sum(known for known, _ in decided[: undecided + 1])
        assert right >= before
        before = right
    assert before > 0.9 * sum(count for _, count in decided)


def waves_decided(planes: list[NDArray[np.int32]], whole: list[NDArray[np.int32]], group: range) -> tuple[int, int]:
    """Number of the waves of some planes that are right, where samples of all others must be zero; and of all waves."""
    found, expected = (np.stack([each[i] for i in group]) for each in (planes, whole))
    wave = waves(*found.shape)
    count = int(wave.max()) + 1
    first = int(wave[found != expected].min(initial=count))
    assert not found[wave >= first].any()
    return first, count


def test_truncated_grids_are_right_or_zero() -> None:
    spec, _, grids, sections = coded_photo()
    check_truncated(spec, sections[Section.WEIGHTS], grids, sections[Section.GRIDS])


def test_truncated_grids_of_one_level_are_decided_wave_by_wave() -> None:
    spec = Spec(40, 30, 2, (2, 3, 1), spatial=3, references=2, hidden=2, residuals=0, separate=True)
    generator = np.random.default_rng(0)
    differences = {name: QuantisedWeight.nothing(shape) for name, shape in spec.weight_shapes.items()}
    grids = [np.rint(generator.laplace(0, 1, (n, *s))) for n, s in zip(spec.features, spec.sizes, strict=True)]
    whole = [g.astype(np.int32) for g in grids]
    sections = bitstream.write(spec, QuantisedWeights(Origin(reference_weights.PLAIN, NONE), differences), whole)
    check_truncated(spec, sections[0], whole, sections[1], NONE)
    half = bitstream.read(sections[0], sections[1][: len(sections[1]) // 2], 40, 30, 2, NONE, truncated=True)[2]
    top, bottom = ([plane[rows] for plane in half[0]] for rows in (slice(10), slice(-10, None)))
    assert [plane.any() for plane in (*top, *bottom)] == [True, True, False, False]


def test_reading_refuses_what_is_left_over() -> None:
    spec, _, _, sections = coded_photo()
    size = spec.height, spec.width, spec.outputs
    with pytest.raises(CorruptError, match="weights do not end"):
        bitstream.read(sections[Section.WEIGHTS] + b"\1" * 8, sections[Section.GRIDS], *size)
    with pytest.raises(CorruptError, match="grids do not end"):
        bitstream.read(sections[Section.WEIGHTS], sections[Section.GRIDS] + b"\1" * 8, *size)


def shape_bytes(levels: int, features: int, spatial: int, references: int, *, named: bool = False) -> bytes:
    """The beginning of a body of weights, in a file that names a model or in one that does not."""
    encoder = Encoder()
    if named:
        encoder.uniform(reference_weights.PLAIN, NUMBER_BITS)
    encoder.uniform(levels - 1, 4)
    for _ in range(levels):
        encoder.uniform(features - 1, 7 if named else 4)
    for number, bits in ((spatial - 1, 5), (references, 4), (0, 6), (0, 2)):
        encoder.uniform(number, bits)
    return encoder.finish()


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("shape", "size", "error"),
    [
        ((1, 1, 25, 0), (9, 9), CorruptError),  # no such context
        ((1, 1, 24, 8), (9, 9), CorruptError),  # too many contexts
        ((16, 16, 1, 15), (2**14, 2**14), LimitError),  # too many samples
        ((16, 16, 1, 15), (2**16 - 1, 1), LimitError),  # too many waves
    ],
)
def test_reading_refuses_functions_out_of_bounds(
    shape: tuple[int, int, int, int], size: tuple[int, int], error: type[FormatError], named: bool
) -> None:
    with pytest.raises(error):
        bitstream.read(shape_bytes(*shape, named=named), b"", *size, 3, NONE if named else None)


def peak_of(action: Callable[[], object]) -> int:
    """Bytes that NumPy and Python have at most while something is done."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def written(spec: Spec, grids: list[NDArray[np.int32]]) -> tuple[bytes, bytes]:
    """Sections of a function whose weights are those of the plain one."""
    nothing = {name: QuantisedWeight.nothing(shape) for name, shape in spec.weight_shapes.items()}
    return bitstream.write(spec, QuantisedWeights(Origin(reference_weights.PLAIN), nothing), grids)


@pytest.mark.parametrize("truncated", [False, True])
def test_planes_that_are_not_coded_take_no_memory(truncated: bool) -> None:
    """Nor do references to them: a file of a few bytes can ask for a lot of them, whatever its size."""
    spec = Spec(1, 1, 3, (16, 16), spatial=1, references=15, hidden=1, residuals=0)
    sections = written(spec, [np.zeros((16, 1, 1), np.int32)] * 2)
    height, width = 1024, 2048
    data = pack(Header(width, height, "RGB", 0), dict(zip((Section.WEIGHTS, Section.GRIDS), sections, strict=True)))
    assert len(data) < 64
    assert peak_of(lambda: bitstream.read(*sections, height, width, 3, truncated=truncated)) < 12 * height * width
    assert peak_of(lambda: codec.decode(data, device="cpu")) < 24 * height * width
    assert not codec.decode(data, device="cpu").any()


def test_references_to_coarse_planes_take_no_memory() -> None:
    spec = Spec(512, 512, 3, (*(1,) * 9, 15), spatial=1, references=15, hidden=1, residuals=0)
    grids = [np.ones((n, *size), np.int32) for n, size in zip(spec.features, spec.sizes, strict=True)]
    sections = written(spec, grids)
    found: list[list[NDArray[np.int32]]] = []
    assert peak_of(lambda: found.extend(bitstream.read(*sections, 512, 512, 3)[2])) < 24 * 512**2 + 2**22
    assert all((plane == 1).all() for grid in found for plane in grid)


def test_features_that_are_zero_add_nothing() -> None:
    """They are left out, in any combination, and with them the levels that have no others."""
    generator = np.random.default_rng(0)
    spec = Spec(13, 10, 3, (2, 2, 1), spatial=2, references=1, hidden=4, residuals=1)
    weights = {name: np.rint(generator.normal(0, 60, s)).astype(np.int32) for name, s in spec.weight_shapes.items()}
    weights = {name: w * (not name.startswith("arm")) for name, w in weights.items()}
    quantised = QuantisedWeights(
        Origin(reference_weights.PLAIN), {name: QuantisedWeight(w, 8) for name, w in weights.items()}
    )
    for there in product((0, 1), repeat=sum(spec.features)):
        flags = iter(there)
        grids = [
            np.stack([next(flags) * generator.integers(1, 9, size, np.int32) for _ in range(n)])
            for n, size in zip(spec.features, spec.sizes, strict=True)
        ]
        sections = bitstream.write(spec, quantised, grids)
        found, _ = pipeline.decode(*sections, (13, 10, 3), CPU, truncated=False)
        levels = [torch.from_numpy(g).float()[None] for g in grids]
        torch.testing.assert_close(found, synthesis.synthesise(levels, dequantise(spec, quantised, CPU), spec))


@pytest.mark.parametrize("universal", [None, NONE])
def test_reading_refuses_what_no_coder_writes(universal: LambdaConditionedWeights | None) -> None:
    with pytest.raises(CorruptError, match="not valid"):
        bitstream.read(b"\xff" * 16, b"", 9, 9, 3, universal)


SHAPED = reference_weights.trained_spec(4, 4, 3)
OTHER = Spec(4, 4, 3, (1,) * 7, spatial=14, references=2, hidden=15, residuals=2)
WIDE = replace(SHAPED, **WIDER)


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
        (11, SHAPED, UnsupportedError, reader.UnknownError, "please update"),
        (15, SHAPED, UnsupportedError, reader.UnknownError, "please update"),
        (15, OTHER, UnsupportedError, reader.UnknownError, "please update"),
        (1, OTHER, CorruptError, reader.DamagedError, "shape of its reference weights 1"),
        (5, Spec(4, 4, 1, (2,)), CorruptError, reader.DamagedError, "shape of its reference weights 5"),
        (5, WIDE, CorruptError, reader.DamagedError, "shape of its reference weights 5"),
        (6, OTHER, CorruptError, reader.DamagedError, "shape of its reference weights 6"),
        (
            10,
            replace(WIDE, references=1, spatial=20),
            CorruptError,
            reader.DamagedError,
            "shape of its reference weights 10",
        ),
        (10, replace(WIDE, residuals=3), CorruptError, reader.DamagedError, "shape of its reference weights 10"),
        (10, replace(WIDE, features=(1,) * 6), CorruptError, reader.DamagedError, "shape of its reference weights 10"),
        (
            10,
            replace(WIDE, features=(1,) * 6 + (2,)),
            CorruptError,
            reader.DamagedError,
            "shape of its reference weights 10",
        ),
    ],
)
def test_reading_refuses_bases(
    base: int, spec: Spec, error: type[FormatError], other: type[Exception], what: str
) -> None:
    differences, grids = nothing(spec)
    with pytest.raises(error, match=what):
        bitstream.write(spec, QuantisedWeights(Origin(base), differences), grids)
    plain = reference_weights.weights(reference_weights.PLAIN, spec)
    with pytest.MonkeyPatch.context() as patch:  # a writer without its own checks
        patch.setattr(reference_weights, "weights", lambda *_: plain)
        sections = bitstream.write(spec, QuantisedWeights(Origin(base), differences), grids)
    refused(sections, spec, error, other, what)


def test_shapes_of_bases() -> None:
    """The shapes of tensors count: how the contexts divide into spatial ones and references is free."""
    assert reference_weights.numbers(OTHER) == [reference_weights.PLAIN]
    spec = Spec(4, 4, 3, (1,) * 7, spatial=16, references=0, hidden=16, residuals=2)
    assert reference_weights.numbers(spec) == list(range(6))
    sections = bitstream.write(spec, QuantisedWeights(Origin(2), nothing(spec)[0]), nothing(spec)[1])
    assert bitstream.read(*sections, 4, 4, 3)[1].origin.number == reader.Function(*sections, 4, 4, 3).number == 2


@pytest.mark.parametrize("name", ["arm.output", "synthesis.hidden", "upsampling.taps"])
def test_reading_refuses_steps_out_of_bounds(name: str) -> None:
    differences, grids = nothing(SHAPED)
    differences[name] = QuantisedWeight(differences[name].integers, WEIGHT_BITS + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bitstream, "WEIGHT_BITS", 15)
        sections = bitstream.write(SHAPED, QuantisedWeights(Origin(1), differences), grids)
    refused(sections, SHAPED, CorruptError, reader.DamagedError, "step")


@pytest.mark.parametrize("base", [reference_weights.PLAIN, 1])
@pytest.mark.parametrize("exponent", [4, 5])
@pytest.mark.parametrize("sign", [-1, 1])
def test_weights_of_the_model_are_bounded_with_their_base(base: int, exponent: int, sign: int) -> None:
    """Not the difference but the sum of base and difference has the bound."""
    name, unit = "arm.hidden2", 1 << WEIGHT_BITS - exponent
    origin = sign * reference_weights.weights(base, SHAPED)[name].reshape(-1)
    place = int(origin.argmin()) if exponent == 4 else int(origin.argmax())
    most = (WEIGHT_LIMIT - 1 - int(origin[place])) // unit
    for number, fits in ((most, True), (most + 1, False)):
        differences, grids = nothing(SHAPED)
        integers = differences[name].integers.copy()
        integers.reshape(-1)[place] = sign * number
        differences[name] = QuantisedWeight(integers, exponent)
        weights = QuantisedWeights(Origin(base), differences)
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
    assert weights.origin.number != reference_weights.PLAIN
    large = QuantisedWeight(np.full((2, spec.contexts), 300, np.int32), 0)
    differences = QuantisedWeights(Origin(weights.origin.number), {**weights.differences, "arm.output": large})
    beyond = [grids[0] * 0 + LIMIT + 1, *(g * 0 for g in grids[1:])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bitstream, "WEIGHT_LIMIT", 2 * WEIGHT_LIMIT)
        patch.setattr(bitstream, "LIMIT", 2 * LIMIT)
        empty = [g * 0 for g in grids]
        damaged = [bitstream.write(spec, differences, empty), bitstream.write(spec, weights, beyond)]
    for sections, what in zip(damaged, (r"arm\.output", "samples are out of range"), strict=True):
        with pytest.raises(CorruptError, match=what):
            bitstream.read(*sections, spec.height, spec.width, spec.outputs)


# Soap


def test_soap_is_quick_where_adam_is_not() -> None:
    """A quadratic whose axes are those of no parameter, and differ by a factor of 10,000 in curvature."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    curvature = turn @ torch.logspace(-4, 0, 8).diag() @ turn.mT
    wanted = torch.randn(3, 8, 5, generator=generator)

    def fitted(kind: type[Soap] | type[torch.optim.Adam]) -> float:
        found = torch.zeros_like(wanted).requires_grad_()
        optimizer = kind([found], lr=0.02)
        for _ in range(300):
            optimizer.zero_grad()
            difference = found - wanted
            loss = (difference * (curvature @ difference)).sum()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    assert fitted(Soap) < 0.5 * fitted(torch.optim.Adam)


def test_soap_fits_each_of_a_batch_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(25, 2, 4, 3, 3, generator=generator)

    def moved(which: slice) -> Tensor:
        found = torch.zeros_like(gradients[0, which])
        optimizer = Soap([found])
        for gradient in gradients[:, which]:
            found.grad = gradient
            optimizer.step()
        return found

    assert torch.allclose(moved(slice(0, 2))[1:], moved(slice(1, 2)), atol=1e-5)


def test_soap_bears_dead_units() -> None:
    """Rows of zeros beside values of very different sizes: eigenvectors in single precision are not finite there."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(300, 26, 26, generator=generator)).Q for _ in range(2))
    sizes = torch.stack([torch.logspace(-4, -12 - i % 30, 26) for i in range(300)])
    gradients = left @ sizes.diag_embed() @ right.mT
    gradients[:, 14:24] = 0
    found = torch.zeros_like(gradients)
    optimizer = Soap([found])
    for _ in range(2):
        found.grad = gradients
        optimizer.step()
        optimizer.turn()
    assert found.isfinite().all()
