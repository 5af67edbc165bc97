"""Quantisation of a fitted function's weights: a step for each tensor, chosen by rate and distortion.

Where it pays, weights make up for each other's errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.coder import LIMIT
from codec.entropy.integer_arm import WEIGHT_BITS, WEIGHT_LIMIT
from codec.overfit import arm, reference_weights, synthesis
from codec.overfit.bitstream import Origin, QuantisedWeight, QuantisedWeights, weight_bits
from codec.overfit.compensation import compensated
from codec.overfit.fit import distortion, drift, rate
from codec.overfit.function import Function, Weights, choose
from codec.overfit.spec import Spec

MAX_ROUNDS = 24  # in the last, a bit of the weights costs 10,000 times what it is worth
FEWEST_SAMPLES = 64 * 64  # of smaller pictures hardly anything would be left, as weights would not pay
FINEST = WEIGHT_BITS  # steps are 2**-FINEST to 1
# Greatest multiple of a step that can be coded, by exponent.
BOUNDS = [min(LIMIT, (WEIGHT_LIMIT // 2 - 1) >> (WEIGHT_BITS - exponent)) for exponent in range(FINEST + 1)]
MOST_WEIGHTS = 3072  # whose errors are made up for: the time grows with the cube of their number


def quantise(
    function: Function,
    target: Tensor,
    lambdas: Tensor,
    budget: int,
    origin: Origin | None = None,
    roots: Tensor | None = None,
) -> list[QuantisedWeights]:
    """Quantise the weights of each function of a batch, as differences to the nearest reference weights, or to others.

    Steps are chosen one tensor at a time by distortion + lambda * rate, where the rate counts the weights' own bits.

    Args:
        function: fitted functions, with integers in their grids.
        target: (batch, outputs, height, width), which they were fitted to.
        lambdas: (batch,), as in the fit.
        budget: bytes that the weights of one function may take; steps grow until they fit.
        origin: the weights that they are coded as differences to; the nearest reference weights by default.
        roots: as of `fit.distortion`.
    """
    price, curvatures = torch.ones_like(lambdas), _curvatures(function, lambdas, roots)
    for _ in range(MAX_ROUNDS):
        search = _Search(function, target, lambdas, price, origin, roots)
        search.run()
        for module in curvatures[0]:
            search.compensate(module, [each[module] for each in curvatures])
        over = search.total > 8 * budget
        if not over.any():
            break
        price = torch.where(over, price * 1.5, price)
    return [search.quantised(i) for i in range(len(lambdas))]


class _Search:
    """Coordinate descent over the exponents of all tensors, the same for every function of a batch at a time."""

    def __init__(
        self,
        function: Function,
        target: Tensor,
        lambdas: Tensor,
        price: Tensor,
        origin: Origin | None,
        roots: Tensor | None,
    ) -> None:
        self.function, self.target, self.lambdas = function, target, lambdas
        self.measure = partial(distortion, roots=roots)
        positions = torch.as_tensor(function.positions, device=lambdas.device).clamp(min=FEWEST_SAMPLES)
        self.per_bit = lambdas * price / positions
        self.origins, self.of_origins = _origins(function, origin)
        self.weights = dict(function.weights)  # quantised one after the other
        self.exponents = {name: torch.zeros_like(lambdas) for name in self.weights}
        self.bits = {name: torch.zeros_like(lambdas) for name in self.weights}

    @property
    def total(self) -> Tensor:
        """Bits (batch,) of all weights."""
        return torch.stack(list(self.bits.values())).sum(0)

    @torch.no_grad()
    def run(self) -> None:
        """Choose all steps, and round."""
        for name in self.weights:
            if torch.equal(self.weights[name], self.of_origins[name]):
                continue
            best = torch.full_like(self.lambdas, torch.inf)
            hopeless = False
            for exponent in range(FINEST, -1, -1):
                if hopeless and exponent:  # the coarsest step is always tried: it often leaves nothing to code
                    continue
                integers = self._integers(name, exponent)
                tried = self.of_origins[name] + integers * 2.0**-exponent
                bits = self.lambdas.new_tensor([weight_bits(_numpy(each))[0] for each in integers])
                found = self._cost({name: tried}, bits)
                hopeless = bool((found > 1.01 * best).all())
                better = found < best
                best = torch.where(better, found, best)
                self._take(better, name, tried, bits, torch.full_like(bits, exponent))

    @torch.no_grad()
    def compensate(self, module: str, curvatures: list[NDArray[np.float64]]) -> None:
        """Round a module's weights anew, such that those that follow make up for the error of each, where that pays."""
        names = [name for name in self.weights if name.startswith(module)]
        found = [self._compensated(names, i, curvature) for i, curvature in enumerate(curvatures)]
        tried, exponents, bits = {}, {}, {}
        for k, name in enumerate(names):
            exponents[name] = self.lambdas.new_tensor([each[0][k] for each in found])
            integers = torch.from_numpy(np.stack([each[1][k] for each in found])).to(self.lambdas)
            steps = exponents[name].neg().exp2().view(-1, *[1] * (integers.dim() - 1))
            tried[name] = self.of_origins[name] + integers * steps
            bits[name] = self.lambdas.new_tensor([weight_bits(each[1][k])[0] for each in found])
        before, after = (
            self._cost({name: weights[name] for name in names}, torch.stack([of[name] for name in names]).sum(0))
            for weights, of in ((self.weights, self.bits), (tried, bits))
        )
        for name in names:
            self._take(after < before, name, tried[name], bits[name], exponents[name])

    def _take(self, better: Tensor, name: str, weight: Tensor, bits: Tensor, exponents: Tensor) -> None:
        """Quantise a tensor so in the functions where that is better, (batch,)."""
        self.weights[name] = choose(better, weight, self.weights[name])
        self.bits[name] = torch.where(better, bits, self.bits[name])
        self.exponents[name] = torch.where(better, exponents, self.exponents[name])

    def _compensated(
        self, names: list[str], index: int, curvature: NDArray[np.float64]
    ) -> tuple[list[int], list[NDArray[np.int32]]]:
        """Exponents and integers of these tensors of one function of the batch."""
        pairs = [(self.function.weights[name][index], self.of_origins[name][index]) for name in names]
        differences = [(weight - origin).cpu().double().numpy() for weight, origin in pairs]
        return compensated(differences, curvature, float(self.per_bit[index]), BOUNDS)

    def quantised(self, index: int) -> QuantisedWeights:
        """Quantised weights of one function of the batch, as they were chosen."""
        differences = {}
        for name in self.weights:
            exponent = int(self.exponents[name][index])
            multiples = (self.weights[name][index] - self.of_origins[name][index]) * 2**exponent
            differences[name] = QuantisedWeight(_numpy(multiples.round()), exponent)
        return QuantisedWeights(self.origins[index], differences)

    def _integers(self, name: str, exponent: int) -> Tensor:
        """Differences of a tensor to its origin as multiples of a step, such that they can be coded."""
        difference = self.function.weights[name] - self.of_origins[name]
        integers: Tensor = (difference * 2**exponent).round().clamp_(-BOUNDS[exponent], BOUNDS[exponent])
        return integers

    def _cost(self, weights: Weights, bits: Tensor) -> Tensor:
        """The part of the cost that these weights change: those of the probability model leave the picture alone."""
        changed = replace(self.function, weights={**self.weights, **weights})
        if all(name.startswith("arm.") for name in weights):
            return self.lambdas * rate(changed) + self.per_bit * bits
        return self.measure(changed, self.target) + self.per_bit * bits


def _curvatures(function: Function, lambdas: Tensor, roots: Tensor | None) -> list[dict[str, NDArray[np.float64]]]:
    """Curvatures of the cost of each function, as `compensated` takes them, in the weights whose names begin so.

    From gradients of random sums of samples: of the distortion by Gauss and Newton, of the rate by what should be the
    expected one, as the samples are those that the model takes to be probable. Weights that are too many are left out.
    """
    found = []
    for i, lam in enumerate(lambdas.tolist()):
        one = function.alone(i)
        height, width = one.spec.height, one.spec.width
        own = None if roots is None else roots[i : i + 1, :, :height, :width]
        generator, given = torch.Generator(lambdas.device).manual_seed(0), (one.grids, one.weights, one.spec)
        of_squares = 2 / (synthesis.DRAWS * one.spec.outputs)
        gradients = {"synthesis.": (synthesis.tile_gradients(*given, generator, own), of_squares)}
        if not one.spec.separate:
            gradients["arm."] = arm.group_gradients(*given, generator), lam * math.log(2)
        few = {module: each for module, each in gradients.items() if _count(one.spec, module) <= MOST_WEIGHTS}
        found.append({module: _squares(rows) * unit / (height * width) for module, (rows, unit) in few.items()})
    return found


def _count(spec: Spec, module: str) -> int:
    """Number of a module's weights."""
    return sum(math.prod(shape) for name, shape in spec.weight_shapes.items() if name.startswith(module))


def _squares(gradients: Iterable[Tensor]) -> NDArray[np.float64]:
    """Sum of the outer products of gradients (rows, weights) with themselves."""
    total = np.zeros(())
    for rows in gradients:
        total = total + (rows.mT @ rows).cpu().double().numpy()
    return total


def _origins(function: Function, origin: Origin | None) -> tuple[list[Origin], Weights]:
    """Origin of the weights of each function of a batch, and the weights (batch, ...) of these origins."""
    spec, device = function.spec, function.grids[0].device
    choices = [Origin(number) for number in reference_weights.numbers(spec)] if origin is None else [origin]
    weights = [as_tensors(choice.weights(spec), device) for choice in choices]
    nearest = torch.stack([drift(function.weights, each) for each in weights]).argmin(0).tolist()
    chosen = {name: torch.cat([weights[i][name] for i in nearest]) for name in function.weights}
    return [choices[i] for i in nearest], chosen


def _numpy(integers: Tensor) -> NDArray[np.int32]:
    return integers.cpu().numpy().astype(np.int32)


def dequantise(spec: Spec, weights: QuantisedWeights, device: torch.device) -> Weights:
    """Weights as the float part takes them, (1, ...) each."""
    return as_tensors(weights.whole(spec), device)


def as_tensors(whole: dict[str, NDArray[np.int64]], device: torch.device) -> Weights:
    """Weights in units of 2**-12 as floats, (1, ...) each."""
    return {name: torch.from_numpy(w * 2.0**-WEIGHT_BITS).float().unsqueeze(0).to(device) for name, w in whole.items()}
