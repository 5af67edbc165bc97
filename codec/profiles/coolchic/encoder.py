"""Encoder: fits of functions to the samples of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.device import computing
from codec.importance import Importance, log_weights
from codec.overfit import fit, initialisation
from codec.overfit.fit import PAPER_CANDIDATES, PAPER_SCHEDULE, Fit, Schedule, Steer, drift
from codec.overfit.fits import Fits, Fitted
from codec.overfit.function import Function
from codec.overfit.quantise import dequantise, quantise
from codec.overfit.reference_weights import LAMBDAS, trained_spec
from codec.overfit.valid_region import ValidRegion
from codec.profiles.base import Budget, Encoder, Goal, Progress, Sections, counting
from codec.profiles.options import PAPER, Options
from codec.rate_control import ROUNDS, of_size
from codec.runtime import cached_property
from codec.tensors import to_tensor

# Distortion of samples in 0..1 that one bit per pixel may save, at `codec.profiles.base.QUALITIES`.
LOG_LAMBDA = (-3.0, -3.91, -6.73, -9.1, -10.5)

# (main, settling) iterations by effort.
ITERATIONS = {
    1: (60, 20), 2: (150, 40), 3: (300, 60), 4: (600, 100), 5: (1200, 120), 6: (2000, 250), 7: (3000, 350),
    8: (6000, 600), 9: (15000, 1000),
}  # fmt: skip
# Times lambda, that of the reference weights which fits of at least so many iterations begin with. The lower the lambda
# of weights, the more they leave to the finest grid, and long fits add to that more easily than they take from it.
AHEAD, LONG = 3.0, 300
# Shape of their functions, at lambdas below the first number: above, functions would be a great part of the file.
NARROW, WIDE = 0.01, dict[str, Any](spatial=20, references=6, hidden=32)
# How weights of long fits are fitted; short ones would only get noise of that.
BOLD: dict[str, Any] = {"weight_rate": 1e-2, "soap_damping": 0.02}
# Least lambda of long fits of fewest iterations that begin with empty grids; with more iterations it is less, by the
# square. From guessed grids fits keep too much in the finest, which shows as patches with borders.
COARSE = 0.01
ANNEALING: dict[str, Any] = {"temperature": (0.5, 0.06), "noise": (0.22, 0.15), "preconditioned": True}

# Logarithms of sizes, found in fits of effort 1 to 5. Of guessed grids, relative to fitted ones: for a lambda of 1 and
# one iteration, and what the logarithms of both add.
GUESS = 0.4, 0.1, 0.14
# While fits anneal, relative to the end: at first, for a lambda of 1 and one iteration, and what the logarithms of both
# add; how fast that is over; by how much files grow meanwhile.
SHRINKAGE, DECAY, GROWTH = (4.5, 0.384, -0.48), 5.1, 0.09
ONE_REFERENCE = 1.0  # range of log lambda fitted from the same reference weights: to the next ones sizes leap
BYTES_PER_PIXEL = 600  # that a fit takes
SUPPLE = 150  # iterations, from which on their last part still changes sizes
WEIGHTS_BUDGET = 1800  # bytes that a function's weights may take
WEIGHTS_BUDGET_PIXELS = 768 * 512  # for a picture of up to so many pixels; for larger ones, more in proportion


class CoolChicEncoder(Encoder):
    """Encoder on a device."""

    def __init__(self, options: Options, device: torch.device) -> None:
        self.options, self.device = options, device
        self.bytes_per_pixel = None if options.effort == PAPER else BYTES_PER_PIXEL

    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], importance: Sequence[Importance | None], goal: Goal,
        progress: Progress | None = None,
    ) -> list[Sections]:  # fmt: skip
        if self.options.effort == PAPER:
            schedule, ahead = PAPER_SCHEDULE, None
        else:
            schedule, ahead = Schedule(0, *ITERATIONS[int(self.options.effort)], **ANNEALING), 1.0
            if schedule.main >= LONG:
                schedule, ahead = replace(schedule, **BOLD), AHEAD
        total = schedule.total + isinstance(goal, Budget) * ROUNDS * (schedule.again + schedule.settle)
        bounds, count = (min(LOG_LAMBDA), max(LOG_LAMBDA)), counting(progress, total)
        with computing(self.device):
            fits = PictureFits(pictures, importance, schedule, bounds, self.options.seed, count, self.device, ahead)
            found = of_size(fits, goal.sizes) if isinstance(goal, Budget) else fits.at(goal.log_lambda(LOG_LAMBDA))
            return found.sections()


class PictureFits(Fits):
    """Fits that begin with reference weights, or with random ones as published.

    Args:
        pictures: (height, width) or (height, width, 3), uint8, all with as many channels.
        importance: of the pixels of each.
        bounds: least and greatest logarithm of lambda.
        progress: told after each iteration.
        ahead: lambda of the reference weights to begin with, relative to that of the fit; random weights if None.
    """

    def __init__(
        self, pictures: Sequence[NDArray[np.uint8]], importance: Sequence[Importance | None], schedule: Schedule,
        bounds: tuple[float, float], seed: int, progress: Callable[[], object], device: torch.device,
        ahead: float | None,
    ) -> None:  # fmt: skip
        self.count, self.bounds, self.progress = len(pictures), bounds, progress
        self.schedule, self.ahead = schedule, ahead
        self.responses, self.far = ((-0.4, -0.16), 0.1) if schedule.main >= SUPPLE else ((-0.2, -0.08), 0.0)
        self.target, logs = to_tensor(pictures, device), log_weights(importance, [p.shape for p in pictures], device)
        self.roots = None if logs is None else (logs / 2).exp()
        self.measure = partial(fit.distortion, roots=self.roots)
        outputs, height, width = self.target.shape[1:]
        self.spec = trained_spec(height, width, outputs)
        self.region = ValidRegion.of(pictures, device, levels=len(self.spec.features))
        self.generator, self.seed = torch.Generator(device), seed
        self.reference = torch.full((self.count,), torch.inf, device="cpu")  # logarithms of lambdas
        pixels = max(p.shape[0] * p.shape[1] for p in pictures)
        self.budget = WEIGHTS_BUDGET * max(pixels, WEIGHTS_BUDGET_PIXELS) // WEIGHTS_BUDGET_PIXELS

    def estimate(self, logs: Tensor) -> Tensor:
        known = np.log(LAMBDAS)[::-1]
        guesses = [np.interp(log, known, sizes[::-1]) for log, sizes in zip(logs, self._guesses.T, strict=True)]
        beyond = logs - logs.clamp(known[0], known[-1])
        return (torch.from_numpy(np.array(guesses)) + self.responses[0] * beyond - self._linear(GUESS, logs)).exp()

    @cached_property
    def _guesses(self) -> NDArray[np.float64]:
        """Logarithms of bits of the guessed grids for each of the trained reference weights, (5, batch)."""
        lambdas = torch.tensor(LAMBDAS, device=self.target.device).repeat(self.count, 1)
        each = [initialisation.trained(self.target, own).within(self.region) for own in lambdas.T]
        return torch.stack([self._of_grids(function) for function in each]).log().cpu().double().numpy()

    def bits(self, function: Function) -> Tensor:
        return self._of_grids(function) + drift(function.weights, self._fit.origin).clamp(max=8 * self.budget)

    def _of_grids(self, function: Function) -> Tensor:
        return fit.rate(function.rounded()) * function.positions

    def shrinkage(self, logs: Tensor, part: float) -> Tensor:
        return (self._linear(SHRINKAGE, logs) - DECAY * part).exp() - GROWTH * part

    def _linear(self, of: tuple[float, float, float], logs: Tensor) -> Tensor:
        constant, of_lambda, of_iterations = of
        return constant + of_lambda * logs + of_iterations * math.log(self.schedule.main)

    def fitted(self, logs: Tensor, steer: Steer | None = None) -> Fitted:
        self.generator.manual_seed(self.seed)  # so that sizes of several fits differ by lambda rather than by chance
        if (logs - self.reference).abs().max() > ONE_REFERENCE:
            self.reference = logs
        lambdas, starts = self._lambdas(logs), self._starts(self._lambdas(self.reference))
        self._fit = Fit(self.target, lambdas, starts, self.schedule, self.generator, self.progress, self.measure)
        return self._coded(self._fit.run(steer))

    def slopes(self, found: Fitted) -> list[Tensor]:
        grids = [g.detach().requires_grad_() for g in found.function.grids]
        total = self.measure(replace(found.function, grids=grids), self.target)
        return list(torch.autograd.grad(total.sum(), grids))

    def _starts(self, lambdas: Tensor) -> list[Function]:
        if self.ahead is None:
            found = [initialisation.random(self.spec, self.generator) for _ in range(PAPER_CANDIDATES)]
        else:
            is_long, ratio = self.schedule.main >= LONG, LONG / self.schedule.main
            wider = WIDE if is_long and bool((lambdas < NARROW).all()) else {}
            guess = initialisation.trained(self.target, self.ahead * lambdas, **wider)
            empty = (lambdas >= COARSE * ratio**2) & is_long
            found = [initialisation.coarse(guess).where(empty, guess)]
        return [f.within(self.region) for f in found]

    def _lambdas(self, logs: Tensor) -> Tensor:
        return logs.exp().to(self.target.device, torch.float32)

    def _coded(self, function: Function) -> Fitted:
        weights = quantise(function, self.target, self._fit.lambdas, self.budget, roots=self.roots)
        each = [dequantise(function.spec, w, self.target.device) for w in weights]
        held = {name: torch.cat([w[name] for w in each]) for name in function.weights}
        return Fitted(replace(function, weights=held), weights)
