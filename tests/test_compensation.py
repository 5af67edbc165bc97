"""Quantisation of functions' weights in which those that follow make up for the error of each."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from codec.overfit import arm, fit, initialisation, synthesis
from codec.overfit.bitstream import QuantisedWeights, magnitude_bits, weight_bits
from codec.overfit.compensation import Floats, compensated
from codec.overfit.fit import Schedule
from codec.overfit.function import Function
from codec.overfit.quantise import BOUNDS, dequantise, quantise
from codec.overfit.spec import Spec

CPU = torch.device("cpu")


def curvature(count: int, seed: int = 0) -> Floats:
    """That of weights which do much the same: its eigenvalues go from 1 to 1e-4."""
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(generator.normal(size=(count, count))).Q
    found: Floats = axes @ np.diag(np.logspace(-4, 0, count)) @ axes.T
    return found


def test_weights_make_up_for_each_other() -> None:
    """Error and bits cost an eighth less than with rounding alone, whatever its steps are."""
    generator = np.random.default_rng(1)
    tensors, price, of_cost = [generator.normal(size=shape) for shape in ((12, 8), (24,))], 1e-4, curvature(120)

    def total(integers: list[np.ndarray], exponents: list[int]) -> float:
        pairs = zip(tensors, integers, exponents, strict=True)
        error = np.concatenate([(tensor - whole * 2.0**-exponent).reshape(-1) for tensor, whole, exponent in pairs])
        return float(error @ of_cost @ error) / 2 + price * sum(weight_bits(whole)[0] for whole in integers)

    exponents, integers = compensated(tensors, of_cost, price, BOUNDS)
    assert [whole.shape for whole in integers] == [(12, 8), (24,)]
    alone = min(total([np.rint(t * 2**e).astype(np.int32) for t in tensors], [e, e]) for e in range(12))
    assert total(integers, exponents) < 0.875 * alone


def test_weights_that_are_not_worth_their_bits_are_nothing() -> None:
    tensors = [np.full((3, 4), 0.3)]
    assert not compensated(tensors, 1e-6 * np.eye(12), 1.0, BOUNDS)[1][0].any()
    assert not compensated(tensors, np.zeros((12, 12)), 1e-3, BOUNDS)[1][0].any()


def test_integers_are_bounded() -> None:
    tensors = [np.array([1e6, -1e6, 0.1])]
    [exponent], [integers] = compensated(tensors, 1e9 * np.eye(3), 1e-3, BOUNDS)
    assert integers[:2].tolist() == [BOUNDS[exponent], -BOUNDS[exponent]]


@pytest.mark.parametrize("scale", [0, 20, 63])
def test_bits_of_magnitudes(scale: int) -> None:
    bits = magnitude_bits(scale)
    assert (np.diff(bits) > -1e-9).all()
    assert np.exp2(-bits).sum() * 2 - np.exp2(-bits[0]) < 1.001  # both signs, but of zero
    integers = np.array([[0, 1, -2], [600, 0, -512]], np.int32)
    found, best = weight_bits(integers)
    assert math.isclose(found - 10, magnitude_bits(best)[[0, 1, 2, 512, 0, 512]].sum())


def target_of(spec: Spec) -> Tensor:
    y, x = torch.meshgrid(torch.arange(float(spec.height)), torch.arange(float(spec.width)), indexing="ij")
    return (0.5 + 0.3 * torch.stack([(x / 7).sin(), (x * y / 90).cos(), (y / 5).sin()]))[None]


def fitted(spec: Spec) -> Function:
    """A function after some iterations."""
    generator = torch.Generator().manual_seed(0)
    start, schedule = initialisation.random(spec, generator), Schedule(0, 60, 5, preconditioned=True)
    return fit.fit(target_of(spec), torch.full((1,), 1e-3), [start], schedule, generator)


def fitted_before() -> Function:
    """`fitted(SPEC)` of one machine: roundings of others lead elsewhere, and compensation does not always pay."""
    tensors = load_file(Path(__file__).with_name("fitted.safetensors"))
    weights = {name: tensors[f"weights.{name}"] for name in SPEC.weight_shapes}
    return Function(SPEC, weights, [tensors[f"grids.{level}"] for level in range(3)])


SPEC = Spec(24, 36, 3, features=(1, 1, 1), spatial=5, references=2, hidden=6, residuals=1)


def test_gradients_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of squares over groups of one sample are those of the gradients that each position alone has."""
    spec = Spec(5, 6, 1, features=(1, 1), spatial=3, references=1, hidden=2, residuals=0)
    function = fitted(replace(spec, outputs=3))
    names = list(arm.WEIGHTS)
    count = sum(function.weights[name].numel() for name in names)
    expected = torch.zeros(count, count)
    for level, grid in enumerate(function.grids):
        for place in range(grid.numel()):
            inside = [torch.zeros_like(g) for g in function.grids]
            inside[level].view(-1)[place] = 1
            weights = {name: w.detach().requires_grad_() for name, w in function.weights.items()}
            bits = arm.rate(function.grids, weights, function.spec, inside)
            own = torch.cat([g.flatten() for g in torch.autograd.grad(bits, [weights[name] for name in names])])
            expected += own.outer(own)
    [rows] = arm.group_gradients(function.grids, function.weights, function.spec, torch.Generator())
    assert rows.shape == (sum(g.numel() for g in function.grids), count)
    torch.testing.assert_close(rows.mT @ rows, expected)
    monkeypatch.setattr(arm, "GROUPS", 8)
    [rows] = arm.group_gradients(function.grids, function.weights, function.spec, torch.Generator())
    assert rows.shape == (8, count)


@pytest.mark.parametrize("tile", [4, 7])
def test_gradients_of_tiles(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of their squares is that of the gradients of all samples."""
    monkeypatch.setattr(synthesis, "TILE", tile)
    function = fitted(SPEC)
    names = [name for name in SPEC.weight_shapes if name.startswith("synthesis.")]
    factors = torch.rand(1, 1, 24, 36, generator=torch.Generator().manual_seed(1))
    weights = {name: w.detach().requires_grad_() for name, w in function.weights.items()}
    output = synthesis.output(function.grids, weights, SPEC) * factors
    expected = torch.zeros(sum(weights[name].numel() for name in names))
    for sample in output.flatten():
        own = torch.autograd.grad(sample, [weights[name] for name in names], retain_graph=True)
        expected += torch.cat([g.flatten() for g in own]).square()
    found = torch.zeros_like(expected)
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        for rows in synthesis.tile_gradients(function.grids, function.weights, SPEC, generator, factors):
            found += rows.square().sum(0) / (40 * synthesis.DRAWS)
    assert ((found / expected - 1).abs() < 0.25).all()
    assert abs(float(found.sum() / expected.sum()) - 1) < 0.02


def test_functions_cost_less_with_compensation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights take fewer bytes, and the cost in all is no greater; a second function of the batch stays apart."""
    function, target = fitted_before(), target_of(SPEC)
    lambdas = torch.tensor((1e-3, 1e-4))
    both, targets = function.select(torch.tensor([0, 0])), target.repeat(2, 1, 1, 1)

    def cost(weights: QuantisedWeights, lam: float) -> tuple[float, float]:
        bits = sum(weight_bits(each.integers)[0] for each in weights.differences.values())
        held = replace(function, weights=dequantise(SPEC, weights, CPU))
        return bits, float(fit.cost(held, target, torch.tensor([lam]))) + lam * bits / 64**2

    together = quantise(both, targets, lambdas, 10**6)
    with monkeypatch.context() as patch:
        patch.setattr("codec.overfit.quantise.MOST_WEIGHTS", 0)
        alone = quantise(both, targets, lambdas, 10**6)
    for i, lam in enumerate(lambdas.tolist()):
        (bits, total), (bits_alone, total_alone) = cost(together[i], lam), cost(alone[i], lam)
        assert bits < 0.95 * bits_alone
        assert total <= total_alone * (1 + 1e-6)
