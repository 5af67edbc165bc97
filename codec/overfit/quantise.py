"""Quantisation of a fitted function's weights: a step for each tensor, chosen by rate and distortion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.coder import LIMIT
from codec.entropy.integer_arm import WEIGHT_BITS, WEIGHT_LIMIT
from codec.overfit import reference_weights
from codec.overfit.bitstream import Origin, QuantisedWeight, QuantisedWeights, weight_bits
from codec.overfit.fit import Distortion, distortion, drift, rate
from codec.overfit.function import Function, Weights, choose
from codec.overfit.spec import Spec

MAX_ROUNDS = 24  # in the last, a bit of the weights costs 10,000 times what it is worth
FEWEST_SAMPLES = 64 * 64  # of smaller pictures hardly anything would be left, as weights would not pay
FINEST = WEIGHT_BITS  # steps are 2**-FINEST to 1


def quantise(
    function: Function,
    target: Tensor,
    lambdas: Tensor,
    budget: int,
    origin: Origin | None = None,
    measure: Distortion = distortion,
) -> list[QuantisedWeights]:
    """Quantise the weights of each function of a batch, as differences to the nearest reference weights, or to others.

    Steps are chosen one tensor at a time by distortion + lambda * rate, where the rate counts the weights' own bits.

    Args:
        function: fitted functions, with integers in their grids.
        target: (batch, outputs, height, width), which they were fitted to.
        lambdas: (batch,), as in the fit.
        budget: bytes that the weights of one function may take; steps grow until they fit.
        origin: the weights that they are coded as differences to; the nearest reference weights by default.
        measure: the distortion, as in the fit.
    """
    price = torch.ones_like(lambdas)
    for _ in range(MAX_ROUNDS):
        search = _Search(function, target, lambdas, price, origin, measure)
        over = search.run() > 8 * budget
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
        measure: Distortion,
    ) -> None:
        self.function, self.target, self.lambdas, self.measure = function, target, lambdas, measure
        positions = torch.as_tensor(function.positions, device=lambdas.device).clamp(min=FEWEST_SAMPLES)
        self.per_bit = lambdas * price / positions
        self.origins, self.of_origins = _origins(function, origin)
        self.weights = dict(function.weights)  # quantised one after the other
        self.exponents = {name: torch.zeros_like(lambdas) for name in self.weights}
        self.bits = {name: torch.zeros_like(lambdas) for name in self.weights}

    @torch.no_grad()
    def run(self) -> Tensor:
        """Choose all steps; bits (batch,) of all weights then."""
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
                found = self._cost(name, tried, bits)
                hopeless = bool((found > 1.01 * best).all())
                better = found < best
                best = torch.where(better, found, best)
                self.weights[name] = choose(better, tried, self.weights[name])
                self.bits[name] = torch.where(better, bits, self.bits[name])
                self.exponents[name] = torch.where(better, float(exponent), self.exponents[name])
        return torch.stack(list(self.bits.values())).sum(0)

    def quantised(self, index: int) -> QuantisedWeights:
        """Quantised weights of one function of the batch, as they were chosen."""
        differences = {}
        for name in self.weights:
            exponent = int(self.exponents[name][index])
            differences[name] = QuantisedWeight(_numpy(self._integers(name, exponent)[index]), exponent)
        return QuantisedWeights(self.origins[index], differences)

    def _integers(self, name: str, exponent: int) -> Tensor:
        """Differences of a tensor to its origin as multiples of a step, such that they can be coded."""
        bound = min(LIMIT, (WEIGHT_LIMIT // 2 - 1) >> (WEIGHT_BITS - exponent))
        difference = self.function.weights[name] - self.of_origins[name]
        integers: Tensor = (difference * 2**exponent).round().clamp_(-bound, bound)
        return integers

    def _cost(self, name: str, weight: Tensor, bits: Tensor) -> Tensor:
        """The part of the cost that this tensor changes: the probability model's weights leave the picture alone."""
        changed = replace(self.function, weights={**self.weights, name: weight})
        if name.startswith("arm."):
            return self.lambdas * rate(changed) + self.per_bit * bits
        return self.measure(changed, self.target) + self.per_bit * bits


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
