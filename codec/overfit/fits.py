"""Fits to batches of pictures, as rate control sees them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from codec.container import Section
from codec.overfit import bitstream, pipeline
from codec.overfit.bitstream import Integers, QuantisedWeights
from codec.overfit.fit import STEERED, Fit, Steer
from codec.overfit.function import Function
from codec.overfit.spec import Spec
from codec.overfit.trimming import smaller
from codec.rate_control import Coder
from codec.runtime import cached_property
from codec.workers import results

DOUBTFUL = 0.2  # shrinkage of sizes that is as likely to be another
PROMPT = 0.75  # part of what is amiss that is put right each time
TRIES = 6  # at trimming
HOPELESS = 0.1  # log size, relative to what is asked for, that is beyond trimming


@dataclass(frozen=True)
class Fitted:
    """A batch of functions as files hold them: integers in their grids, and weights as they are coded."""

    function: Function
    weights: list[QuantisedWeights]

    def sections(self) -> list[dict[Section, bytes]]:
        """Sections of the files, which were read back."""
        results(bitstream.verify, [(bodies, *parts) for bodies, parts in zip(self._bodies, self._parts, strict=True)])
        return [dict(zip((Section.WEIGHTS, Section.GRIDS), bodies, strict=True)) for bodies in self._bodies]

    def log_sizes(self) -> Tensor:
        """Logarithms (batch,) of the bytes of the sections."""
        sizes = [sum(map(len, bodies)) for bodies in self._bodies]
        return torch.tensor(sizes, dtype=torch.float64, device="cpu").log()

    @cached_property
    def _parts(self) -> list[tuple[Spec, QuantisedWeights, list[Integers]]]:
        return [pipeline.to_write(self.function.alone(i), weights) for i, weights in enumerate(self.weights)]

    @cached_property
    def _bodies(self) -> list[tuple[bytes, bytes]]:
        return results(bitstream.write, self._parts)


class Fits(Coder[Fitted]):
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
    responses: tuple[float, float]
    far: float
    _fit: Fit  # the last one
    _end: Tensor  # logarithms of lambdas at its end

    @property
    def response(self) -> float:
        return self.responses[0]

    @property
    def steers(self) -> bool:
        return self.far > 0

    def at(self, log_lambda: float) -> Fitted:
        """The complete fit for one lambda."""
        return self.fitted(torch.full((self.count,), log_lambda, dtype=torch.float64, device="cpu"))

    def encode(self, logs: Tensor) -> Fitted:
        self._end = logs
        return self.fitted(logs, _as_it_is)

    def aim(self, logs: Tensor, wanted: Tensor) -> tuple[Fitted, Tensor]:
        if not self.steers:
            return super().aim(logs, wanted)
        steering = _Steering(self, logs, wanted)
        found = self.fitted(logs, steering)
        self._end = steering.logs
        return found, steering.mean

    def adjust(self, change: Tensor, off: Tensor) -> tuple[Fitted, Tensor] | None:
        if not (off.abs() < self.far).all():
            return None
        late = self.responses[1] / self.responses[0]
        changed = (self._end + change / late).clamp(*self.bounds)
        return self.again(self._end, changed), (changed - self._end) * late

    def choose(self, condition: Tensor, yes: Fitted, no: Fitted) -> Fitted:
        return chosen(condition, yes, no)

    def trim(self, coded: Fitted, wanted: Tensor) -> Fitted:
        slopes: list[Tensor] = []
        for tries in range(TRIES):
            off = coded.log_sizes() - wanted
            over = (off > 0) & (off < HOPELESS)
            if not over.any():
                break
            slopes = slopes or self.slopes(coded)
            part = torch.where(over, (-off - 5e-4 * 2**tries).exp(), 1)
            coded = replace(coded, function=smaller(coded.function, slopes, part.float().to(slopes[0].device)))
        return coded

    @abstractmethod
    def bits(self, function: Function) -> Tensor:
        """Estimated bits (batch,) of the files of functions that are being fitted."""

    @abstractmethod
    def shrinkage(self, logs: Tensor, part: float) -> Tensor:
        """Estimated decrease of the logarithms of file sizes from a part, 0 to 1, of the annealing to its end."""

    @abstractmethod
    def fitted(self, logs: Tensor, steer: Steer | None = None) -> Fitted:
        """Run the complete fit; `steer` is that of `codec.overfit.fit.Fit.run`."""

    def turn(self, function: Function, before: Tensor, after: Tensor) -> tuple[Function, Tensor]:
        """Turn the fit to other lambdas: return its function for these, and these (batch,) in the units of the fit."""
        return function, self._lambdas(after)

    def again(self, before: Tensor, after: Tensor) -> Fitted:
        """The fit from where it was steered last, which left `before`, but for other lambdas."""
        return self._coded(self._fit.again(lambda function: self.turn(function, before, after)))

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
        return self.fits.turn(function, before, self.logs)


def _as_it_is(function: Function, lambdas: Tensor, _: float) -> tuple[Function, Tensor]:
    """Steers nowhere."""
    return function, lambdas


def chosen(condition: Tensor, yes: Fitted, no: Fitted) -> Fitted:
    """Return the functions of `yes` where the condition (batch,) holds, those of `no` elsewhere."""
    if condition.all() or not condition.any():  # of one picture, functions may differ in shape
        return yes if condition.all() else no
    there = condition.to(yes.function.grids[0].device)
    either = [y if c else n for c, y, n in zip(condition.tolist(), yes.weights, no.weights, strict=True)]
    return Fitted(yes.function.where(there, no.function), either)
