"""Encoder: a transform, and a latent that is rounded and coded in one go; with more effort it is fitted before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.autoencoders import store
from codec.autoencoders.learned_transform import LearnedTransform, on_device, to_symbols
from codec.autoencoders.networks.integer_prior import Conditioned
from codec.container import Section
from codec.device import computing
from codec.profiles import packets
from codec.profiles.base import Budget, Encoder, Goal, Progress, Sections, counting
from codec.profiles.msp import bitstream, latent_coding
from codec.profiles.msp.bitstream import Head
from codec.profiles.msp.latent_coding import Symbols
from codec.profiles.msp.overfitting import overfit
from codec.profiles.msp.profile import LOG_LAMBDA, Options
from codec.profiles.options import PAPER
from codec.rate_control import Coder, of_size
from codec.tensors import to_tensor

ITERATIONS = {1: 0, 2: 0, 3: 0, 4: 3, 5: 6, 6: 9, 7: 12, 8: 16, 9: 20, PAPER: 500}  # of overfitting, by effort
PRESETS = {1: "baseline", 2: "baseline", 9: "extra", PAPER: "extra"}  # where it is not the usual one
USUAL = "normal"


class MspEncoder(Encoder):
    """Encoder with the model that the options name."""

    bytes_per_pixel = 100
    batchable = False

    def __init__(self, options: Options, device: torch.device) -> None:
        self.options = options
        self.sections = (Section.PACKETS if options.resilience else Section.GRIDS,)
        self.transform = on_device(store.load(options.model), device)
        self.model = self.transform.model.prefix

    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], goal: Goal, progress: Progress | None = None
    ) -> list[Sections]:
        with computing(self.transform.device):
            return [self._encoded(picture, goal, progress) for picture in pictures]

    def _encoded(self, pixels: NDArray[np.uint8], goal: Goal, progress: Progress | None) -> Sections:
        picture = to_tensor([pixels], self.transform.device).expand(-1, 3, -1, -1)
        iterations = ITERATIONS[self.options.effort]
        preset = PRESETS.get(self.options.effort, USUAL)
        if preset not in self.transform.presets:
            preset = self.transform.presets[0]
        count = counting(progress, iterations)
        options = self.options
        coder = LatentCoder(self.transform, picture, preset, iterations, count, options.seed, options.resilience)
        if isinstance(goal, Budget):
            return of_size(coder, goal.sizes).sections()
        return coder.at(self.transform.position(goal.log_lambda(LOG_LAMBDA))).sections()


@dataclass(frozen=True)
class Coded:
    """A coded picture."""

    head: Head
    resilience: int
    streams: Mapping[int, bytes]  # of packets, by number
    symbols: Symbols
    prior: Conditioned

    @classmethod
    def of(cls, prior: Conditioned, head: Head, resilience: int, latent: NDArray[np.float32]) -> Coded:
        """Code a latent (height, width, channels), in symbols that need not be rounded."""
        streams, symbols = dict[int, bytes](), np.empty(latent.shape, np.int32)
        for number, place in packets.places(resilience, *latent.shape[:2]).items():
            streams[number], symbols[place] = latent_coding.encode(prior, latent[place], 1 + resilience)
        return cls(head, resilience, streams, symbols, prior)

    def sections(self) -> Sections:
        """Sections of the file, which were read back."""
        for number, place in packets.places(self.resilience, *self.symbols.shape[:2]).items():
            latent_coding.check(self.prior, self.streams[number], self.symbols[place], 1 + self.resilience)
        return self._written()

    def _written(self) -> Sections:
        if self.resilience:
            return {Section.PACKETS: packets.write(self.head.of_packets(self.resilience), self.streams)}
        return {Section.GRIDS: bitstream.write(self.head, self.streams[0])}

    def log_sizes(self) -> Tensor:
        size = sum(map(len, self._written().values()))
        return torch.tensor([size], dtype=torch.float64, device="cpu").log()


class LatentCoder(Coder[Coded]):
    """Encoder of one picture at any position.

    Args:
        picture: (1, 3, height, width) in 0..1.
        iterations: of overfitting.
        progress: told after each of these.
        seed: of the overfitting's noise.
        resilience: of the file.
    """

    response = -0.5
    fitting, aim_at, further = (-0.008, 0.0), -0.003, 0.02

    def __init__(
        self, transform: LearnedTransform, picture: Tensor, preset: str, iterations: int,
        progress: Callable[[int], None], seed: int, resilience: int,
    ) -> None:  # fmt: skip
        self.seed, self.transform, self.picture, self.preset = seed, transform, picture, preset
        self.iterations, self.progress, self.resilience = iterations, progress, resilience
        self.bounds = min(LOG_LAMBDA), max(LOG_LAMBDA)
        self._known: dict[tuple[int, int], Coded] = {}  # by position and iterations

    def estimate(self, logs: Tensor) -> Tensor:
        """Bits of a file without overfitting, which costs as much as to code it."""
        coded = self._coded(self._position(logs), 0)
        return 8 * coded.log_sizes().exp()

    def encode(self, logs: Tensor) -> Coded:
        return self.at(self._position(logs))

    def choose(self, condition: Tensor, yes: Coded, no: Coded) -> Coded:
        return yes if bool(condition) else no

    def at(self, position: int) -> Coded:
        """Code the picture at a position."""
        return self._coded(position, self.iterations)

    def _position(self, logs: Tensor) -> int:
        return self.transform.position(float(logs))

    def _coded(self, position: int, iterations: int) -> Coded:
        if (position, iterations) not in self._known:
            self._known[position, iterations] = self._code(position, iterations)
        return self._known[position, iterations]

    def _code(self, position: int, iterations: int) -> Coded:
        latents = self.transform.encode(self.picture, position)
        if iterations:
            latents = overfit(
                self.transform, self.preset, self.picture, latents, position, iterations, self.progress, self.seed
            )
        prior = self.transform.prior(self.preset, position)
        return Coded.of(prior, Head(self.preset, position), self.resilience, to_symbols(latents))
