"""Quantisation of a fitted function's weights: a step for each tensor, chosen by rate and distortion."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from codec.entropy.arm import WEIGHT_BITS, WEIGHT_LIMIT
from codec.entropy.coder import LIMIT
from codec.overfit.bitstream import QuantisedWeight, QuantisedWeights, base, weight_bits
from codec.overfit.fit import Function, choose, distortion, rate

MAX_ROUNDS = 24  # in the last, a bit of the weights costs 10,000 times what it is worth
FEWEST_SAMPLES = 64 * 64  # of smaller pictures hardly anything would be left, as weights would not pay
FINEST, COARSEST = WEIGHT_BITS, 1  # steps are 2**-FINEST to 2**-COARSEST


def quantise(function: Function, target: Tensor, lambdas: Tensor, budget: int) -> list[QuantisedWeights]:
    """Quantise the weights of each function of a batch.

    Steps are chosen one tensor at a time by distortion + lambda * rate, where the rate counts the weights' own bits.

    Args:
        function: fitted functions, with whole numbers in their grids.
        target: (batch, outputs, height, width), what they were fitted to.
        lambdas: (batch,), as in the fit.
        budget: bytes that the weights of one function may take; steps grow until they fit.
    """
    price = torch.ones_like(lambdas)
    for _ in range(MAX_ROUNDS):
        search = _Search(function, target, lambdas, price)
        over = search.run() > 8 * budget
        if not over.any():
            break
        price = torch.where(over, price * 1.5, price)
    return [search.quantised(i) for i in range(len(lambdas))]


class _Search:
    """Coordinate descent over the exponents of all tensors, the same for every function of a batch at a time."""

    def __init__(self, function: Function, target: Tensor, lambdas: Tensor, price: Tensor) -> None:
        self.function, self.target, self.lambdas = function, target, lambdas
        spec = function.spec
        self.per_bit = lambdas * price / max(spec.height * spec.width, FEWEST_SAMPLES)
        self.weights = dict(function.weights)  # quantised one after the other
        self.exponents = {name: torch.zeros_like(lambdas) for name in self.weights}
        self.bits = {name: torch.zeros_like(lambdas) for name in self.weights}

    @torch.no_grad()
    def run(self) -> Tensor:
        """Choose all steps; bits (batch,) of all weights then."""
        for name in self.weights:
            best = torch.full_like(self.lambdas, torch.inf)
            for exponent in range(FINEST, COARSEST - 1, -1):
                tried, bits = _on_grid(name, self.function.weights[name], exponent)[1], self._bits(name, exponent)
                found = self._cost(name, tried, bits)
                better = found < best
                if (found > 1.01 * best).all():
                    break
                best = torch.where(better, found, best)
                self.weights[name] = choose(better, tried, self.weights[name])
                self.bits[name] = torch.where(better, bits, self.bits[name])
                self.exponents[name] = torch.where(better, float(exponent), self.exponents[name])
        return torch.stack(list(self.bits.values())).sum(0)

    def quantised(self, index: int) -> QuantisedWeights:
        return {name: self._quantised(name, index, int(self.exponents[name][index])) for name in self.weights}

    def _quantised(self, name: str, index: int, exponent: int) -> QuantisedWeight:
        integers = _on_grid(name, self.function.weights[name][index], exponent)[0]
        return QuantisedWeight(integers.cpu().numpy().astype(np.int32), exponent)

    def _bits(self, name: str, exponent: int) -> Tensor:
        each = [weight_bits(self._quantised(name, i, exponent).integers)[0] for i in range(len(self.lambdas))]
        return self.lambdas.new_tensor(each)

    def _cost(self, name: str, weight: Tensor, bits: Tensor) -> Tensor:
        """The part of the cost that this tensor changes: the probability model's weights leave the picture alone."""
        changed = Function(self.function.spec, {**self.weights, name: weight}, self.function.grids)
        if name.startswith("arm."):
            return self.lambdas * rate(changed) + self.per_bit * bits
        return distortion(changed, self.target) + self.per_bit * bits


def _on_grid(name: str, weight: Tensor, exponent: int) -> tuple[Tensor, Tensor]:
    """A tensor of weights as integers, and the values that they stand for."""
    origin = torch.as_tensor(base(name), dtype=weight.dtype, device=weight.device)
    bound = min(LIMIT, (WEIGHT_LIMIT - 1) >> (WEIGHT_BITS - exponent))
    integers = ((weight - origin) * 2**exponent).round().clamp(-bound, bound)
    return integers, origin + integers * 2.0**-exponent


def dequantise(weights: QuantisedWeights, device: torch.device) -> dict[str, Tensor]:
    """Weights as the float part takes them, (1, ...) each."""
    return {name: torch.from_numpy(w.values(name)).float().unsqueeze(0).to(device) for name, w in weights.items()}
