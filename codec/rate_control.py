"""Files of a size that is asked for, from one fit.

Lambda is guessed from what the beginning of the fit would cost. While the first part of the fit anneals, lambda is
steered by what the grids cost already. What is still amiss at the end is put right by annealing the last part again, or
if it is much, by fitting again, with other lambdas; and if the file is then a little too large, samples are changed by
one where that saves most.
"""

from __future__ import annotations

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
from codec.overfit.fit import STEERED, Fit, Steer, rate
from codec.overfit.function import Function, choose
from codec.overfit.spec import MARGIN, Spec
from codec.profiles.base import Budget, Goal, Sections
from codec.workers import results

SLOPES = (-1.0, -0.1)  # of the logarithm of the size against that of lambda, between which one is believed
DOUBTFUL = 0.2  # shrinkage of sizes that is as likely to be another
PROMPT = 0.75  # part of the error in size that is corrected each time
GUESSES = 6  # at most
ROUNDS = 3  # of fitting again, wholly or in part, at most
FITTING = (-0.028, 0.015)  # log size, relative to what is asked for, that is only trimmed
AIM = -0.008  # where in there to go
PARTS = (0.05, 0.95)  # of the way from what is too large to what is too small, between which to try
APART = 2 * MARGIN + 1  # samples, at which changes do not disturb each other
TRIES = 6  # at trimming
FURTHER = 0.2  # in the logarithm of lambda, what is tried next where trimming does not suffice
HOPELESS = 0.1  # log size, relative to what is asked for, that is beyond trimming


@dataclass(frozen=True)
class Fitted:
    """A batch of functions as files hold them: integers in their grids, and weights as they are coded."""

    function: Function
    weights: list[QuantisedWeights]

    def sections(self) -> list[Sections]:
        """Sections of the files, which were read back."""
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
        responses: slopes of the logarithm of the size against that of lambda, until they are known: where lambda is
            another for the complete fit, and for the part after steering.
        far: log size, relative to the size asked for, from which on the complete fit is done again, not its last part;
            0 where lambdas must be there from the beginning to change much.
    """

    count: int
    bounds: tuple[float, float]
    responses: tuple[float, float]
    far: float
    _fit: Fit  # the last one

    @abstractmethod
    def guessed(self, logs: Tensor) -> Tensor:
        """Estimated bits (batch,) of the files, without fitting anything."""

    @abstractmethod
    def bits(self, function: Function) -> Tensor:
        """Estimated bits (batch,) of the files of functions that are being fitted."""

    @abstractmethod
    def shrinkage(self, logs: Tensor, part: float) -> Tensor:
        """Estimated decrease of the logarithms of file sizes from a part, 0 to 1, of the annealing to its end."""

    @abstractmethod
    def fitted(self, logs: Tensor, steer: Steer | None = None) -> Fitted:
        """Run the complete fit; `steer` is that of `codec.overfit.fit.Fit.run`."""

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
        """The functions that a fit gave, as files hold them."""

    @abstractmethod
    def slopes(self, found: Fitted) -> list[Tensor]:
        """Gradients of the distortion in the grids, by level."""


class _Steering:
    """Changes lambdas towards the size that is asked for, a part of the way each time.

    Attributes:
        logs: logarithms of the lambdas now.
        mean: of those that would give about the same files if they were there from the beginning.
    """

    def __init__(self, fits: Fits, logs: Tensor, wanted: Tensor) -> None:
        self.fits, self.logs, self.wanted = fits, logs, wanted
        self.mean = logs

    def __call__(self, function: Function, lambdas: Tensor, part: float) -> tuple[Function, Tensor]:
        before = self.logs
        shrinkage = self.fits.shrinkage(before, part)
        too_large = (self.fits.bits(function).cpu().double() / 8).log() - shrinkage - self.wanted
        sure = 1 / (1 + (shrinkage / DOUBTFUL) ** 2)
        first, last = self.fits.responses
        response = first + (last - first) * part / STEERED
        self.logs = (before - PROMPT * sure * too_large / response).clamp(*self.fits.bounds)
        self.mean = self.mean + (self.logs - before) * response / first
        return self.fits.changed(function, before, self.logs)


class _Search:
    """A search for the logarithms of lambdas (batch,) at which sizes are those that are asked for.

    Attributes:
        logs: the best that were tried.
        off: logarithms of sizes there, relative to what is asked for.
    """

    def __init__(self, fits: Fits, wanted: Tensor) -> None:
        self.bounds, self.wanted = fits.bounds, wanted
        self.logs, self.off = torch.zeros_like(wanted), torch.full_like(wanted, torch.inf)
        self.slope = torch.full_like(wanted, fits.responses[0])
        self.forget()

    def forget(self) -> None:
        """Forget the tries by which the next ones are placed; the best one and the slope are kept."""
        none = torch.full_like(self.wanted, torch.inf)
        self.last = none, none
        # The greatest that gave too large files, the smallest that gave too small ones: logs, off
        self.nearest = [(-sign * none, sign * none) for sign in (1, -1)]

    @property
    def fits(self) -> Tensor:
        """Mask (batch,) of the files that need no more than trimming."""
        return _fit(self.off)

    def add(self, logs: Tensor, log_sizes: Tensor) -> Tensor:
        """Note a try; return a mask (batch,) of where it is better than all before."""
        off = log_sizes - self.wanted
        run, rise = logs - self.last[0], off - self.last[1]
        known = run.isfinite() & (run.abs() > 1e-3)
        self.slope, self.last = torch.where(known, (rise / run).clamp(*SLOPES), self.slope), (logs, off)
        for i, sign in enumerate((1, -1)):
            of_logs, of_off = self.nearest[i]
            nearer = (sign * off > 0) & (sign * logs > sign * of_logs)
            self.nearest[i] = torch.where(nearer, logs, of_logs), torch.where(nearer, off, of_off)
        better = _amiss(off) < _amiss(self.off)
        self.logs, self.off = torch.where(better, logs, self.logs), torch.where(better, off, self.off)
        return better

    def next(self) -> Tensor:
        """Logarithms of lambdas (batch,) to try next; those of files that need no more than trimming stay.

        They lie between the nearest tries or, if there are none on one side, as far beyond as the slope says.
        """
        (large_logs, large), (small_logs, small) = self.nearest
        part = ((large - AIM) / (large - small)).clamp(*PARTS)
        between = large_logs + part * (small_logs - large_logs)
        beyond = [logs - (off - AIM) / self.slope for logs, off in self.nearest]
        tried = torch.where(large.isinf(), beyond[1], torch.where(small.isinf(), beyond[0], between))
        return torch.where(self.fits, self.logs, tried.clamp(*self.bounds))


def encoded(fits: Fits, goal: Goal, logarithms: tuple[float, ...]) -> list[Sections]:
    """Sections of files that meet a goal, or of the smallest files where even these take more.

    Args:
        logarithms: of lambdas, as `Quality.log_lambda` takes them.
    """
    if isinstance(goal, Budget):
        return of_size(fits, goal.sizes).sections()
    logs = torch.full((fits.count,), goal.log_lambda(logarithms), dtype=torch.float64, device="cpu")
    return fits.fitted(logs).sections()


def of_size(fits: Fits, room: Sequence[int]) -> Fitted:
    """The best files that the search finds of no more than so many bytes in their sections each.

    A picture that takes more, even at the greatest lambda, gets the file of that.
    """
    wanted = torch.tensor(room, dtype=torch.float64, device="cpu").clamp(min=1).log()
    steering, steered = _Steering(fits, _guess(fits, wanted), wanted), fits.far > 0
    found = fits.fitted(steering.logs, steering if steered else _as_it_is)
    search, late = _Search(fits, wanted), fits.responses[1] / fits.responses[0]
    search.add(steering.mean, found.log_sizes())
    mean, last = steering.mean, steering.logs  # lambdas of the last complete fit, and at its end
    for _ in range(ROUNDS):
        tried = search.next()
        if torch.equal(tried, search.logs):
            break
        if (search.off.abs() < fits.far).all():
            changed = (last + (tried - mean) / late).clamp(*fits.bounds)
            other, tried = fits.again(last, changed), mean + (changed - last) * late
        else:
            other, mean, last = fits.fitted(tried, _as_it_is), tried, tried
            if steered:  # then sizes answer otherwise, as the fit began for other lambdas
                search.forget()
            steered = False
        found = chosen(search.add(tried, other.log_sizes()), other, found)
    return _fitting(fits, found, search)


def _fitting(fits: Fits, found: Fitted, search: _Search) -> Fitted:
    """Files that are small enough: trimmed, or if that does not suffice for other lambdas, up to the greatest."""
    logs, step = search.logs, FURTHER
    while True:
        found = _trimmed(fits, found, search.wanted)
        over = (found.log_sizes() > search.wanted) & (logs < fits.bounds[1])
        if not over.any():
            return found
        logs = torch.where(over, logs + step, logs).clamp(*fits.bounds)
        found, step = chosen(over, fits.fitted(logs, _as_it_is), found), 2 * step


def _as_it_is(function: Function, lambdas: Tensor, _: float) -> tuple[Function, Tensor]:
    """Steers nowhere."""
    return function, lambdas


def _fit(off: Tensor) -> Tensor:
    """Whether files that are off so much need no more than trimming, (batch,)."""
    return (off > FITTING[0]) & (off < FITTING[1])


def _amiss(off: Tensor) -> Tensor:
    """Penalty (batch,) of sizes that are off so much: files too large can be trimmed, files too small stay so.

    The worst that fits is better than the best that does not.
    """
    return torch.where(off > 0, off / 2, -off) + torch.where(_fit(off), 0, max(map(abs, FITTING)))


@torch.no_grad()
def _guess(fits: Fits, wanted: Tensor) -> Tensor:
    """Logarithms of lambdas at which beginnings of fits have the size that is asked for."""
    search, tried = _Search(fits, wanted), torch.full_like(wanted, sum(fits.bounds) / 2)
    for _ in range(GUESSES):
        search.add(tried, (fits.guessed(tried) / 8).log())
        tried = search.next()
        if torch.equal(tried, search.logs):
            break
    return tried


def chosen(condition: Tensor, yes: Fitted, no: Fitted) -> Fitted:
    """Return the functions of `yes` where the condition (batch,) holds, those of `no` elsewhere."""
    there = condition.to(yes.function.grids[0].device)
    a, b = yes.function, no.function
    grids = [choose(there, g, h) for g, h in zip(a.grids, b.grids, strict=True)]
    weights = {name: choose(there, w, b.weights[name]) for name, w in a.weights.items()}
    either = [y if c else n for c, y, n in zip(condition.tolist(), yes.weights, no.weights, strict=True)]
    return Fitted(replace(a, grids=grids, weights=weights), either)


def _trimmed(fits: Fits, found: Fitted, wanted: Tensor) -> Fitted:
    """The same in no more bytes than are wanted, where that is not hopeless."""
    slopes: list[Tensor] = []
    for tries in range(TRIES):
        off = found.log_sizes() - wanted
        over = (off > 0) & (off < HOPELESS)
        if not over.any():
            break
        slopes = slopes or fits.slopes(found)
        part = torch.where(over, (-off - 5e-4 * 2**tries).exp(), 1)
        found = replace(found, function=_smaller(found.function, slopes, part.float().to(slopes[0].device)))
    return found


@torch.no_grad()
def _smaller(function: Function, slopes: list[Tensor], part: Tensor) -> Function:
    """Functions whose grids cost about this part (batch,) of their bits, by changes of some samples by one.

    Grids are changed one after the other, the finest first, and only as far as is needed.
    """
    needed = (1 - part) * rate(function) * function.positions
    for level, grid in enumerate(function.grids):
        if grid.any():
            function, needed = _lowered(function, slopes[level], level, needed)
    return function


def _lowered(function: Function, slope: Tensor, level: int, needed: Tensor) -> tuple[Function, Tensor]:
    """Functions that cost so many bits (batch,) less, by changes in one grid, and what is still needed.

    Changes are tried far apart from each other, as each also changes what is expected of samples around it; kept are
    those that save bits, most first. Where there is a choice, it falls on the sample that adds least to the distortion:
    of that the gradient is known, and the curvature taken to be the same for all samples, as how large gradients still
    are tells it.
    """
    added = 2 * slope.abs().mean((1, 2, 3), keepdim=True) + 1e-30
    for y, x in product(range(APART), repeat=2):
        if (needed <= 0).all():
            break
        bits, means = arm.details(function.grids, function.weights, function.spec, level)
        grid = function.grids[level]
        move = (means.round() - grid).sign() * _lattice(grid, y, x)
        if function.region is not None:
            move = move * function.region.inside[level]
        worth = bits / (move * slope + added).maximum(0.1 * added)
        best = torch.where(move == 0, 0, worth).max(1, keepdim=True)
        there = (best.values > 0).to(grid)
        tried = list(function.grids)
        tried[level] = grid + move * torch.zeros_like(grid).scatter(1, best.indices, there)
        after, _ = arm.details(tried, function.weights, function.spec, level)
        saved = F.avg_pool2d((bits - after).sum(1, keepdim=True), APART, 1, APART // 2) * APART**2
        kept, amount = _best(saved * there, needed)
        tried[level] = torch.where(kept, tried[level], grid)
        function, needed = replace(function, grids=tried), needed - amount
    return function, needed


def _lattice(grid: Tensor, y: int, x: int) -> Tensor:
    """1 at each `APART`th row and column, from these on."""
    rows, columns = (torch.arange(n, device=grid.device) % APART for n in grid.shape[2:])
    return ((rows == y).unsqueeze(1) & (columns == x)).to(grid)


def _best(saved: Tensor, needed: Tensor) -> tuple[Tensor, Tensor]:
    """Mask of the changes to keep, those that save most bits first until it is enough, and the bits (batch,) saved.

    Args:
        saved: bits that each change saves, (batch, 1, height, width); those of half a bit or less are not kept.
        needed: bits that shall be saved, (batch,).
    """
    flat = saved.flatten(1)
    order = flat.sort(1, descending=True)
    before = order.values.clamp(min=0).cumsum(1) - order.values.clamp(min=0)
    keep = (order.values > 0.5) & (before < needed.unsqueeze(1))
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter(1, order.indices, keep)
    return kept.view_as(saved), (flat * kept).sum(1)
