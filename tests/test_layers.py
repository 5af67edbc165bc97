"""Integer layers, each against Python's whole numbers, under whatever else is set, up to the bounds of exactness."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from decimal import ROUND_FLOOR, Decimal, localcontext
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import backend_registration

from codec.autoencoders.networks.transform import MAX_GATE, Block
from codec.entropy.layers import Convolution, Definition, Layer, Linear, Table, narrowed, product, quantise

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FLOAT32, FLOAT64 = 2**24, 2**53
Nested = list[Any]


@contextmanager
def circumstances(threads: int, precision: str, autocast: bool) -> Iterator[None]:
    """Settings of a program that uses this one, which make other networks less exact."""
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])


around = st.builds(circumstances, st.sampled_from((1, 2)), st.sampled_from(("highest", "medium")), st.booleans())
limits = st.sampled_from((1, 9, 127, 256, 257, 4095, 2**15))


def whole_numbers(limit: int) -> st.SearchStrategy[int]:
    """Any, those near zero, and the extremes."""
    return st.integers(-limit, limit) | st.integers(-min(limit, 2), min(limit, 2)) | st.sampled_from((-limit, limit))


def arrays(draw: st.DrawFn, shape: tuple[int, ...], limit: int) -> Tensor:
    count = prod(shape)
    numbers = draw(st.lists(whole_numbers(limit), min_size=count, max_size=count))
    return torch.tensor(numbers, dtype=torch.int64).reshape(shape)


def draw_whole(draw: st.DrawFn, shape: tuple[int, ...]) -> Definition:
    low, high = sorted((draw(whole_numbers(draw(limits))), draw(whole_numbers(draw(limits)))))
    weight, bias = arrays(draw, shape, draw(limits)), arrays(draw, shape[:1], draw(st.sampled_from((0, 9, 2**20))))
    shift = torch.tensor(draw(st.lists(st.integers(0, 20), min_size=shape[0], max_size=shape[0])))
    return Definition(weight, bias, shift, torch.tensor((low, high)))


def outputs(definition: Definition, output: int, products: list[int]) -> int:
    shift = int(definition.shift[output])
    return (sum(products) + int(definition.bias[output]) + ((1 << shift) >> 1)) >> shift


def clamp(x: int, definition: Definition) -> int:
    low, high = definition.inputs.tolist()
    return int(min(max(x, low), high))


# Linear layers


@st.composite
def linear_cases(draw: st.DrawFn) -> tuple[Definition, Tensor]:
    inputs = draw(st.integers(1, 40))
    definition = draw_whole(draw, (draw(st.integers(1, 5)), inputs))
    return definition, arrays(draw, (draw(st.integers(0, 4)), inputs), draw(limits))


def plain_linear(definition: Definition, x: Tensor) -> Nested:
    rows = definition.weight.tolist()
    return [
        [
            outputs(definition, o, [w * clamp(i, definition) for w, i in zip(row, one, strict=True)])
            for o, row in enumerate(rows)
        ]
        for one in x.tolist()
    ]


@settings(deadline=None)
@given(linear_cases(), around, st.sampled_from((torch.int64, torch.float32, torch.float64)))
def test_linear(case: tuple[Definition, Tensor], around: Any, dtype: torch.dtype) -> None:
    definition, x = case
    with around:
        assert Linear(definition)(x.to(dtype)).tolist() == plain_linear(definition, x)


def at_bound(weight: int, limit: int, inputs: int, bound: int) -> tuple[Definition, Tensor]:
    """A layer of so many weights and of odd sums, which may reach a bound, and inputs for which they do."""
    weights = torch.full((2, inputs), weight)
    weights[:, ::2] *= -1
    bias = bound - inputs * weight * limit
    assert bias > 0
    definition = Definition(
        weights, torch.tensor((bias, -bias)), torch.zeros(2, dtype=torch.int64), torch.tensor((-limit, limit))
    )
    return definition, torch.stack((weights[0].sign() * limit, -weights[0].sign() * limit))


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize(
    ("weight", "limit", "inputs", "bound", "dtype"),
    [
        (256, 256, 255, FLOAT32 - 1, torch.float32),
        (256, 256, 255, FLOAT32, torch.float64),
        (256, 257, 250, FLOAT32 - 1, torch.float64),  # operands that may be rounded
        (257, 256, 250, FLOAT32 - 1, torch.float64),
        (2**21 - 1, 2**21, 2047, FLOAT64 - 1, torch.float64),
    ],
)
def test_bounds_are_tight(weight: int, limit: int, inputs: int, bound: int, dtype: torch.dtype, precision: str) -> None:
    definition, x = at_bound(weight, limit, inputs, bound)
    layer = Linear(definition)
    assert (layer.bound, layer.dtype) == (bound, dtype)
    with circumstances(1, precision, autocast=True):
        found = layer(x).tolist()
    assert found == plain_linear(definition, x)
    assert found[0][0] == bound == -found[1][1]


def test_what_cannot_be_exact_is_refused() -> None:
    definition, _ = at_bound(2**21 - 1, 2**21, 2047, FLOAT64)
    with pytest.raises(ValueError, match=f"sums may reach {FLOAT64}, .* take smaller weights"):
        Linear(definition)


def test_rounding_counts_for_the_bound() -> None:
    definition, _ = at_bound(256, 256, 255, FLOAT32 - 1)
    assert Linear(definition._replace(shift=torch.tensor((0, 1)))).dtype == torch.float64


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("limit", [256, 3000])
def test_large_layers(limit: int, device: str, threads: int, precision: str) -> None:
    """Such as libraries share among threads, and compute in another order for each number of these."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-limit, limit + 1, (300, 500), generator=generator) // 4
    x = torch.randint(-limit, limit + 1, (700, 500), generator=generator)
    shift, inputs = torch.full((300,), 3), torch.tensor((-limit, limit))
    layer = Linear(Definition(weight, torch.arange(300), shift, inputs)).to(device)
    assert layer.dtype == (torch.float32 if limit == 256 else torch.float64)
    with circumstances(threads, precision, autocast=False):
        found = layer(x.to(device)).cpu()
    assert torch.equal(found.long(), (x @ weight.T + torch.arange(300) + 4) >> 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(2, 3)}, "weight must be whole numbers of an integer type, not torch.float32"),
        ({"weight": torch.full((2, 3), 2**31)}, r"weights must be within -2\*\*31"),
        ({"weight": torch.full((2, 3), -(2**63))}, r"weights must be within -2\*\*31"),
        ({"weight": torch.ones(2, 0, dtype=torch.int64)}, "needs weights"),
        ({"bias": torch.zeros(3, dtype=torch.int64)}, "one bias and one shift for each output"),
        ({"inputs": torch.tensor(9)}, "the least and greatest input: there are tensors of shapes"),
        ({"shift": torch.tensor((0, -1))}, "shifts must be 0 to 52, not -1 to 0"),
        ({"shift": torch.tensor((0, 53))}, "shifts must be 0 to 52, not 0 to 53"),
        ({"inputs": torch.tensor((3, 2))}, "least input, 3, must not be above the greatest, 2"),
    ],
)
def test_wrong_layers(change: dict[str, Tensor], message: str) -> None:
    zero = torch.zeros(2, dtype=torch.int64)
    definition = Definition(torch.ones(2, 3, dtype=torch.int64), zero, zero, torch.tensor((0, 9)))
    with pytest.raises(ValueError, match=message):
        Linear(definition._replace(**change))


# Convolutions


@st.composite
def convolution_cases(draw: st.DrawFn) -> tuple[Definition, Tensor, dict[str, Any]]:
    depthwise, kernel, padding = draw(st.booleans()), draw(st.integers(1, 4)), draw(st.integers(0, 2))
    rows, inputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    definition = draw_whole(draw, (inputs, 1, kernel, kernel) if depthwise else (rows, inputs, kernel, kernel))
    side = st.integers(max(1, kernel - 2 * padding), 5)
    x = arrays(draw, (draw(st.integers(1, 2)), inputs, draw(side), draw(side)), draw(limits))
    return definition, x, {"stride": draw(st.integers(1, 3)), "padding": padding, "depthwise": depthwise}


def plain_convolution(definition: Definition, x: Tensor, stride: int, padding: int, depthwise: bool) -> Nested:
    (height, width), (rows, inputs, kernel, _) = x.shape[2:], definition.weight.shape

    def at(batch: int, o: int, y: int, x_: int) -> int:
        terms = []
        for i, dy, dx in itertools.product(range(inputs), range(kernel), range(kernel)):
            row = min(max(stride * y + dy - padding, 0), height - 1)
            column = min(max(stride * x_ + dx - padding, 0), width - 1)
            value = int(x[batch, o if depthwise else i, row, column])
            terms.append(int(definition.weight[o, i, dy, dx]) * clamp(value, definition))
        return outputs(definition, o, terms)

    ys, xs = (range((side + 2 * padding - kernel) // stride + 1) for side in (height, width))
    return [[[[at(b, o, y, x_) for x_ in xs] for y in ys] for o in range(rows)] for b in range(len(x))]


@settings(deadline=None)
@given(convolution_cases(), around)
def test_convolution(case: tuple[Definition, Tensor, dict[str, Any]], around: Any) -> None:
    definition, x, options = case
    with around:
        assert Convolution(definition, **options)(x.float()).tolist() == plain_convolution(definition, x, **options)


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("depthwise", "limit"), [(True, 256), (True, 1300), (False, 256), (False, 4000)])
def test_large_convolutions(depthwise: bool, limit: int, device: str, threads: int, precision: str) -> None:
    """Convolutions of a size for which libraries choose Winograd's algorithm in float32."""
    generator = torch.Generator().manual_seed(0)
    shape = (64, 1 if depthwise else 64, 3, 3)
    weight = torch.randint(-limit, limit + 1, shape, generator=generator) // 3
    x = torch.randint(-limit, limit + 1, (2, 64, 33, 40), generator=generator)
    zero, inputs = torch.zeros(64, dtype=torch.int64), torch.tensor((-limit, limit))
    layer = Convolution(Definition(weight, zero, zero, inputs), padding=1, depthwise=depthwise).to(device)
    assert layer.dtype == (torch.float32 if depthwise or limit == 256 else torch.float64)
    with circumstances(threads, precision, autocast=False):
        found = layer(x.to(device).to(memory_format=torch.channels_last)).cpu()
    padded = F.pad(x.double(), (1,) * 4, mode="replicate").long()
    unfolded = padded.unfold(2, 3, 1).unfold(3, 3, 1)
    equation = "bcyxij,cij->bcyx" if depthwise else "bcyxij,ocij->boyx"
    expected = torch.einsum(equation, unfolded, weight[:, 0] if depthwise else weight)
    assert torch.equal(found.long(), expected)


@pytest.mark.parametrize(("more", "dtype"), [(0, torch.float32), (1, torch.float64)])
def test_depthwise_bounds_are_tight(more: int, dtype: torch.dtype) -> None:
    """Products element by element are exact for operands of any size, as long as their sums are."""
    weight = torch.full((2, 1, 3, 3), 621378)
    weight[:, :, 1] *= -1
    bias = torch.tensor((FLOAT32 - 1 + more - 27 * 621378, 0))
    zero, inputs = torch.zeros(2, dtype=torch.int64), torch.tensor((-3, 3))
    layer = Convolution(Definition(weight, bias, zero, inputs), depthwise=True)
    assert layer.dtype == dtype
    found = layer(3 * weight.sign().reshape(1, 2, 3, 3))
    assert found.flatten().tolist() == [FLOAT32 - 1 + more, 27 * 621378]


def test_wrong_convolutions() -> None:
    zero = torch.zeros(2, dtype=torch.int64)

    def make(*shape: int, **options: Any) -> Convolution:
        return Convolution(
            Definition(torch.ones(shape, dtype=torch.int64), zero, zero, torch.tensor((0, 9))), **options
        )

    for shape in ((2, 3), (2, 3, 1, 3)):
        with pytest.raises(ValueError, match="none of a convolution with square kernels"):
            make(*shape)
    with pytest.raises(ValueError, match="none of a convolution"):
        make(2, 3, 3, 3, depthwise=True)
    with pytest.raises(ValueError, match="smaller than the kernel's 3"):
        make(2, 3, 3, 3)(torch.zeros(1, 3, 2, 9))


# Loading, moving


def network() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    pointwise, depthwise = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((6, 4, 1, 1), (6, 1, 3, 3))
    )
    first, _ = quantise(pointwise, None, (-255, 255), 16, 16)
    second, _ = quantise(depthwise, torch.ones(6), (-99, 100), 16, 256, torch.float64)
    return nn.Sequential(
        Convolution(first), Table.silu((-99, 100), 16, 16), Convolution(second, padding=1, depthwise=True)
    )


INPUT = torch.arange(4 * 5 * 7).reshape(1, 4, 5, 7) * 37 % 511 - 255


def test_loaded_layers_are_the_same() -> None:
    """From the smallest integers that hold their numbers, in place of other numbers."""
    made, loaded = network(), network()
    state = narrowed(made.state_dict())
    kinds = {name: numbers.dtype for name, numbers in state.items()}
    assert kinds["0.weight"] == kinds["0.shift"] == kinds["1.low"] == torch.int8
    for buffer in loaded.buffers():
        buffer.zero_()
    loaded.load_state_dict(state)
    assert torch.equal(loaded(INPUT), made(INPUT))
    assert made(INPUT).unique().numel() > 50
    loaded.load_state_dict(state, assign=True)
    assert torch.equal(loaded(INPUT), made(INPUT))


def test_what_is_loaded_is_proven() -> None:
    definition = Definition(*(torch.tensor(t) for t in ([[1, 2]], [0], [0], [-9, 9])))
    holder = nn.Sequential(Linear(definition))
    layer = holder[0]
    assert isinstance(layer, Layer)
    assert layer.dtype == torch.float32
    state = {name: t.clone() for name, t in holder.state_dict().items()} | {"0.weight": torch.tensor([[2**30, 5]])}
    holder.load_state_dict(state)
    assert (layer.dtype, layer.bound) == (torch.float64, 9 * (2**30 + 5))
    assert layer(torch.tensor([[9, 9]])).tolist() == [[9 * (2**30 + 5)]]
    with pytest.raises(ValueError, match="sums may reach"):
        holder.load_state_dict(state | {"0.inputs": torch.tensor((0, 2**40))})
    with pytest.raises(ValueError, match=r"0\.weight must be whole numbers of an integer type"):
        holder.load_state_dict(state | {"0.weight": torch.tensor([[0.5, 5]])})
    with pytest.raises(RuntimeError, match="size mismatch"):
        holder.load_state_dict(state | {"0.weight": torch.tensor([[1, 2, 3]]), "0.inputs": torch.tensor((0, 2**40))})


MOVED = """
import fake_device, torch
from test_layers import INPUT, network, product
fake_device.register()
expected = network()(INPUT)
with fake_device.patched():
    moved = network().to("fake:0")
    found = moved(INPUT.to("fake:0"))
    moved.load_state_dict(moved.state_dict())
    again = moved(INPUT.to("fake:0"))
    assert isinstance(product(found, found, 7, (1000, 1000)), fake_device.Fake)
assert torch.equal(found.cpu(), expected)
assert torch.equal(again.cpu(), expected)
"""


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no such devices",
)
def test_all_is_on_the_device() -> None:
    """In a process of its own: a device that torch knows is there for good."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", MOVED]
    result = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize(
    "change", [nn.Module.half, nn.Module.double, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))]
)
def test_no_change_of_a_network_changes_results(change: Callable[[nn.Module], nn.Module]) -> None:
    assert torch.equal(change(network())(INPUT), network()(INPUT))


@pytest.mark.parametrize("default", [torch.float16, torch.float64])
def test_no_default_changes_results(default: torch.dtype) -> None:
    expected, before = network()(INPUT), torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        assert torch.equal(network()(INPUT), expected)
    finally:
        torch.set_default_dtype(before)


# Activations


@settings(deadline=None)
@given(
    st.lists(whole_numbers(FLOAT32 - 1), min_size=1, max_size=30),
    whole_numbers(1000),
    st.lists(whole_numbers(2**40), max_size=30),
    st.sampled_from((torch.int64, torch.float64)),
)
def test_table(values: list[int], low: int, inputs: list[int], dtype: torch.dtype) -> None:
    found = Table(torch.tensor(values), low)(torch.tensor(inputs, dtype=dtype))
    assert found.tolist() == [values[min(max(x - low, 0), len(values) - 1)] for x in inputs]


@settings(deadline=None)
@given(st.integers(-3000, 3000), st.integers(1, 500), st.integers(1, 500), st.integers(-9, 500))
def test_silu_is_rounded_to_the_nearest(x: int, scale_in: int, scale_out: int, ceiling: int) -> None:
    with localcontext(prec=60):
        real = Decimal(x) / scale_in
        exact = scale_out * real / (1 + (-real).exp())
        expected = int((exact + Decimal("0.5")).to_integral_value(ROUND_FLOOR))
    table = Table.silu((x - 1, x + 1), scale_in, scale_out)
    assert table(torch.tensor([x])).tolist() == [expected]
    table = Table.silu((x, x), scale_in, scale_out, ceiling)
    assert table(torch.tensor([x])).tolist() == [min(expected, ceiling)]


@pytest.mark.parametrize(
    ("values", "low", "message"),
    [
        (torch.tensor([FLOAT32]), 0, r"below 2\*\*24, not 16777216"),
        (torch.tensor([1, 2]), FLOAT32 - 1, r"below 2\*\*24"),
        (torch.tensor([0.5]), 0, "whole numbers of an integer type"),
        (torch.zeros(2, 2, dtype=torch.int64), 0, "a row of numbers"),
    ],
)
def test_wrong_tables(values: Tensor, low: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table(values, low)


@settings(deadline=None)
@given(st.data(), st.integers(0, 30), st.tuples(limits, limits), around)
def test_product(data: st.DataObject, shift: int, bounds: tuple[int, int], around: Any) -> None:
    x, y = (data.draw(st.lists(whole_numbers(2 * b), min_size=5, max_size=5)) for b in bounds)
    with around:
        found = product(torch.tensor(x, dtype=torch.float32), torch.tensor(y), shift, bounds)
    pairs = [[min(max(n, -b), b) for n in numbers] for numbers, b in zip((x, y), bounds, strict=True)]
    assert found.tolist() == [(a * b + ((1 << shift) >> 1)) >> shift for a, b in zip(*pairs, strict=True)]


def test_products_at_the_bounds() -> None:
    for bound, dtype in ((4095, torch.float32), (4097, torch.float64), (94906265, torch.float64)):
        x = torch.tensor((bound, -bound, bound - 1))
        found = product(x, x.flip(0), 0, (bound, bound))
        assert found.dtype == dtype
        assert torch.equal(found.long(), x * x.flip(0))
    with pytest.raises(ValueError, match="sums may reach"):
        product(x, x, 0, (94906266, 94906266))
    with pytest.raises(ValueError, match="shifts must be 0 to 52, not 53"):
        product(x, x, 53, (1, 1))


# Quantisation


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 300),
    st.floats(-3, 1),
    st.sampled_from((1, 20, 256)),
    st.sampled_from((torch.float32, torch.float64)),
)
def test_quantised_layers_are_as_near_as_reported(
    seed: int, inputs: int, size: float, limit: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, inputs, generator=generator) * 10**size * torch.tensor([[1], [0.01], [0]])
    bias = torch.randn(3, generator=generator)
    definition, report = quantise(weight, bias, (-limit, limit), 16, 20, dtype)
    layer = Linear(definition)
    assert layer.dtype == torch.float32 or dtype == torch.float64
    x = torch.randint(-limit, limit + 1, (9, inputs), generator=generator).double()
    x[0] = limit * weight[0].sign()
    exact = 20 * (x / 16 @ weight.double().T + bias.double())
    assert ((layer(x) - exact).abs() <= report.worst + 1e-6).all()
    assert (report.worst >= 0.5).all()
    assert report.noise[2] == 0


def test_weights_use_the_bits_there_are() -> None:
    weight = torch.randn(50, 192, generator=torch.Generator().manual_seed(0)) / 14
    for dtype, least, noise in ((torch.float32, 2**6, 0.02), (torch.float64, 2**14, 1e-4)):
        definition, report = quantise(weight, None, (-127, 127), 32, 32, dtype)
        greatest = definition.weight.abs().amax(1)
        assert (greatest >= least).all()
        assert (greatest < 2 * least).all()
        assert float(report.noise.max()) < noise


def test_scales_that_are_too_fine() -> None:
    with pytest.raises(ValueError, match=r"output 1 cannot be exact in torch.float32: its weights are up to 1e\+03"):
        quantise(torch.tensor([[1.0], [1000.0]]), None, (-9, 9), 1, 1)
    quantise(torch.tensor([[1.0], [1000.0]]), None, (-9, 9), 1, 1, torch.float64)


# A network


class IntegerBlock(nn.Module):
    """The residual block of the transform and its prior, in whole numbers.

    Args:
        stream: whole numbers for a real one, between blocks.
        inner: and within.
        reach: greatest real number there is room for.
    """

    def __init__(self, block: Block, stream: int, inner: int, reach: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.outer, self.limit, self.inner = reach * stream, reach * inner, inner
        inside = (-self.limit, self.limit)

        def layer(of: nn.Linear | nn.Conv2d, inputs: int, scale_in: int, scale_out: int, **options: Any) -> Convolution:
            weight = of.weight if of.weight.dim() == 4 else of.weight[:, :, None, None]
            return Convolution(quantise(weight, of.bias, (-inputs, inputs), scale_in, scale_out, dtype)[0], **options)

        self.mix_in = layer(block.mix_in, self.outer, stream, inner)
        self.silu = Table.silu(inside, inner, inner)
        self.mix = layer(block.mix, self.limit, inner, inner, padding=1, depthwise=True)
        self.mix_out = layer(block.mix_out, self.limit, inner, stream)
        self.gate_in = layer(block.gate_in, self.outer, stream, inner)
        self.gate = Table.silu(inside, inner, inner, ceiling=round(MAX_GATE * inner))
        self.gate_out = layer(block.gate_out, self.limit, inner, stream)

    def forward(self, x: Tensor) -> Tensor:
        x = (x + self.mix_out(self.mix(self.silu(self.mix_in(x))))).clamp(-self.outer, self.outer)
        gate, value = self.gate_in(x).chunk(2, 1)
        gated = product(self.gate(gate), value, self.inner.bit_length() - 1, (self.limit, self.limit))
        result: Tensor = (x + self.gate_out(gated)).clamp(-self.outer, self.outer)
        return result


@pytest.mark.parametrize(
    ("dtype", "stream", "inner", "reach", "tolerance"),
    [(torch.float32, 16, 16, 16, 0.1), (torch.float64, 2048, 1024, 64, 2e-3)],
)
def test_block_of_the_prior(dtype: torch.dtype, stream: int, inner: int, reach: int, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    block = Block(48, 1).requires_grad_(False)
    for layer in (block.mix_in, block.mix, block.mix_out, block.gate_in, block.gate_out):
        layer.weight.normal_(std=layer.weight[0].numel() ** -0.5, generator=generator)
        nn.init.normal_(layer.bias, std=0.1, generator=generator)  # type: ignore[arg-type]
    integer = IntegerBlock(block, stream, inner, reach, dtype)
    layers = [module for module in integer.modules() if isinstance(module, Layer)]
    assert all(layer.dtype == dtype for layer in layers if not layer.depthwise)
    x = torch.randn(2, 48, 9, 12, generator=generator).mul(stream / 4).round()  # so that nothing is shortened
    found = integer(x)
    error = found / stream - block(x / stream)
    assert float(error.square().mean().sqrt()) < tolerance
    with circumstances(2, "medium", autocast=True):
        assert torch.equal(integer(x), found)
