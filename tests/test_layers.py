"""Integer layers, each against Python's whole numbers, up to the bounds of exactness."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from codec.entropy.layers import Definition, Depthwise, Layer, Linear, Proven, narrowed, quantise

FLOAT32, FLOAT64 = 2**24, 2**53
Nested = list[Any]
Array = NDArray[Any]

limits = st.sampled_from((1, 9, 127, 256, 257, 4095, 2**15))


def whole_numbers(limit: int) -> st.SearchStrategy[int]:
    """Any, those near zero, and the extremes."""
    return st.integers(-limit, limit) | st.integers(-min(limit, 2), min(limit, 2)) | st.sampled_from((-limit, limit))


def arrays(draw: st.DrawFn, shape: tuple[int, ...], limit: int) -> Array:
    count = prod(shape)
    numbers = draw(st.lists(whole_numbers(limit), min_size=count, max_size=count))
    return np.array(numbers, np.int64).reshape(shape)


def draw_whole(draw: st.DrawFn, shape: tuple[int, ...]) -> Definition:
    low, high = sorted((draw(whole_numbers(draw(limits))), draw(whole_numbers(draw(limits)))))
    weight, bias = arrays(draw, shape, draw(limits)), arrays(draw, shape[:1], draw(st.sampled_from((0, 9, 2**20))))
    shift = np.array(draw(st.lists(st.integers(0, 20), min_size=shape[0], max_size=shape[0])))
    return Definition(weight, bias, shift, np.array((low, high)))


def outputs(definition: Definition, output: int, products: list[int]) -> int:
    shift = int(definition.shift[output])
    return (sum(products) + int(definition.bias[output]) + ((1 << shift) >> 1)) >> shift


def clamp(x: int, definition: Definition) -> int:
    low, high = definition.inputs.tolist()
    return int(min(max(x, low), high))


def layer_of(definition: Definition) -> Any:
    """The layer that is defined, which can be called."""
    shape = definition.weight.shape
    made: Layer = Linear(*shape) if len(shape) == 2 else Depthwise(shape[0], shape[2])
    return made.load(definition._asdict())


# Linear layers


@st.composite
def linear_cases(draw: st.DrawFn) -> tuple[Definition, Array]:
    inputs = draw(st.integers(1, 40))
    definition = draw_whole(draw, (draw(st.integers(1, 5)), inputs))
    return definition, arrays(draw, (draw(st.integers(0, 4)), inputs), draw(limits))


def plain_linear(definition: Definition, x: Array) -> Nested:
    rows = definition.weight.tolist()
    return [
        [
            outputs(definition, o, [w * clamp(i, definition) for w, i in zip(row, one, strict=True)])
            for o, row in enumerate(rows)
        ]
        for one in x.tolist()
    ]


@settings(deadline=None)
@given(linear_cases(), st.sampled_from((np.int64, np.float32, np.float64)))
def test_linear(case: tuple[Definition, Array], dtype: type[np.generic]) -> None:
    definition, x = case
    assert layer_of(definition)(x.astype(dtype)).tolist() == plain_linear(definition, x)


def at_bound(weight: int, limit: int, inputs: int, bound: int) -> tuple[Definition, Array]:
    """A layer of so many weights and of odd sums, which may reach a bound, and inputs for which they do."""
    weights = np.full((2, inputs), weight)
    weights[:, ::2] *= -1
    bias = bound - inputs * weight * limit
    assert bias > 0
    definition = Definition(weights, np.array((bias, -bias)), np.zeros(2, np.int64), np.array((-limit, limit)))
    return definition, np.stack((np.sign(weights[0]) * limit, -np.sign(weights[0]) * limit))


@pytest.mark.parametrize(
    ("weight", "limit", "inputs", "bound", "dtype"),
    [
        (256, 256, 255, FLOAT32 - 1, np.float32),
        (256, 256, 255, FLOAT32, np.float64),
        (256, 257, 250, FLOAT32 - 1, np.float64),  # operands that may be rounded
        (257, 256, 250, FLOAT32 - 1, np.float64),
        (2**21 - 1, 2**21, 2047, FLOAT64 - 1, np.float64),
    ],
)
def test_bounds_are_tight(weight: int, limit: int, inputs: int, bound: int, dtype: type[np.floating]) -> None:
    definition, x = at_bound(weight, limit, inputs, bound)
    layer = layer_of(definition)
    assert layer.bound == bound
    assert layer.dtype == dtype
    found = layer(x).tolist()
    assert found == plain_linear(definition, x)
    assert found[0][0] == bound == -found[1][1]


def test_what_cannot_be_exact_is_refused() -> None:
    definition, _ = at_bound(2**21 - 1, 2**21, 2047, FLOAT64)
    with pytest.raises(ValueError, match=f"sums may reach {FLOAT64}, .* take smaller weights"):
        layer_of(definition)


def test_rounding_counts_for_the_bound() -> None:
    definition, _ = at_bound(256, 256, 255, FLOAT32 - 1)
    assert layer_of(definition._replace(shift=np.array((0, 1)))).dtype == np.float64


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("limit", [256, 3000])
def test_large_layers(limit: int, threads: int) -> None:
    """Such as libraries share among threads, and compute in another order for each number of these."""
    generator = np.random.default_rng(0)
    weight = generator.integers(-limit, limit + 1, (300, 500)) // 4
    x = generator.integers(-limit, limit + 1, (700, 500))
    layer = layer_of(Definition(weight, np.arange(300), np.full(300, 3), np.array((-limit, limit))))
    assert layer.dtype == (np.float32 if limit == 256 else np.float64)
    with threadpool_limits(threads):
        found = layer(x)
    assert np.array_equal(found, (x @ weight.T + np.arange(300) + 4) >> 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": np.ones((2, 3))}, "weight must be whole numbers of an integer type, not float64"),
        ({"weight": np.full((2, 3), 2**31)}, r"weights must be within -2\*\*31"),
        ({"weight": np.full((2, 3), -(2**63))}, r"weights must be within -2\*\*31"),
        ({"weight": np.ones((2, 0), np.int64)}, "needs weights"),
        ({"bias": np.zeros(3, np.int64)}, r"bias must be of shape \(2,\), and is of shape \(3,\)"),
        ({"inputs": np.array(9)}, r"inputs must be of shape \(2,\), and is of shape \(\)"),
        ({"shift": np.array((0, -1))}, "shifts must be 0 to 52, not -1 to 0"),
        ({"shift": np.array((0, 53))}, "shifts must be 0 to 52, not 0 to 53"),
        ({"inputs": np.array((3, 2))}, "least input, 3, must not be above the greatest, 2"),
    ],
)
def test_wrong_layers(change: dict[str, Array], message: str) -> None:
    zero = np.zeros(2, np.int64)
    definition = Definition(np.ones((2, 3), np.int64), zero, zero, np.array((0, 9)))
    with pytest.raises(ValueError, match=message):
        layer_of(definition._replace(**change))


# Convolutions


@st.composite
def convolution_cases(draw: st.DrawFn) -> tuple[Definition, Array]:
    channels, kernel = draw(st.integers(1, 3)), draw(st.sampled_from((1, 3, 5)))
    definition, side = draw_whole(draw, (channels, 1, kernel, kernel)), st.integers(1, 5)
    return definition, arrays(draw, (draw(side), draw(side), channels), draw(limits))


def plain_convolution(definition: Definition, x: Array) -> Nested:
    (height, width, channels), kernel = x.shape, definition.weight.shape[2]

    def at(o: int, y: int, x_: int) -> int:
        terms = []
        for dy, dx in itertools.product(range(kernel), repeat=2):
            row = min(max(y + dy - kernel // 2, 0), height - 1)
            column = min(max(x_ + dx - kernel // 2, 0), width - 1)
            terms.append(int(definition.weight[o, 0, dy, dx]) * clamp(int(x[row, column, o]), definition))
        return outputs(definition, o, terms)

    return [[[at(o, y, x_) for o in range(channels)] for x_ in range(width)] for y in range(height)]


@settings(deadline=None)
@given(convolution_cases())
def test_convolution(case: tuple[Definition, Array]) -> None:
    definition, x = case
    assert layer_of(definition)(x).tolist() == plain_convolution(definition, x)


@pytest.mark.parametrize("limit", [256, 1300])
def test_large_convolutions(limit: int) -> None:
    generator = np.random.default_rng(0)
    weight = generator.integers(-limit, limit + 1, (64, 1, 3, 3)) // 3
    x = generator.integers(-limit, limit + 1, (33, 40, 64))
    zero = np.zeros(64, np.int64)
    layer = layer_of(Definition(weight, zero, zero, np.array((-limit, limit))))
    assert layer.dtype == np.float32
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), "edge")
    unfolded = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))  # (h, w, channels, 3, 3)
    assert np.array_equal(layer(x), np.einsum("yxcij,cij->yxc", unfolded, weight[:, 0]))


@pytest.mark.parametrize(("more", "dtype"), [(0, np.float32), (1, np.float64)])
def test_depthwise_bounds_are_tight(more: int, dtype: type[np.floating]) -> None:
    """Products element by element are exact for operands of any size, as long as their sums are."""
    weight = np.full((2, 1, 3, 3), 621378)
    weight[:, :, 1] *= -1
    bias = np.array((FLOAT32 - 1 + more - 27 * 621378, 0))
    zero, inputs = np.zeros(2, np.int64), np.array((-3, 3))
    layer = layer_of(Definition(weight, bias, zero, inputs))
    assert layer.dtype == dtype
    found = layer(3 * np.sign(weight)[:, 0].transpose(1, 2, 0))
    assert found[1, 1].tolist() == [FLOAT32 - 1 + more, 27 * 621378]


# Loading


class Network(Proven):
    """Three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers_: list[Any] = [Linear(6, 4), Depthwise(6, 3)]
        self.by_name = {"linear": Linear(6, 6)}

    def __call__(self, x: Array) -> Array:
        found: Array = self.layers_[1](self.by_name["linear"](self.layers_[0](x)))
        return found


def state() -> dict[str, Array]:
    generator = np.random.default_rng(0)
    shapes = {"layers_.0": (6, 4), "layers_.1": (6, 1, 3, 3), "by_name.linear": (6, 6)}
    ranges = {"layers_.0": (-255, 255), "layers_.1": (-99, 100), "by_name.linear": (-255, 255)}
    found = dict[str, Array]()
    for name, shape in shapes.items():
        bias = generator.normal(size=6)
        layer = quantise(generator.normal(size=shape), bias, ranges[name], 16, 16)
        found |= {f"{name}.{field}": numbers for field, numbers in layer._asdict().items()}
    return found


INPUT = np.arange(5 * 7 * 4).reshape(5, 7, 4) * 37 % 511 - 255


def test_loaded_layers_are_the_same() -> None:
    """From the smallest integers that hold their numbers, in place of other numbers, and beside names of others."""
    narrow = narrowed(state())
    kinds = {name: numbers.dtype for name, numbers in narrow.items()}
    assert kinds["layers_.0.weight"] == kinds["layers_.0.shift"] == kinds["by_name.linear.weight"] == np.int8
    assert Network().outline() == {name: numbers.shape for name, numbers in narrow.items()}
    made, loaded = Network().load(state()), Network().load({name: numbers // 2 for name, numbers in state().items()})
    assert not np.array_equal(loaded(INPUT), made(INPUT))
    loaded.load({"other": np.zeros(1)} | {f"one.{name}": numbers for name, numbers in narrow.items()}, "one.")
    assert np.array_equal(loaded(INPUT), made(INPUT))
    assert len(np.unique(made(INPUT))) > 50
    assert [name for name, _ in made.layers()] == ["layers_.0", "layers_.1", "by_name.linear"]


def test_what_is_loaded_is_proven() -> None:
    whole = {name: np.array(t) for name, t in zip(Definition._fields, ([[1, 2]], [0], [0], [-9, 9]), strict=True)}
    layer = Linear(1, 2).load(whole)
    assert layer.dtype == np.float32
    layer.load(whole | {"weight": np.array([[2**30, 5]])})
    assert layer.dtype == np.float64
    assert layer.bound == 9 * (2**30 + 5)
    assert layer(np.array([[9, 9]])).tolist() == [[9 * (2**30 + 5)]]
    with pytest.raises(ValueError, match="sums may reach"):
        layer.load(whole | {"weight": np.array([[2**30, 5]]), "inputs": np.array((0, 2**40))})
    for name, numbers, message in (
        ("one.weight", np.array([[0.5, 5]]), r"one\.weight must be whole numbers of an integer type"),
        ("one.weight", np.array([[1, 2, 3]]), r"one\.weight must be of shape \(1, 2\), and is of shape \(1, 3\)"),
        ("other", np.array(1), r"one\.inputs must be of shape \(2,\), and is missing"),
    ):
        given_ = {f"one.{n}": numbers for n, numbers in whole.items() if n != "inputs" or name != "other"}
        with pytest.raises(ValueError, match=message):
            layer.load(given_ | {name: numbers}, "one.")


@pytest.mark.parametrize("change", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_are_the_same(change: Callable[[Network], Network]) -> None:
    network = Network().load(state())
    assert np.array_equal(change(network)(INPUT), network(INPUT))


# Quantisation


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300), st.floats(-3, 1), st.sampled_from((1, 20, 256)))
def test_quantised_layers_are_as_near_as_they_can_be(seed: int, inputs: int, size: float, limit: int) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(3, inputs)) * 10**size * np.array([[1], [0.01], [0]])
    bias = generator.normal(size=3)
    definition = quantise(weight, bias, (-limit, limit), 16, 20)
    layer = layer_of(definition)
    assert layer.dtype == np.float32
    x = generator.integers(-limit, limit + 1, (9, inputs)).astype(np.float64)
    x[0] = limit * np.sign(weight[0])
    exact = 20 * (x / 16 @ weight.T + bias)
    rounding = (inputs * limit + 1) / 2 * 2.0**-definition.shift + 0.5  # of weights, bias and outputs
    assert (np.abs(layer(x) - exact) <= rounding + 1e-6).all()


def test_weights_use_the_bits_there_are() -> None:
    weight = np.random.default_rng(0).normal(size=(50, 192)) / 14
    definition = quantise(weight, None, (-127, 127), 32, 32)
    greatest = np.abs(definition.weight).max(1)
    assert (greatest >= 2**6).all()
    assert (greatest < 2**7).all()
    assert np.abs(definition.weight * 2.0 ** -definition.shift[:, None] - weight).max() < 0.02 * np.abs(weight).max()


def test_scales_that_are_too_fine() -> None:
    with pytest.raises(ValueError, match=r"output 1 cannot be exact in float32: its weights are up to 1e\+03"):
        quantise(np.array([[1.0], [1000.0]]), None, (-9, 9), 1, 1)
