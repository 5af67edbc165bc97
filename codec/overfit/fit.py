"""The fit: grids and weights of a function, by gradient descent on distortion + lambda * rate.

Distortion is the mean squared error over all samples of the target, rate is in bits per sample position. Nothing is
clamped on the way: where an output leaves the range of samples, the error pulls it back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from codec.device import Repeated
from codec.overfit import arm, synthesis
from codec.overfit.function import Function, Weights, choose, joined
from codec.overfit.soap import DAMPING, EPSILON, EVERY, Soap
from codec.overfit.spec import Spec

Distortion = Callable[[Function, Tensor], Tensor]  # of a function and its target, (batch,), differentiable
Loss = Callable[[Function], Tensor]  # (batch,), to be minimised
# Of functions, lambdas and the part (0..1) of the annealing that is done: functions and lambdas to go on with.
Steer = Callable[[Function, Tensor, float], tuple[Function, Tensor]]
STEERED = 0.6  # part of an annealing in which it may be steered: after that too little moves
STOPS = 6  # at which it is


@dataclass(frozen=True)
class Schedule:
    """Iterations of a fit, and settings that change on the way; pairs are values at the beginning and at the end."""

    warm_up: int  # iterations for every candidate
    main: int  # iterations for the best of them
    settle: int  # iterations for the weights alone, with the grids rounded
    grid_rate: float = 0.25  # learning rates, which fall along a cosine
    weight_rate: float = 5e-3
    settle_rate: float = 1e-3
    damping: float = 4e-3  # Adam's epsilon for the grids, times the number of positions
    relative: bool = False  # whether that is in units of lambda
    temperature: tuple[float, float] = (0.5, 0.1)  # of soft rounding
    noise: tuple[float, float] = (0.22, 0.12)  # its standard deviation
    drift: float = 2.0  # the weight of `drift` in the cost
    preconditioned: bool = False  # whether the layers of both networks are fitted by `Soap` instead of Adam
    soap_damping: float = DAMPING

    @property
    def total(self) -> int:
        return self.warm_up + self.main + self.settle

    @property
    def again(self) -> int:
        """Iterations from the end of the part that is steered."""
        return math.ceil((1 - STEERED) * self.main)

    def learning_rates(self, part: float) -> tuple[float, float]:
        """Learning rates of grids and of weights after a part, 0 to 1, of the annealing."""
        decay = 0.5 + 0.5 * math.cos(math.pi * part)
        return self.grid_rate * decay, self.weight_rate * decay

    def softness(self, part: float) -> tuple[float, float]:
        """Temperature and noise after a part of the annealing."""
        temperature, noise = (a + (b - a) * part for a, b in (self.temperature, self.noise))
        return temperature, noise

    def epsilon(self, spec: Spec) -> float:
        """Adam's for the grids: gradients of samples shrink with the picture's size, and so must what damps steps."""
        return self.damping / (spec.height * spec.width)


# Schedule of COOL-CHIC and CLRIC: 15,900 iterations, the first for several random candidates. Adam's steps of 0.01 are
# those of grids in units of 16 quantisation steps, their "encoder gain".
PAPER_CANDIDATES = 5
PAPER_SCHEDULE = Schedule(
    400, 13400, 500, grid_rate=16 * 1e-2, weight_rate=1e-2, settle_rate=1e-4, damping=1e-4, temperature=(0.35, 0.08),
    noise=(0.22, 0.15), drift=0.0,
)  # fmt: skip


def distortion(function: Function, target: Tensor, roots: Tensor | None = None) -> Tensor:
    """Mean squared error (batch,) of the samples that the function makes.

    Args:
        roots: of the weights of squared errors, (batch, 1, height, width); 1 by default.
    """
    error = synthesis.squared_error(function.grids, function.weights, function.spec, target, function.region, roots)
    return error / (function.spec.outputs * function.positions)


def rate(function: Function) -> Tensor:
    """Bits per sample position (batch,) of the grids."""
    inside = None if function.region is None else function.region.inside
    return arm.rate(function.grids, function.weights, function.spec, inside) / function.positions


def cost(function: Function, target: Tensor, lambdas: Tensor, measure: Distortion = distortion) -> Tensor:
    """Cost that a fit minimises: distortion + lambda * rate (batch,)."""
    return measure(function, target) + lambdas * rate(function)


def drift(weights: Weights, origin: Weights) -> Tensor:
    """Estimated bits (batch,) of the differences of some weights to others, in a form with a gradient."""
    before, after = (torch.cat([each[name].flatten(1) for name in weights], 1) for each in (origin, weights))
    return torch.log2(1 + (after - before).abs() * 2**5).sum(1)


def fit(
    target: Tensor,
    lambdas: Tensor,
    candidates: list[Function],
    schedule: Schedule,
    generator: torch.Generator,
    progress: Callable[[], object] = lambda: None,
    measure: Distortion = distortion,
) -> Function:
    """Fit one function to each target; see `Fit`."""
    return Fit(target, lambdas, candidates, schedule, generator, progress, measure).run()


class Fit:
    """A fit of one function to each target.

    Args:
        target: (batch, outputs, height, width), or what else `measure` takes.
        lambdas: (batch,), change of distortion for one bit per sample position.
        candidates: starting points; each holds a batch of functions, one for each target.
        progress: called after each iteration; there are `schedule.total`, less the warm-up if there is one candidate.
        measure: the distortion.
    """

    def __init__(
        self, target: Tensor, lambdas: Tensor, candidates: list[Function], schedule: Schedule,
        generator: torch.Generator, progress: Callable[[], object] = lambda: None, measure: Distortion = distortion,
    ) -> None:  # fmt: skip
        self.target, self.lambdas, self.schedule = target, lambdas, schedule
        self.generator, self.progress, self.measure = generator, progress, measure
        self.choices = len(candidates)
        self.function = joined(candidates)
        self.origin = self.function.weights
        self.kept = self.function

    def run(self, steer: Steer | None = None) -> Function:
        """Run the complete fit.

        Args:
            steer: called a few times in the first part of the annealing; gives function and lambdas to go on with.

        Returns:
            Functions with integers in their grids, at the lowest cost that was seen.
        """
        self._warm_up()
        self._descend(self.schedule.main, self.target, first=0.0, last=1.0, steer=steer)
        return self._settle()

    def again(self, change: Callable[[Function], tuple[Function, Tensor]]) -> Function:
        """Fit again from the end of the part that was steered, with function and lambdas changed; returns as `run`."""
        self.function, self.lambdas = change(self.kept)
        self._descend(self.schedule.again, self.target, first=STEERED, last=1.0)
        return self._settle()

    def _warm_up(self) -> None:
        """Fit all candidates for a while; keep the best for each target."""
        if self.choices == 1:
            return
        batch, lambdas = len(self.target), self.lambdas
        everything = self.target.repeat(self.choices, 1, 1, 1)
        self.lambdas = lambdas.repeat(self.choices)
        self._descend(self.schedule.warm_up, everything, first=0.0, last=0.1)
        with torch.no_grad():
            found = cost(self.function.rounded(), everything, self.lambdas, self.measure).view(self.choices, batch)
        best = found.argmin(0) * batch + torch.arange(batch, device=found.device)
        self.function, self.lambdas = self.function.select(best), lambdas
        self.origin = {name: w[best] for name, w in self.origin.items()}

    def _descend(self, iterations: int, target: Tensor, first: float, last: float, steer: Steer | None = None) -> None:
        """Less and less noise, smaller and smaller steps; `first` and `last` say what part of the annealing."""

        def loss(function: Function) -> Tensor:
            total = self._loss(function, target)
            return total / self.lambdas if self.schedule.relative else total

        descent = _Descent(self.function, self.schedule, loss, self.generator)
        iterate = Repeated(descent, self.lambdas.device, iterations)
        stops = {round(STEERED * iterations * i / STOPS) for i in range(1, STOPS + 1)} if steer else set()
        for i in range(iterations):
            part = first + (last - first) * i / iterations
            if steer and i in stops:
                self._steered(steer, descent.function, part)
                iterate.changed()
            descent.prepare(i, part)
            iterate()
            self.progress()
        self.function = descent.function.detached()

    @torch.no_grad()
    def _steered(self, steer: Steer, function: Function, part: float) -> None:
        """Change what is being fitted in place, and keep a copy."""
        self.kept, self.lambdas = steer(function.detached(), self.lambdas, part)
        self.kept = replace(self.kept, grids=[g.clone() for g in self.kept.grids])
        self.kept.weights = {name: w.clone() for name, w in self.kept.weights.items()}
        for g, changed in zip(function.grids, self.kept.grids, strict=True):
            g.copy_(changed)
        for name, w in function.weights.items():
            w.copy_(self.kept.weights[name])

    def _loss(self, function: Function, target: Tensor) -> Tensor:
        """The cost, with estimated bits of the weights as differences to those that the fit began with."""
        total = cost(function, target, self.lambdas, self.measure)
        if self.schedule.drift:
            bits = self.schedule.drift * drift(function.weights, self.origin)
            total = total + self.lambdas * bits / function.positions
        return total

    def _settle(self) -> Function:
        """Round the grids for good and let the weights adapt to that; return the best state seen."""
        if not all(bool(g.isfinite().all()) for g in self.function.grids):
            raise RuntimeError("the fit did not stay finite: please report this with the picture")
        rate_of_weights, iterations = self.schedule.settle_rate, self.schedule.settle
        settling = _Settling(self.function.rounded(), lambda f: self._loss(f, self.target))
        iterate = Repeated(settling, self.lambdas.device, iterations)
        for i in range(iterations):
            settling.rate.fill_(rate_of_weights * (1 - i / iterations))
            iterate()
            self.progress()
        return settling.best


class _Descent:
    """An iteration of a descent of grids and weights; learning rates, temperature and noise stay in their tensors."""

    def __init__(self, function: Function, schedule: Schedule, loss: Loss, generator: torch.Generator) -> None:
        self.schedule, self.loss, self.generator = schedule, loss, generator
        grids, fitted = _leaves(function.grids), schedule.weight_rate > 0
        weights = dict(zip(function.weights, _leaves(function.weights.values(), gradients=fitted), strict=True))
        self.function = replace(function, grids=grids, weights=weights)
        self.noise = torch.cat([g.detach().flatten(1) for g in grids], 1)
        self.rates, self.temperature = [self.noise.new_zeros(()) for _ in range(2)], self.noise.new_zeros(())
        layers = [name for name in weights if _is_layer(name)] if schedule.preconditioned else []
        rest = [w for name, w in weights.items() if name not in layers]
        groups = [(grids, self.rates[0], schedule.epsilon(function.spec)), (rest, self.rates[1], EPSILON)]
        self.soap = Soap([weights[name] for name in layers], self.rates[1], schedule.soap_damping) if layers else None
        self.optimizers = [_adam(*groups), *filter(None, [self.soap])]

    def prepare(self, iteration: int, part: float) -> None:
        """Set learning rates, temperature and noise of the next iteration, after a part of the annealing."""
        temperature, noise = self.schedule.softness(part)
        for held, value in zip(self.rates, self.schedule.learning_rates(part), strict=True):
            held.fill_(value)
        self.temperature.fill_(temperature)
        self.noise.normal_(0, noise, generator=self.generator)
        if self.soap and iteration % EVERY == 0:
            self.soap.turn()

    def __call__(self) -> None:
        soft = self.function.cut(soften(self.function.grids, self.noise, self.temperature))
        _lower(self.loss(replace(self.function, grids=soft)), self.optimizers)


class _Settling:
    """An iteration of a descent of the weights alone, which keeps the best that was seen."""

    def __init__(self, function: Function, loss: Loss) -> None:
        self.loss = loss
        weights = dict(zip(function.weights, _leaves(function.weights.values()), strict=True))
        self.function = replace(function, weights=weights)
        self.best = replace(function, weights={name: w.detach().clone() for name, w in weights.items()})
        self.lowest = function.grids[0].new_full((len(function.grids[0]),), math.inf)
        self.rate = self.lowest.new_zeros(())
        self.optimizers = [_adam((weights.values(), self.rate, EPSILON))]

    def __call__(self) -> None:
        loss = self.loss(self.function)
        better = loss.detach() < self.lowest
        self.lowest.copy_(torch.where(better, loss.detach(), self.lowest))
        for name, kept in self.best.weights.items():
            kept.copy_(choose(better, self.function.weights[name].detach(), kept))
        _lower(loss, self.optimizers)


def _is_layer(name: str) -> bool:
    """Whether a weight is a matrix that joins channels: none of the biases, nor the taps of upsampling."""
    return name.startswith(("arm.", "synthesis.")) and not name.endswith("bias")


def _leaves(tensors: Iterable[Tensor], *, gradients: bool = True) -> list[Tensor]:
    """Copies, to take gradients in or not."""
    return [t.detach().clone(memory_format=torch.contiguous_format).requires_grad_(gradients) for t in tensors]


def _adam(*groups: tuple[Iterable[Tensor], Tensor, float]) -> torch.optim.Optimizer:
    """For tensors that have a learning rate and an epsilon in common."""
    named = [{"params": [*tensors], "lr": rate, "eps": epsilon} for tensors, rate, epsilon in groups]
    return torch.optim.Adam(named, fused=True, capturable=True)


def _lower(loss: Tensor, optimizers: list[torch.optim.Optimizer]) -> None:
    """A step of each. Gradients replace those before: in a captured graph there is nothing to add them to."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    tensors = [t for group in groups for t in group["params"] if t.requires_grad]
    for tensor, gradient in zip(tensors, torch.autograd.grad(loss.sum(), tensors, allow_unused=True), strict=True):
        tensor.grad = None if gradient is None else gradient.contiguous()
    for optimizer in optimizers:
        optimizer.step()


def soften(grids: list[Tensor], noise: Tensor, temperature: Tensor) -> list[Tensor]:
    """Almost round grids, with a gradient: the softer, the higher the temperature.

    Args:
        noise: (batch, samples), added between two soft roundings.
        temperature: a number.
    """
    together = torch.cat([g.flatten(1) for g in grids], 1)  # or most of a small picture's time goes to starting this
    soft: Tensor = _Soften.apply(together, noise, temperature)  # type: ignore[no-untyped-call]
    parts = soft.split([g[0].numel() for g in grids], 1)
    return [part.unflatten(1, g.shape[1:]) for part, g in zip(parts, grids, strict=True)]


class _Soften(torch.autograd.Function):
    """Soft rounding, noise, soft rounding again: rounding that has a gradient (Agustsson & Theis, NeurIPS 2020)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
        slope, reach = torch.ones_like(x), 0.5 / torch.tanh(0.5 / temperature)
        for added in (None, noise):
            if added is not None:
                x = x + added
            middle = x.floor().add_(0.5)
            bend = (x - middle).div_(temperature).tanh_()
            x = middle.add_(bend * reach)
            slope.addcmul_(slope * bend, bend, value=-1)
        ctx.save_for_backward(slope.mul_((reach / temperature) ** 2))
        return x

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        (slope,) = ctx.saved_tensors
        return upstream * slope, None, None
