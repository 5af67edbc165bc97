"""Fits of functions to the samples of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.overfit import fit, initial
from codec.overfit.bases import LAMBDAS, trained_spec
from codec.overfit.fit import PAPER_CANDIDATES, Fit, Function, Schedule, Steer, drift
from codec.overfit.quantise import dequantise, quantise
from codec.profiles.pixels import extent_of, to_tensor
from codec.profiles.targets import SLOPE, Fits, Fitted

GUESS = 0.3  # logarithm of what guessed grids cost, relative to fitted ones
SHRINKAGE, DECAY = 2.9, 3.9  # of sizes while fits anneal, in logarithm: at first, for a lambda of 1; how fast it ends
WEIGHTS_BUDGET = 860  # bytes that a function's weights may take
WEIGHTS_BUDGET_PIXELS = 768 * 512  # for a picture of up to so many pixels; for larger ones, more in proportion


class PictureFits(Fits):
    """Fits that begin with the base functions, or with random ones as published.

    Args:
        pictures: (height, width) or (height, width, 3), uint8, all with as many channels.
        bounds: least and greatest logarithm of lambda.
        progress: told after each iteration.
        ahead: times lambda, that of the base function to begin with; random ones if None.
    """

    def __init__(
        self, pictures: Sequence[NDArray[np.uint8]], schedule: Schedule, bounds: tuple[float, float], seed: int,
        progress: Callable[[int], None], device: torch.device, ahead: float | None,
    ) -> None:  # fmt: skip
        self.count, self.bounds, self.progress = len(pictures), bounds, progress
        self.schedule, self.ahead = schedule, ahead
        self.target = to_tensor(pictures, device)
        outputs, height, width = self.target.shape[1:]
        self.spec = trained_spec(height, width, outputs)
        self.extent = extent_of(pictures, device, levels=len(self.spec.features))
        self.generator = torch.Generator(device).manual_seed(seed)
        pixels = max(p.shape[0] * p.shape[1] for p in pictures)
        self.budget = WEIGHTS_BUDGET * max(pixels, WEIGHTS_BUDGET_PIXELS) // WEIGHTS_BUDGET_PIXELS

    def guessed(self, logs: Tensor) -> Tensor:
        known = np.log(LAMBDAS)[::-1]
        guesses = [np.interp(log, known, sizes[::-1]) for log, sizes in zip(logs, self._guesses.T, strict=True)]
        beyond = logs - logs.clamp(known[0], known[-1])
        return (torch.from_numpy(np.array(guesses)) + SLOPE * beyond - GUESS).exp()

    @cached_property
    def _guesses(self) -> NDArray[np.float64]:
        """Logarithms of bits of the guessed grids for each of the base functions, (bases, batch)."""
        lambdas = torch.tensor(LAMBDAS, device=self.target.device).repeat(self.count, 1)
        each = [initial.trained(self.target, own).within(self.extent) for own in lambdas.T]
        return torch.stack([self._of_grids(function) for function in each]).log().cpu().double().numpy()

    def bits(self, function: Function) -> Tensor:
        return self._of_grids(function) + drift(function.weights, self._fit.origin).clamp(max=8 * self.budget)

    def _of_grids(self, function: Function) -> Tensor:
        return fit.rate(function.rounded()) * function.positions

    def shrinkage(self, logs: Tensor, part: float) -> Tensor:
        return SHRINKAGE * (logs / 6 - DECAY * part).exp()

    def fitted(self, logs: Tensor, steer: Steer | None = None) -> Fitted:
        lambdas = self._lambdas(logs)
        self._fit = Fit(self.target, lambdas, self._starts(lambdas), self.schedule, self.generator, self.progress)
        return self._coded(self._fit.run(steer))

    def slopes(self, found: Fitted) -> list[Tensor]:
        grids = [g.detach().requires_grad_() for g in found.function.grids]
        total = fit.distortion(replace(found.function, grids=grids), self.target)
        return list(torch.autograd.grad(total.sum(), grids))

    def _starts(self, lambdas: Tensor) -> list[Function]:
        if self.ahead is None:
            found = [initial.random(self.spec, self.generator) for _ in range(PAPER_CANDIDATES)]
        else:
            found = [initial.trained(self.target, self.ahead * lambdas)]
        return [f.within(self.extent) for f in found]

    def _lambdas(self, logs: Tensor) -> Tensor:
        return logs.exp().to(self.target.device, torch.float32)

    def _coded(self, function: Function) -> Fitted:
        weights = quantise(function, self.target, self._fit.lambdas, self.budget)
        each = [dequantise(function.spec, w, self.target.device) for w in weights]
        held = {name: torch.cat([w[name] for w in each]) for name in function.weights}
        return Fitted(replace(function, weights=held), weights)
