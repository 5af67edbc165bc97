"""Files of a size that is asked for, by a search for lambda that knows no profile.

Lambda is guessed from estimates of sizes. An encoder that can steers it while it works. What is still amiss at the end
is put right by changing what was coded, or if it is much, by coding again, with other lambdas; and files that are then
a little too large are trimmed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

SLOPES = (-1.0, -0.1)  # of the logarithm of the size against that of lambda, between which one is believed
GUESSES = 6  # at most
ROUNDS = 3  # of coding again, wholly or in part, at most
PARTS = (0.05, 0.95)  # of the way from what is too large to what is too small, between which to try


class Coded(Protocol):
    """A batch of coded pictures."""

    def log_sizes(self) -> Tensor:
        """Logarithms (batch,) of the bytes of the sections."""


Batch = TypeVar("Batch", bound=Coded)


class Coder(ABC, Generic[Batch]):
    """Encoder of a batch of pictures at any lambdas, given by their logarithms (batch,), float64 on the CPU.

    Attributes:
        bounds: least and greatest logarithm.
        response: slope of the logarithm of the size against that of lambda, until it is known.
        steers: whether `aim` does more than `encode`.
        fitting: range of log(size / what is asked for) that is good enough: such files are at most trimmed. Its upper
            end is 0 where nothing can be trimmed.
        aim_at: log(size / what is asked for) at which a search aims.
        further: by how much the logarithm of lambda grows first where trimming does not suffice.
    """

    bounds: tuple[float, float]
    fitting: tuple[float, float] = (-0.028, 0.015)
    aim_at: float = -0.008
    further: float = 0.2

    @property
    @abstractmethod
    def response(self) -> float: ...

    @property
    def steers(self) -> bool:
        return False

    @abstractmethod
    def estimate(self, logs: Tensor) -> Tensor:
        """Estimate the bits (batch,) of files without coding anything."""

    @abstractmethod
    def encode(self, logs: Tensor) -> Batch:
        """Code the pictures."""

    @abstractmethod
    def choose(self, condition: Tensor, yes: Batch, no: Batch) -> Batch:
        """Return what is coded in `yes` where the condition (batch,) holds, in `no` elsewhere."""

    def aim(self, logs: Tensor, wanted: Tensor) -> tuple[Batch, Tensor]:
        """Code the pictures, with lambdas that are steered on the way.

        Args:
            wanted: logarithms of sizes (batch,).

        Returns:
            What is coded, and logarithms of lambdas that would have given about the same from the beginning.
        """
        return self.encode(logs), logs

    def adjust(self, change: Tensor, off: Tensor) -> tuple[Batch, Tensor] | None:
        """Code again for other lambdas what was coded from the beginning last, faster than that.

        Args:
            change: of the logarithms of lambdas.
            off: logarithms of the best sizes so far, relative to what is asked for.

        Returns:
            What is coded, and the change that this amounts to; None where only coding from the beginning helps.
        """
        return None

    def trim(self, coded: Batch, wanted: Tensor) -> Batch:
        """Make files that are a little too large as small as is wanted (batch,), as far as that is possible."""
        return coded


class _Search:
    """A search for the logarithms of lambdas (batch,) at which sizes are those that are asked for.

    Attributes:
        logs: the best that were tried.
        off: logarithms of sizes there, relative to what is asked for.
    """

    def __init__(self, coder: Coder[Any], wanted: Tensor) -> None:
        self.bounds, self.wanted = coder.bounds, wanted
        self.fitting, self.aim_at = coder.fitting, coder.aim_at
        self.logs, self.off = torch.zeros_like(wanted), torch.full_like(wanted, torch.inf)
        self.slope = torch.full_like(wanted, coder.response)
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
        return self._fit(self.off)

    def _fit(self, off: Tensor) -> Tensor:
        """Whether files that are off so much need no more than trimming, (batch,)."""
        return (off > self.fitting[0]) & (off <= self.fitting[1])

    def _amiss(self, off: Tensor) -> Tensor:
        """Penalty (batch,) of sizes that are off so much: files too small stay so, files too large can be trimmed.

        If they cannot, whatever is small enough is better than all of them. The worst that fits is better than the best
        that does not.
        """
        over = off / 2 if self.fitting[1] else off + 1
        return torch.where(off > 0, over, -off) + torch.where(self._fit(off), 0, max(map(abs, self.fitting)))

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
        better = self._amiss(off) < self._amiss(self.off)
        self.logs, self.off = torch.where(better, logs, self.logs), torch.where(better, off, self.off)
        return better

    def next(self) -> Tensor:
        """Logarithms of lambdas (batch,) to try next; those of files that need no more than trimming stay.

        They lie between the nearest tries or, if there are none on one side, as far beyond as the slope says.
        """
        (large_logs, large), (small_logs, small) = self.nearest
        part = ((large - self.aim_at) / (large - small)).clamp(*PARTS)
        between = large_logs + part * (small_logs - large_logs)
        beyond = [logs - (off - self.aim_at) / self.slope for logs, off in self.nearest]
        tried = torch.where(large.isinf(), beyond[1], torch.where(small.isinf(), beyond[0], between))
        return torch.where(self.fits, self.logs, tried.clamp(*self.bounds))


def of_size(coder: Coder[Batch], room: Sequence[int]) -> Batch:
    """The best that the search finds of no more than so many bytes for each picture.

    A picture that takes more, even at the greatest lambda, is coded at that.
    """
    wanted = torch.tensor(room, dtype=torch.float64, device="cpu").clamp(min=1).log()
    found, start = coder.aim(_guess(coder, wanted), wanted)  # start: logarithms of lambdas of the last complete encode
    search, steered = _Search(coder, wanted), coder.steers
    search.add(start, found.log_sizes())
    for _ in range(ROUNDS):
        tried = search.next()
        if torch.equal(tried, search.logs):
            break
        if adjusted := coder.adjust(tried - start, search.off):
            other, tried = adjusted[0], start + adjusted[1]
        else:
            other, start = coder.encode(tried), tried
            if steered:  # then sizes answer otherwise, as the first one began for other lambdas
                search.forget()
            steered = False
        found = coder.choose(search.add(tried, other.log_sizes()), other, found)
    return _fitting(coder, found, search)


def _fitting(coder: Coder[Batch], found: Batch, search: _Search) -> Batch:
    """Files that are small enough: trimmed, or if that does not suffice for other lambdas, up to the greatest."""
    logs, step = search.logs, coder.further
    while True:
        found = coder.trim(found, search.wanted)
        over = (found.log_sizes() > search.wanted) & (logs < coder.bounds[1])
        if not over.any():
            return found
        logs = torch.where(over, logs + step, logs).clamp(*coder.bounds)
        found, step = coder.choose(over, coder.encode(logs), found), 2 * step


@torch.no_grad()
def _guess(coder: Coder[Any], wanted: Tensor) -> Tensor:
    """Logarithms of lambdas at which estimates have the size that is asked for."""
    search, tried = _Search(coder, wanted), torch.full_like(wanted, sum(coder.bounds) / 2)
    for _ in range(GUESSES):
        search.add(tried, (coder.estimate(tried).clamp(min=1) / 8).log())
        tried = search.next()
        if torch.equal(tried, search.logs):
            break
    return tried
