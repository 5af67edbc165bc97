"""Files of a size that is asked for, from one fit.

Lambda is guessed from what the beginning of the fit would cost. While the first part of the fit anneals, lambda is
steered by what the grids cost already. What is still amiss at the end is put right by annealing the last part again,
with another lambda; and if the file is then a little too large, samples are changed by one where that saves most.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.container import Section
from codec.overfit import arm, bitstream, pipeline
from codec.overfit.bitstream import Integers, QuantisedWeights
from codec.overfit.fit import Fit, Function, Steer, choose, rate
from codec.overfit.function import MARGIN, Spec
from codec.processes import results
from codec.profiles import RoomError

SLOPE, AGAIN = -0.5, -0.35  # of the logarithm of the size against that of lambda, until it is known; of the last part
SLOPES = (-1.0, -0.05)  # between which it is believed
DOUBTFUL = 0.2  # shrinkage of sizes that is as likely to be another
GUESSES = 6  # at most
ROUNDS = 3  # of annealing again, at most
FAR = 0.1  # log size, relative to what is asked for, at which the whole fit is done again
FITTING = (-0.012, 0.03)  # log size, relative to what is asked for, that is only trimmed
AIM = -0.004  # where in there to go
APART = 2 * MARGIN + 1  # samples, at which changes do not disturb each other
TRIES = 6  # at trimming
LARGEST_TRIM = 0.05  # of the logarithm of the size, of what does not fit at the greatest lambda


@dataclass(frozen=True)
class Fitted:
    """A batch of functions as files hold them: whole numbers in their grids, and weights as they are coded."""

    function: Function
    weights: list[QuantisedWeights]

    def sections(self) -> list[dict[Section, bytes]]:
        """The files' sections, which were read back."""
        results(bitstream.verify, [(bodies, *parts) for bodies, parts in zip(self._bodies, self._parts, strict=True)])
        return [dict(zip((Section.WEIGHTS, Section.GRIDS), bodies, strict=True)) for bodies in self._bodies]

    def log_sizes(self) -> Tensor:
        """Logarithms (batch,) of the bytes of the sections."""
        sizes = [sum(map(len, bodies)) for bodies in self._bodies]
        return torch.tensor(sizes, dtype=torch.float64, device="cpu").log()

    @cached_property
    def _parts(self) -> list[tuple[Spec, QuantisedWeights, list[Integers]]]:
        return [pipeline.whole(self.function.alone(i), weights) for i, weights in enumerate(self.weights)]

    @cached_property
    def _bodies(self) -> list[tuple[bytes, bytes]]:
        return results(bitstream.write, self._parts)


class Fits(ABC):
    """Fits to a batch of pictures, for logarithms of lambdas (batch,), float64 on the CPU.

    Attributes:
        count: of the pictures.
        bounds: least and greatest logarithm.
    """

    count: int
    bounds: tuple[float, float]
    _fit: Fit  # the last one

    @abstractmethod
    def guessed(self, logs: Tensor) -> Tensor:
        """About how many bits (batch,) files would have, without fitting anything."""

    @abstractmethod
    def bits(self, function: Function) -> Tensor:
        """About how many bits (batch,) files of functions that are being fitted would have."""

    @abstractmethod
    def shrinkage(self, logs: Tensor, part: float) -> Tensor:
        """By how much files get smaller, in logarithm, after a part of the annealing, about."""

    @abstractmethod
    def fitted(self, logs: Tensor, steer: Steer | None = None) -> Fitted:
        """The whole fit; `steer` is told and changes what `codec.overfit.fit.Fit` says."""

    def changed(self, function: Function, before: Tensor, after: Tensor) -> tuple[Function, Tensor]:
        """A function for other lambdas, and these (batch,) in the units of the fit."""
        return function, self._lambdas(after)

    def again(self, before: Tensor, after: Tensor) -> Fitted:
        """The fit from where it was steered last, which left `before`, but for other lambdas."""
        return self._coded(self._fit.again(lambda function: self.changed(function, before, after)))

    @abstractmethod
    def _lambdas(self, logs: Tensor) -> Tensor:
        """Lambdas (batch,) in the units of the fit, on its device."""

    @abstractmethod
    def _coded(self, function: Function) -> Fitted:
        """What became of the fit."""

    @abstractmethod
    def slopes(self, found: Fitted) -> list[Tensor]:
        """Gradients of the distortion in the grids, by level."""


class _Steering:
    """Changes lambdas towards the size that is asked for, a part of the way each time."""

    def __init__(self, fits: Fits, logs: Tensor, room: Tensor) -> None:
        self.fits, self.logs, self.room = fits, logs, room

    def __call__(self, function: Function, lambdas: Tensor, part: float) -> tuple[Function, Tensor]:
        before = self.logs
        shrinkage = self.fits.shrinkage(before, part)
        too_large = (self.fits.bits(function).cpu().double() / 8).log() - shrinkage - self.room
        sure = 1 / (1 + (shrinkage / DOUBTFUL) ** 2)
        self.logs = (before - 0.75 * sure * too_large / SLOPE).clamp(*self.fits.bounds)
        return self.fits.changed(function, before, self.logs)


def encoded(fits: Fits, log_lambda: float, room: Sequence[int] | None) -> Fitted:
    """Files for a lambda, or the best for which there is room."""
    if room is None:
        return fits.fitted(torch.full((fits.count,), log_lambda, dtype=torch.float64, device="cpu"))
    return of_size(fits, room)


def of_size(fits: Fits, room: Sequence[int]) -> Fitted:
    """The best files that the search finds of which none has more than so many bytes in its sections.

    Raises:
        RoomError: a picture takes more, even at the greatest lambda.
    """
    wanted = torch.tensor(room, dtype=torch.float64, device="cpu").clamp(min=1).log()
    logs = _guess(fits, wanted)
    steering = _Steering(fits, logs, wanted)
    found = fits.fitted(logs, steering)
    logs = kept = steering.logs
    off = found.log_sizes() - wanted
    far = bool((off.abs() > FAR).any())
    slope = torch.full_like(logs, SLOPE if far else AGAIN)
    for i in range(ROUNDS):
        tried = _next(fits, logs, off, slope)
        if torch.equal(tried, logs):
            break
        if far and i == 0:
            other, kept = fits.fitted(tried, lambda function, lambdas, _: (function, lambdas)), tried
        else:
            other = fits.again(kept, tried)
        other_off = other.log_sizes() - wanted
        slope = _secant(slope, tried - logs, other_off - off)
        better = other_off.abs() < off.abs()
        found = chosen(better, other, found)
        logs, off = torch.where(better, tried, logs), torch.where(better, other_off, off)
    for i in ((off > LARGEST_TRIM) & (logs >= fits.bounds[1])).nonzero().flatten().tolist():
        raise RoomError(i, round(math.exp(off[i] + wanted[i])))
    return _trimmed(fits, found, wanted)


@torch.no_grad()
def _guess(fits: Fits, wanted: Tensor) -> Tensor:
    """Logarithms of lambdas at which beginnings of fits have the size that is asked for."""
    logs, slope = torch.full_like(wanted, sum(fits.bounds) / 2), torch.full_like(wanted, SLOPE)
    off = (fits.guessed(logs) / 8).log() - wanted
    for _ in range(GUESSES):
        tried = _next(fits, logs, off, slope)
        if torch.equal(tried, logs):
            break
        other_off = (fits.guessed(tried) / 8).log() - wanted
        slope = _secant(slope, tried - logs, other_off - off)
        logs, off = tried, other_off
    return logs


def _next(fits: Fits, logs: Tensor, off: Tensor, slope: Tensor) -> Tensor:
    """What to try after these gave sizes that are so much off: the same where that can be trimmed, or is for good."""
    tried = (logs - (off - AIM) / slope).clamp(*fits.bounds)
    return torch.where((off > FITTING[0]) & (off < FITTING[1]), logs, tried)


def _secant(slope: Tensor, run: Tensor, rise: Tensor) -> Tensor:
    """The slope between two tries, where they differ enough to tell."""
    return torch.where(run.abs() > 1e-3, (rise / run).clamp(*SLOPES), slope)


def chosen(condition: Tensor, yes: Fitted, no: Fitted) -> Fitted:
    """For each of a batch, what fits."""
    there = condition.to(yes.function.grids[0].device)
    a, b = yes.function, no.function
    grids = [choose(there, g, h) for g, h in zip(a.grids, b.grids, strict=True)]
    weights = {name: choose(there, w, b.weights[name]) for name, w in a.weights.items()}
    either = [y if c else n for c, y, n in zip(condition.tolist(), yes.weights, no.weights, strict=True)]
    return Fitted(replace(a, grids=grids, weights=weights), either)


def _trimmed(fits: Fits, found: Fitted, wanted: Tensor) -> Fitted:
    """The same in no more bytes than are wanted."""
    slopes: list[Tensor] = []
    for tries in range(TRIES):
        off = found.log_sizes() - wanted
        if (off <= 0).all():
            return found
        slopes = slopes or fits.slopes(found)
        part = torch.where(off > 0, (-off - 5e-4 * 2**tries).exp(), 1)
        found = replace(found, function=_smaller(found.function, slopes, part.float().to(slopes[0].device)))
    raise RoomError(int(off.argmax()), round(math.exp(off.max() + wanted[off.argmax()])))


@torch.no_grad()
def _smaller(function: Function, slopes: list[Tensor], part: Tensor) -> Function:
    """Functions whose grids cost about this part (batch,) of their bits, by changes of some samples by one.

    Only the finest grid that is not empty is changed. Changes are tried far apart from each other, as each also changes
    what is expected of samples around it; kept are those that save bits, most first. Where there is a choice, it falls
    on the sample that adds least to the distortion: of that the gradient is known, and the curvature taken to be the
    same for all samples, as how large gradients still are tells it.
    """
    level = next((i for i, g in enumerate(function.grids) if g.any()), 0)
    added = 2 * slopes[level].abs().mean((1, 2, 3), keepdim=True) + 1e-30
    needed = (1 - part) * rate(function) * function.positions
    for y, x in product(range(APART), repeat=2):
        if (needed <= 0).all():
            break
        bits, means = arm.details(function.grids, function.weights, function.spec, level)
        grid = function.grids[level]
        move = (means.round() - grid).sign() * _lattice(grid, y, x)
        if function.extent is not None:
            move = move * function.extent.inside[level]
        worth = bits / (move * slopes[level] + added).maximum(0.1 * added)
        best = torch.where(move == 0, 0, worth).max(1, keepdim=True)
        there = (best.values > 0).to(grid)
        tried = list(function.grids)
        tried[level] = grid + move * torch.zeros_like(grid).scatter(1, best.indices, there)
        after, _ = arm.details(tried, function.weights, function.spec, level)
        saved = F.avg_pool2d((bits - after).sum(1, keepdim=True), APART, 1, APART // 2) * APART**2
        kept, amount = _best(saved * there, needed)
        tried[level] = torch.where(kept, tried[level], grid)
        function, needed = replace(function, grids=tried), needed - amount
    return function


def _lattice(grid: Tensor, y: int, x: int) -> Tensor:
    """1 at each `APART`th row and column, from these on."""
    rows, columns = (torch.arange(n, device=grid.device) % APART for n in grid.shape[2:])
    return ((rows == y).unsqueeze(1) & (columns == x)).to(grid)


def _best(saved: Tensor, needed: Tensor) -> tuple[Tensor, Tensor]:
    """Where to keep what saves bits (batch, 1, height, width), most first, until it is enough; and what that saves."""
    flat = saved.flatten(1)
    order = flat.sort(1, descending=True)
    before = order.values.clamp(min=0).cumsum(1) - order.values.clamp(min=0)
    keep = (order.values > 0.5) & (before < needed.unsqueeze(1))
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter(1, order.indices, keep)
    return kept.view_as(saved), (flat * kept).sum(1)
