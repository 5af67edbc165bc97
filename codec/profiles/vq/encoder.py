"""Encoder: indices of the entries that are near the latent and cheap to code, in one go."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.autoencoders import store
from codec.autoencoders.networks.index_transformer import Indices
from codec.autoencoders.vector_quantised import VectorQuantised, on_device
from codec.container import Section
from codec.device import computing
from codec.importance import Importance, log_weights, of_cells
from codec.profiles.base import QUALITIES, Budget, Encoder, Goal, Progress, Sections
from codec.profiles.packets import Head
from codec.profiles.vq.coded import Coded
from codec.profiles.vq.profile import Options
from codec.tensors import to_tensor

# Worth of a bit, relative to an index's usual error:
HEAVIEST = 0.5  # at most, where nothing is left of the picture
LEAST = 0.133  # in the smallest files
TRADE = 0.4  # for an index of one bit, where it counts as in a file of the next smaller codebook
RATE = 0.4  # by how much the logarithm of a weight falls for each codebook that a place is below the best
# Of the size of a codebook's best file: down to there it is no worse than the best of smaller codebooks, nearly.
TRADED = 0.9
SEARCH = 7  # files that are tried for a size, at most
CLOSE = 0.99  # of a size, and no more are tried


class VqEncoder(Encoder):
    """Encoder with the model that the options name."""

    sections = (Section.GRIDS,)

    def __init__(self, options: Options, device: torch.device) -> None:
        self.options = options
        self.autoencoder = on_device(store.load(options.model), device)
        self.model = self.autoencoder.model.prefix

    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], importance: Sequence[Importance | None], goal: Goal,
        progress: Progress | None = None,
    ) -> list[Sections]:  # fmt: skip
        with computing(self.autoencoder.device):
            return [self._encoded(*each, goal) for each in zip(pictures, importance, strict=True)]

    def _encoded(self, pixels: NDArray[np.uint8], importance: Importance | None, goal: Goal) -> Sections:
        picture = to_tensor([pixels], self.autoencoder.device).expand(-1, 3, -1, -1)
        logs = log_weights([importance], [pixels.shape], self.autoencoder.device)
        coder = IndexCoder(self.autoencoder, picture, logs, self.options.resilience)
        found = coder.of_size(goal.sizes[0]) if isinstance(goal, Budget) else coder.at(goal.value / max(QUALITIES))
        return found.sections()


class IndexCoder:
    """Encoder of one picture, whose file has any size.

    A codebook has files from a largest one, of the nearest entries, down to those in which a bit is worth so much that
    entries are far off. Each serves the sizes at which no other is better. Quality goes through these codebooks, for
    each through sizes as much larger, by a factor, as quality is higher: so there are no steps.

    With weights, each place has a quality of its own. The codebook is that of the best, and elsewhere bits count more.

    Args:
        picture: (1, 3, height, width) in 0..1.
        log_weights: of the distortion, (1, 1, height, width); None if all are 0.
    """

    def __init__(
        self, autoencoder: VectorQuantised, picture: Tensor, log_weights: Tensor | None, resilience: int
    ) -> None:  # fmt: skip
        self._autoencoder, self._picture, self._resilience = autoencoder, picture, resilience
        self._last = len(autoencoder.sizes) - 1
        logs = np.zeros((1, 1), np.float32)
        if log_weights is not None:
            logs = of_cells(log_weights, autoencoder.downscale)[0, 0].cpu().numpy()
        self._best, self._below = float(logs.max()) / RATE, (logs.max() - logs) / RATE  # in codebooks
        self._costs: dict[int, NDArray[np.float32] | Indices] = {}  # of the last two codebooks: each takes memory
        self._known: dict[tuple[int, float], Coded] = {}  # by codebook and trade

    def at(self, quality: float) -> Coded:
        """The file of a quality, 0..1."""
        position = quality * (self._last + 1) - 1 + self._best
        if position >= self._last:
            return self._coded(self._last, self._unit(self._last) * (self._last - position))
        book = max(0, math.ceil(position))
        part = position - (book - 1)
        return self._within(book, round(self._bound(book - 1) ** (1 - part) * self._bound(book) ** part))

    def of_size(self, size: int) -> Coded:
        """The best file of no more than so many bytes, or the smallest one."""
        return self._within(bisect_left(range(self._last), size, key=self._bound), size)

    def _bound(self, book: int) -> int:
        """Bytes from which on a greater codebook is better; of -1, those of the smallest file."""
        if book < 0:
            return self._coded(0, LEAST).size
        own = self._coded(book).size
        return own if book == self._last else min(own, round(TRADED * self._coded(book + 1).size))

    def _within(self, book: int, size: int) -> Coded:
        """The best file of a codebook, or of smaller ones, of no more than so many bytes; or the smallest one."""
        # With the last one, what counts less may become as good as the rest.
        least = -self._unit(book) * float(self._below.max()) if book == self._last else 0.0
        best = self._coded(book, least)
        if best.size <= size:
            return best
        span = (LEAST if book == 0 else HEAVIEST) - least
        best, low, high = self._coded(book, least + span), 0.0, 1.0
        if book and best.size > size:
            return self._within(book - 1, size)
        for _ in range(SEARCH):
            if CLOSE * size <= best.size <= size:
                break
            middle = (low + high) / 2
            tried = self._coded(book, least + span * middle**2)  # the first bits are the cheapest
            if tried.size <= size:
                best, high = tried, middle
            else:
                low = middle
        return best

    def _unit(self, book: int) -> float:
        """Further worth of a bit, in an index's usual error, for each codebook that a place is below the best."""
        return TRADE / math.log2(self._autoencoder.sizes[book])

    def _coded(self, book: int, trade: float = 0.0) -> Coded:
        """A file in which a bit is worth so much where weights are greatest; of the nearest entries by default."""
        if (book, trade) not in self._known:
            if book not in self._costs:
                self._costs = dict(list(self._costs.items())[-1:])
                self._costs[book] = self._autoencoder.costs(self._autoencoder.encode(self._picture, book), book)
            trades = (trade + self._unit(book) * self._below).clip(min=0)
            head = Head(book, self._resilience)
            self._known[book, trade] = Coded.of(self._autoencoder.prior, head, self._costs[book], trades)
        return self._known[book, trade]
