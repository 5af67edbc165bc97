"""Encoder: fits of functions of latents, by the distortion of the pictures that they decode to."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codec.autoencoders import store
from codec.autoencoders.autoencoder import Autoencoder, on_device
from codec.device import computing
from codec.importance import Importance, log_weights, of_cells
from codec.overfit import fit
from codec.overfit.fit import PAPER_SCHEDULE, Distortion, Fit, Schedule, Steer, cost
from codec.overfit.fits import Fits, Fitted, chosen
from codec.overfit.function import Function
from codec.overfit.lambda_conditioned_weights import LambdaConditionedWeights
from codec.overfit.valid_region import ValidRegion
from codec.profiles.base import Budget, Encoder, Goal, Progress, Quality, Sections, counting
from codec.profiles.clric import initialisation
from codec.profiles.clric.distortion import PictureDistortion
from codec.profiles.clric.initialisation import Initialisation, latents_of, steps_of
from codec.profiles.clric.profile import Options
from codec.profiles.clric.quantisation_step import StepTrials
from codec.profiles.options import PAPER
from codec.rate_control import ROUNDS, of_size
from codec.runtime import cached_property
from codec.tensors import to_tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Logarithms of lambda, the distortion that a bit per pixel is worth, at `codec.profiles.base.QUALITIES`.
LOG_LAMBDA = (-1.24, -1.84, -4.11, -6.92, -7.32)

# Iterations by effort: to the latent alone, which only models without a universal function need, and to the picture.
ITERATIONS = {
    1: (60, 0), 2: (100, 4), 3: (150, 6), 4: (200, 10), 5: (300, 16), 6: (400, 24), 7: (600, 32), 8: (1000, 40),
    9: (2000, 48),
}  # fmt: skip

# Of fits that begin with a good function: what hardly matters to the cost shall stay where it is. Adam's epsilon is in
# units of lambda, as the rate's gradient is.
GENTLE: dict[str, Any] = {
    "grid_rate": 0.08, "temperature": (0.15, 0.02), "noise": (0.0, 0.0), "damping": 6.0, "relative": True,
}  # fmt: skip
WEIGHT_RATE = 1e-2
BYTES_PER_PIXEL = 2000  # that a fit takes
SHRINKAGE = 0.06  # of sizes while fits anneal, in logarithm, at a lambda of 1; it goes with its square root


class ClricEncoder(Encoder):
    """Encoder with the model that the options name."""

    def __init__(self, options: Options, device: torch.device) -> None:
        self.options = options
        self.autoencoder = on_device(store.load(options.model), device)
        self.model = self.autoencoder.model.prefix
        together = options.effort != PAPER and self.autoencoder.model.function is not None
        self.bytes_per_pixel = BYTES_PER_PIXEL if together else None

    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], importance: Sequence[Importance | None], goal: Goal,
        progress: Progress | None = None,
    ) -> list[Sections]:  # fmt: skip
        logs = log_weights(importance, [picture.shape for picture in pictures], self.autoencoder.device)
        with computing(self.autoencoder.device):
            if isinstance(goal, Quality) and self.options.effort == PAPER:
                return self._as_published(pictures[0], logs, goal.log_lambda(LOG_LAMBDA), progress).sections()
            fits = self._fits(pictures, logs, progress, sized=isinstance(goal, Budget))
            found = of_size(fits, goal.sizes) if isinstance(goal, Budget) else fits.at(goal.log_lambda(LOG_LAMBDA))
            return found.sections()

    def _fits(
        self, pictures: Sequence[NDArray[np.uint8]], logs: Tensor | None, progress: Progress | None, *, sized: bool
    ) -> LatentFits:
        first, second = ITERATIONS[int(self.options.effort)]
        iterations = Iterations(first, second if self.autoencoder.quick else 0)
        kind = OwnFits if self.autoencoder.model.function is None else UniversalFits
        total = iterations.total(own_weights=kind.own_weights, rounds=ROUNDS * sized)
        bounds, count = (min(LOG_LAMBDA), max(LOG_LAMBDA)), counting(progress, total)
        return kind(self.autoencoder, pictures, logs, iterations, bounds, self.options.seed, count)

    def _as_published(
        self, pixels: NDArray[np.uint8], logs: Tensor | None, log_lambda: float, progress: Progress | None
    ) -> Fitted:
        """A function of the latent alone, from random beginnings, as the paper has it."""
        device, count = self.autoencoder.device, counting(progress, PAPER_SCHEDULE.total)
        picture = to_tensor([pixels], device).expand(-1, 3, -1, -1)
        generator = torch.Generator(device).manual_seed(self.options.seed)
        step = StepTrials.on(self.autoencoder, picture).step(math.exp(log_lambda))
        latent = self.autoencoder.encode(picture)
        measure = _of_latent(logs, self.autoencoder.downscale)
        start = initialisation.from_nothing(latent, step, PAPER_SCHEDULE, generator, count, measure)
        return Fitted(start.function, start.weights)


@dataclass(frozen=True)
class Iterations:
    """Iterations of fits.

    Attributes:
        latent: by the error of the latent alone, which come first, for models without a universal function.
        distortion: by the distortion of the picture.
    """

    latent: int
    distortion: int

    def total(self, *, own_weights: bool, rounds: int) -> int:
        """Number of iterations in all, if the last part is annealed again in some rounds."""
        first, second = self.first.total if own_weights else 0, self.second(own_weights=own_weights)
        return first + second.total + rounds * (second.again + second.settle if second.main else 0)

    @property
    def first(self) -> Schedule:
        return Schedule(0, self.latent, self.latent // 5)

    def second(self, *, own_weights: bool) -> Schedule:
        """Schedule by the picture's distortion; of weights only if they are own ones, as differences cost too much."""
        schedule = Schedule(0, self.distortion, 0, weight_rate=0.0, **GENTLE)
        if not own_weights:
            return schedule
        return replace(schedule, settle=self.distortion // 4, weight_rate=WEIGHT_RATE, settle_rate=WEIGHT_RATE)


class LatentFit(Fit):
    """A fit of functions of latents to what pictures look like.

    Attributes:
        start: how it began, or would have for the lambdas that it is turned to.
    """

    def __init__(
        self, start: Initialisation, lambdas: Tensor, measured: PictureDistortion, schedule: Schedule,
        generator: torch.Generator, progress: Callable[[], object],
    ) -> None:  # fmt: skip
        super().__init__(measured.picture, lambdas, [start.function], schedule, generator, progress, self._distortion)
        self.start, self.measured = start, measured

    def _distortion(self, function: Function, _: Tensor) -> Tensor:
        return self.measured.distortion(latents_of(function, self.start.step))


class LatentFits(Fits):
    """Base of fits of functions to the latents of pictures.

    Args:
        pictures: (height, width) or (height, width, 3), uint8.
        log_weights: of the distortion, (batch, 1, height, width); None if all are 0. Lambda is that of the greatest.
        bounds: least and greatest logarithm of lambda.
        progress: told after each iteration.
    """

    far = 0.1
    own_weights: bool
    _fit: LatentFit

    def __init__(
        self, autoencoder: Autoencoder, pictures: Sequence[NDArray[np.uint8]], log_weights: Tensor | None,
        iterations: Iterations, bounds: tuple[float, float], seed: int, progress: Callable[[], object],
    ) -> None:  # fmt: skip
        device, self.count = autoencoder.device, len(pictures)
        self.most, self.log_weights = torch.zeros(self.count, dtype=torch.float64, device="cpu"), log_weights
        if log_weights is not None:
            most = log_weights.amax((1, 2, 3), keepdim=True)
            self.most, self.log_weights = most.flatten().cpu().double(), log_weights - most
            bounds = bounds[0], bounds[1] + self.most.max().item()
        self.autoencoder, self.iterations, self.bounds, self.progress = autoencoder, iterations, bounds, progress
        self.responses = -0.5, -0.35 if iterations.distortion else -0.5
        self.generator = torch.Generator(device).manual_seed(seed)
        self.picture, self.visible = to_tensor(pictures, device).expand(-1, 3, -1, -1), ValidRegion.of(pictures, device)
        self.latent = autoencoder.encode(self.picture)
        self.region = ValidRegion.of(pictures, device, scale=autoencoder.downscale)
        self.pixels = torch.tensor([p.shape[0] * p.shape[1] for p in pictures], device=device)

    @abstractmethod
    def _begun(self, logs: Tensor) -> Initialisation:
        """Beginning of fits, by the logarithms of the lambdas of what counts most."""

    def bits(self, function: Function) -> Tensor:
        return fit.rate(function.rounded()) * function.positions

    def shrinkage(self, logs: Tensor, part: float) -> Tensor:
        return SHRINKAGE * (logs / 2).exp()

    def fitted(self, logs: Tensor, steer: Steer | None = None) -> Fitted:
        start = self._begun(logs - self.most)
        rounded = Fitted(start.function.rounded(), start.weights)
        if not self.iterations.distortion:
            return rounded
        lambdas, schedule = self._lambdas(logs), self.iterations.second(own_weights=self.own_weights)
        self._fit = LatentFit(start, lambdas, self._measured, schedule, self.generator, self.progress)
        found = self._coded(self._fit.run(steer))
        if steer:
            return found
        with torch.no_grad():  # where little is to be won, noise may lose it
            costs = [cost(each.function, self.picture, lambdas, self._fit.measure) for each in (found, rounded)]
        return chosen(costs[0] < costs[1], found, rounded)

    def again(self, before: Tensor, after: Tensor) -> Fitted:
        return super().again(before, after) if self.iterations.distortion else self.fitted(after)

    def slopes(self, found: Fitted) -> list[Tensor]:
        grids = [g.detach().requires_grad_() for g in found.function.grids]
        function = replace(found.function, grids=grids)
        step = steps_of([weights.origin for weights in found.weights], self.latent.device)
        if self.iterations.distortion:
            total = self._measured.distortion(latents_of(function, step))
        else:  # to look at the picture would take longer than all else
            total = _of_latent(self.log_weights, self.autoencoder.downscale)(function, self.latent / step)
        return list(torch.autograd.grad(total.sum(), grids))

    def _coded(self, function: Function) -> Fitted:
        return Fitted(*self._fit.start.quantised(function))

    def _lambdas(self, logs: Tensor) -> Tensor:
        """Lambdas (batch,) for a bit per position of the latent."""
        positions = self.latent[0, 0].numel() if self.region is None else self.region.positions
        return (logs - self.most).exp().to(self.pixels.device, torch.float32) * positions / self.pixels

    @cached_property
    def _measured(self) -> PictureDistortion:
        weights = None if self.log_weights is None else self.log_weights.exp()
        return PictureDistortion(self.autoencoder, self.picture, self.visible, weights)


class UniversalFits(LatentFits):
    """Fits that begin with a model's universal function, for any batch of pictures."""

    own_weights = False

    def estimate(self, logs: Tensor) -> Tensor:
        return self.bits(self._begun(logs - self.most).function).cpu().double()

    def turn(self, function: Function, before: Tensor, after: Tensor) -> tuple[Function, Tensor]:
        """The same latents in other steps, those of another start, which is the fit's from now on."""
        old, new = self._begun(before - self.most), self._begun(after - self.most)
        self._fit.start = new
        grids = [g * (old.step / new.step) for g in function.grids]
        return replace(function, weights=new.function.weights, grids=grids), self._lambdas(after)

    def _begun(self, logs: Tensor) -> Initialisation:
        lambdas, weights = logs.exp().tolist(), None
        if self.log_weights is not None:
            weights = of_cells(self.log_weights, self.autoencoder.downscale)
        return initialisation.from_universal(self._universal, self.latent, lambdas, self.region, weights)

    @cached_property
    def _universal(self) -> LambdaConditionedWeights:
        return initialisation.universal_of(self.autoencoder.model)


class OwnFits(LatentFits):
    """Fits of a function with weights of its own, for one picture and any model: to its latent first."""

    own_weights = True

    def estimate(self, logs: Tensor) -> Tensor:
        bits = self._trials.bits(self._trials.step(math.exp(logs[0] - self.most[0])))
        return self.pixels.cpu().double() * bits

    def _begun(self, logs: Tensor) -> Initialisation:
        step = self._trials.step(math.exp(logs[0]))
        first, measure = self.iterations.first, _of_latent(self.log_weights, self.autoencoder.downscale)
        return initialisation.from_latent(
            self.latent, self._trials.sensitivity, step, first, self.generator, self.progress, measure
        )

    @cached_property
    def _trials(self) -> StepTrials:
        return StepTrials.on(self.autoencoder, self.picture)


def _of_latent(log_weights: Tensor | None, downscale: int) -> Distortion:
    """The squared error of latents, weighted by the logarithms (batch, 1, height, width) for pixels."""
    roots = None if log_weights is None else (of_cells(log_weights, downscale) / 2).exp()
    return partial(fit.distortion, roots=roots)
