"""Encoder: indices of the entries that are near the latent and cheap to code; with more effort it is fitted before."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.autoencoders import store
from codec.autoencoders.networks.index_transformer import Indices
from codec.autoencoders.vector_quantised import VectorQuantised, on_device
from codec.container import Section
from codec.device import computing
from codec.profiles.base import QUALITIES, Budget, Encoder, Goal, Progress, Sections, counting
from codec.profiles.options import PAPER
from codec.profiles.vq import index_coding, packets
from codec.profiles.vq.fitting import fitted
from codec.profiles.vq.packets import Head
from codec.profiles.vq.profile import Options
from codec.rate_control import Coder, of_size
from codec.tensors import to_tensor

ITERATIONS = {1: 0, 2: 0, 3: 0, 4: 6, 5: 12, 6: 18, 7: 25, 8: 40, 9: 60, PAPER: 60}  # of fitting, by effort
TRADE = 0.3  # of an index's usual error, that a bit may save, where a codebook is hardly better than the one before
RATE = 0.4  # falls in a file's logarithm of size from one codebook to the next, nearly


class VqEncoder(Encoder):
    """Encoder with the model that the options name."""

    bytes_per_pixel = 100
    sections = (Section.GRIDS,)
    batchable = False

    def __init__(self, options: Options, device: torch.device) -> None:
        self.options = options
        self.autoencoder = on_device(store.load(options.model), device)
        self.model = self.autoencoder.model.prefix

    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], goal: Goal, progress: Progress | None = None
    ) -> list[Sections]:
        with computing(self.autoencoder.device):
            return [self._encoded(picture, goal, progress) for picture in pictures]

    def _encoded(self, pixels: NDArray[np.uint8], goal: Goal, progress: Progress | None) -> Sections:
        picture = to_tensor([pixels], self.autoencoder.device).expand(-1, 3, -1, -1)
        iterations = ITERATIONS[self.options.effort]
        coder = IndexCoder(
            self.autoencoder, picture, self.options.resilience, iterations, counting(progress, iterations)
        )
        if isinstance(goal, Budget):
            return of_size(coder, goal.sizes).sections()
        return coder.at(goal.value / max(QUALITIES)).sections()


@dataclass(frozen=True)
class Coded:
    """A coded picture."""

    head: Head
    streams: Mapping[int, bytes]

    def sections(self) -> Sections:
        return {Section.GRIDS: packets.write(self.head, self.streams)}

    def log_sizes(self) -> Tensor:
        size = len(packets.write(self.head, self.streams))
        return torch.tensor([size], dtype=torch.float64, device="cpu").log()


class IndexCoder(Coder[Coded]):
    """Encoder of one picture at any quality: a part, 0..1, of the way from the smallest files to the largest.

    Logarithms of lambdas are those of `rate_control`: at RATE for each codebook, the greatest for the smallest files.

    Args:
        picture: (1, 3, height, width) in 0..1.
        iterations: of fitting.
        progress: told after each of these.
    """

    response = -1.0
    fitting, aim_at, further = (-0.02, 0.0), -0.005, 0.02

    def __init__(
        self, autoencoder: VectorQuantised, picture: Tensor, resilience: int, iterations: int,
        progress: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.iterations, self.progress = iterations, progress
        self.autoencoder, self.resilience = autoencoder, resilience
        self.picture, (height, width) = picture, picture.shape[2:]
        self.size = autoencoder.size(height, width)
        self.bounds = 0.0, RATE * len(autoencoder.sizes)
        self._costs: dict[int, NDArray[np.float32] | Indices] = {}  # by codebook

    def estimate(self, logs: Tensor) -> Tensor:
        """Bits of a file, which costs as much as to code it."""
        return 8 * self.encode(logs).log_sizes().exp()

    def encode(self, logs: Tensor) -> Coded:
        return self.at(1 - float(logs) / self.bounds[1])

    def choose(self, condition: Tensor, yes: Coded, no: Coded) -> Coded:
        return yes if bool(condition) else no

    def at(self, quality: float) -> Coded:
        """Code the picture; what was written is read back.

        Raises:
            RuntimeError: it does not hold the same indices.
        """
        position = quality * len(self.autoencoder.sizes) - 1
        book = max(0, math.ceil(position))
        head, trade = Head(book, self.resilience), TRADE * (book - position)
        if book not in self._costs:
            latents = self.autoencoder.encode(self.picture, book)
            if self.iterations:
                latents = fitted(self.autoencoder, self.picture, latents, book, self.iterations, self.progress)
            self._costs[book] = self.autoencoder.costs(latents, book)
        return Coded(head, coded(self.autoencoder, head, self._costs[book], trade))


def coded(
    autoencoder: VectorQuantised, head: Head, costs: NDArray[np.float32] | Indices, trade: float = 0.0
) -> dict[int, bytes]:
    """Streams of all packets of a map, by number: see `index_coding.encode`; each is read back.

    Raises:
        RuntimeError: one does not hold what was coded.
    """
    streams = {}
    for number, place in head.places(*costs.shape[:2]).items():
        arguments = autoencoder.prior, head.book, head.spacing
        streams[number], indices = index_coding.encode(*arguments, costs[place], trade)
        if not np.array_equal(index_coding.decode(*arguments, streams[number], *indices.shape), indices):
            raise RuntimeError("what was written does not read back the same: please report this with the picture")
    return streams
