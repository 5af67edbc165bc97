"""Initial functions of a latent: a model's universal function, or one that is fitted to the latent alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.model_file import Model
from codec.entropy.tables import HIGH_RATE_SLOPE
from codec.overfit import initialisation, synthesis
from codec.overfit.bitstream import Origin, QuantisedWeight, QuantisedWeights
from codec.overfit.fit import PAPER_CANDIDATES, Distortion, Schedule, distortion, fit
from codec.overfit.function import Function, joined
from codec.overfit.lambda_conditioned_weights import NONE, LambdaConditionedWeights, read_description
from codec.overfit.quantise import dequantise, quantise
from codec.overfit.reference_weights import PLAIN
from codec.overfit.spec import Spec
from codec.overfit.valid_region import ValidRegion
from codec.profiles.clric.quantisation_step import Sensitivity

WEIGHTS_BUDGET = 2**14  # bytes
DEAD_ZONE = 0.4  # in steps, by how much lambda is beyond a universal function's, in its logarithm
UNIMPORTANT = 0.25  # what a weight below 1 adds to that, by its logarithm


@dataclass(frozen=True)
class Initialisation:
    """Functions of latents, such as fits begin with.

    Attributes:
        function: (batch, ...), with weights as they are coded.
        weights: of each function, as a file holds them.
        step: (batch, channels, 1, 1), what outputs are multiplied by to be latents.
        lam: squared error of the latent that a bit per position may save, as weights were quantised; None if they are
            a universal function's.
    """

    function: Function
    weights: list[QuantisedWeights]
    step: Tensor
    lam: float | None = None

    def quantised(self, function: Function) -> tuple[Function, list[QuantisedWeights]]:
        """Functions that these became, with weights that can be coded."""
        return (function, self.weights) if self.lam is None else _quantised(function, self.lam)


def from_universal(
    universal: LambdaConditionedWeights, latents: Tensor, lambdas: list[float], region: ValidRegion | None,
    log_weights: Tensor | None = None,
) -> Initialisation:  # fmt: skip
    """The universal function for each lambda, with the scaled latent in its grid: still to be rounded.

    For lambdas beyond its greatest, samples are drawn towards zero, so that more of them are rounded to it; where
    weights are below 1, likewise.

    Args:
        log_weights: logarithms of weights of the latents' positions, (batch, 1, h, w), 0 or less; 0 by default.
    """
    origins = [Origin(universal.number(lam), universal) for lam in lambdas]
    step = steps_of(origins, latents.device)
    beyond = step.new_tensor([max(0.0, math.log(lam / universal.lambdas[1])) for lam in lambdas]).view(-1, 1, 1, 1)
    dead = DEAD_ZONE * beyond if log_weights is None else DEAD_ZONE * beyond - UNIMPORTANT * log_weights
    scaled = _drawn(latents / step, dead).split(1)
    function = joined([initialisation.universal(*pair) for pair in zip(origins, scaled, strict=True)]).within(region)
    nothing = {name: QuantisedWeight.nothing(shape) for name, shape in function.spec.weight_shapes.items()}
    return Initialisation(function, [QuantisedWeights(origin, nothing) for origin in origins], step)


def _drawn(x: Tensor, zone: Tensor) -> Tensor:
    """Samples, drawn towards zero by a zone each; those within it become zero."""
    return x - x.clamp(-zone, zone)


def from_latent(
    latent: Tensor, sensitivity: Sensitivity, step: float, schedule: Schedule, generator: torch.Generator,
    progress: Callable[[], object], measure: Distortion = distortion,
) -> Initialisation:  # fmt: skip
    """A function fitted to the latent alone, about as exact as the weighted latent quantised with this step."""
    seen = sensitivity.of(latent)
    lam = HIGH_RATE_SLOPE * step**2 / latent.shape[1]
    lambdas, start = torch.full((1,), lam, device=latent.device), initialisation.principal(seen, step)
    return _start(sensitivity.undone(fit(seen, lambdas, [start], schedule, generator, progress, measure)), lam)


def from_nothing(
    latent: Tensor, step: float, schedule: Schedule, generator: torch.Generator, progress: Callable[[], object],
    measure: Distortion = distortion,
) -> Initialisation:  # fmt: skip
    """A function fitted to the latent as the paper does it: one feature on each of seven grids, random candidates."""
    channels, height, width = latent.shape[1:]
    lam = HIGH_RATE_SLOPE * step**2 / channels
    spec = Spec(height, width, channels, features=(1,) * 7, spatial=8, references=0)
    candidates = [initialisation.random(spec, generator) for _ in range(PAPER_CANDIDATES)]
    lambdas = torch.full((1,), lam, device=latent.device)
    return _start(fit(latent, lambdas, candidates, schedule, generator, progress, measure), lam)


def _start(function: Function, lam: float) -> Initialisation:
    held, weights = _quantised(function, lam)
    return Initialisation(held, weights, steps_of([w.origin for w in weights], held.grids[0].device), lam)


def _quantised(function: Function, lam: float) -> tuple[Function, list[QuantisedWeights]]:
    """The function with weights that can be coded, which make about the same latent."""
    latent, origin = synthesis.synthesise(function.grids, function.weights, function.spec), Origin(PLAIN, NONE)
    lambdas = torch.full((1,), lam, device=latent.device)
    [weights] = quantise(function, latent, lambdas, WEIGHTS_BUDGET, origin)
    return replace(function, weights=dequantise(function.spec, weights, latent.device)), [weights]


def step_of(origin: Origin, device: torch.device) -> Tensor:
    """Quantisation steps by which a function's outputs are multiplied to be a latent.

    Returns:
        (1, channels, 1, 1) of a universal function; a single 1, (1, 1, 1, 1), of others.
    """
    if origin.universal is None or origin.number == PLAIN:
        return torch.ones(1, 1, 1, 1, device=device)
    return torch.from_numpy(origin.universal.step(origin.number)).to(device).view(1, -1, 1, 1)


def steps_of(origins: list[Origin], device: torch.device) -> Tensor:
    """The same for a batch of functions, (batch, channels, 1, 1)."""
    return torch.cat([step_of(origin, device) for origin in origins])


def latents_of(function: Function, step: Tensor) -> Tensor:
    """Latents (batch, channels, height, width) that functions make; differentiable."""
    return synthesis.output(function.grids, function.weights, function.spec, function.region) * step


def universal_of(model: Model) -> LambdaConditionedWeights:
    """The universal function that a model brings along, or the one that stands for none.

    Raises:
        ModelFileError: a quantisation step is not positive.
    """
    if model.function is None:
        return NONE
    knots = {name: tensor.numpy() for name, tensor in model.component("function").items()}
    universal = LambdaConditionedWeights(*read_description(model.function), knots, knots.pop("steps"))
    if (universal.steps <= 0).any():
        raise ModelFileError(f"model {model.name} is damaged: a step of its function is not positive: get it again")
    return universal
