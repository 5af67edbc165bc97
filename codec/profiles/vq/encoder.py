"""Encoder: indices of the entries that are near the latent and cheap to code, in one go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from codec.importance import Importance, log_weights, of_cells
from codec.profiles import packets
from codec.profiles.base import QUALITIES, Budget, Encoder, Goal, Progress, Sections
from codec.profiles.packets import Head
from codec.profiles.vq import index_coding
from codec.profiles.vq.index_coding import Trade
from codec.profiles.vq.profile import Options
from codec.rate_control import Coder, of_size
from codec.tensors import to_tensor

# What a bit is worth, in an index's usual error and for an index of one bit, where a file takes hardly more than one of
# the next smaller codebook: less than where it takes as much, so that sizes grow with quality for all photos.
TRADE = 0.4
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
        self, pictures: Sequence[NDArray[np.uint8]], importance: Sequence[Importance | None], goal: Goal,
        progress: Progress | None = None,
    ) -> list[Sections]:  # fmt: skip
        with computing(self.autoencoder.device):
            return [self._encoded(*each, goal) for each in zip(pictures, importance, strict=True)]

    def _encoded(self, pixels: NDArray[np.uint8], importance: Importance | None, goal: Goal) -> Sections:
        picture = to_tensor([pixels], self.autoencoder.device).expand(-1, 3, -1, -1)
        logs = log_weights([importance], [pixels.shape], self.autoencoder.device)
        coder = IndexCoder(self.autoencoder, picture, logs, self.options.resilience)
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
    With weights, each place has a quality of its own. The codebook is that of the best, and elsewhere bits count more.

    Args:
        picture: (1, 3, height, width) in 0..1.
        log_weights: of the distortion, (1, 1, height, width); None if all are 0.
    """

    response = -1.0
    fitting, aim_at, further = (-0.02, 0.0), -0.005, 0.02

    def __init__(
        self, autoencoder: VectorQuantised, picture: Tensor, log_weights: Tensor | None, resilience: int
    ) -> None:  # fmt: skip
        self.autoencoder, self.resilience = autoencoder, resilience
        self.picture, self._logs = picture, np.zeros((1, 1), np.float32)
        if log_weights is not None:
            self._logs = of_cells(log_weights, autoencoder.downscale)[0, 0].cpu().numpy()
        self.bounds = float(self._logs.min()), RATE * len(autoencoder.sizes) + float(self._logs.max())
        self._costs: dict[int, NDArray[np.float32] | Indices] = {}  # by codebook

    def estimate(self, logs: Tensor) -> Tensor:
        """Bits of a file, which costs as much as to code it."""
        return 8 * self.encode(logs).log_sizes().exp()

    def encode(self, logs: Tensor) -> Coded:
        return self.at(1 - float(logs) / (RATE * len(self.autoencoder.sizes)))

    def choose(self, condition: Tensor, yes: Coded, no: Coded) -> Coded:
        return yes if bool(condition) else no

    def at(self, quality: float) -> Coded:
        """Code the picture; what was written is read back.

        Raises:
            RuntimeError: it does not hold the same indices.
        """
        positions = quality * len(self.autoencoder.sizes) - 1 + self._logs / RATE
        book = min(max(0, math.ceil(positions.max())), len(self.autoencoder.sizes) - 1)
        head = Head(book, self.resilience)
        trade = TRADE / math.log2(self.autoencoder.sizes[book]) * (book - positions).clip(min=0)
        if book not in self._costs:
            self._costs[book] = self.autoencoder.costs(self.autoencoder.encode(self.picture, book), book)
        return Coded(head, coded(self.autoencoder, head, self._costs[book], trade))


def coded(
    autoencoder: VectorQuantised, head: Head, costs: NDArray[np.float32] | Indices,
    trade: Trade | float = 0.0,
) -> dict[int, bytes]:  # fmt: skip
    """Streams of all packets of a map, by number: see `index_coding.encode`; each is read back.

    Args:
        trade: of each index of the map, or of all.

    Raises:
        RuntimeError: one does not hold what was coded.
    """
    streams, trades = {}, np.broadcast_to(trade, costs.shape[:2])
    for number, place in packets.places(head.resilience, *costs.shape[:2]).items():
        arguments = autoencoder.prior, head.coding, head.spacing
        streams[number], indices = index_coding.encode(*arguments, costs[place], trades[place])
        if not np.array_equal(index_coding.decode(*arguments, streams[number], *indices.shape), indices):
            raise RuntimeError("what was written does not read back the same: please report this with the picture")
    return streams
