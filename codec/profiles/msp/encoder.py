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
from codec.autoencoders.networks.transform import DOWNSCALE
from codec.container import Section
from codec.device import computing
from codec.importance import Importance, log_weights, of_cells
from codec.profiles import packets
from codec.profiles.base import Budget, Encoder, Goal, Progress, Sections, counting
from codec.profiles.msp import bitstream, latent_coding
from codec.profiles.msp.bitstream import Head
from codec.profiles.msp.latent_coding import Symbols, Trade
from codec.profiles.msp.overfitting import FITTED, WORTH, overfit
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
        self, pictures: Sequence[NDArray[np.uint8]], importance: Sequence[Importance | None], goal: Goal,
        progress: Progress | None = None,
    ) -> list[Sections]:  # fmt: skip
        with computing(self.transform.device):
            return [self._encoded(*each, goal, progress) for each in zip(pictures, importance, strict=True)]

    def _encoded(
        self, pixels: NDArray[np.uint8], importance: Importance | None, goal: Goal, progress: Progress | None
    ) -> Sections:
        picture = to_tensor([pixels], self.transform.device).expand(-1, 3, -1, -1)
        logs = log_weights([importance], [pixels.shape], self.transform.device)
        iterations = ITERATIONS[self.options.effort]
        preset = PRESETS.get(self.options.effort, USUAL)
        if preset not in self.transform.presets:
            preset = self.transform.presets[0]
        count = counting(progress, iterations)
        options = self.options
        coder = LatentCoder(self.transform, picture, logs, preset, iterations, count, options.seed, options.resilience)
        if isinstance(goal, Budget):
            return of_size(coder, goal.sizes).sections()
        return coder.at(goal.log_lambda(LOG_LAMBDA)).sections()


@dataclass(frozen=True)
class Coded:
    """A coded picture."""

    head: Head
    resilience: int
    streams: Mapping[int, bytes]  # of packets, by number
    symbols: Symbols
    prior: Conditioned

    @classmethod
    def of(
        cls, prior: Conditioned, head: Head, resilience: int, latent: NDArray[np.float32], trade: Trade | None = None
    ) -> Coded:
        """Code a latent (height, width, channels), in symbols that need not be rounded, and may be traded for bits."""
        streams, symbols = dict[int, bytes](), np.empty(latent.shape, np.int32)
        for number, place in packets.places(resilience, *latent.shape[:2]).items():
            own = None if trade is None else trade[place]
            streams[number], symbols[place] = latent_coding.encode(prior, latent[place], 1 + resilience, own)
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
    """Encoder of one picture at any lambda.

    With weights, each part of the picture has a lambda of its own. The file's position is that of the least of them,
    and elsewhere symbols that are not worth their bits by the lambda there become cheaper ones.

    Args:
        picture: (1, 3, height, width) in 0..1.
        log_weights: of the distortion, (1, 1, height, width); None if all are 0.
        iterations: of overfitting.
        progress: told after each of these.
        seed: of the overfitting's noise.
        resilience: of the file.
    """

    response = -0.5
    fitting, aim_at, further = (-0.008, 0.0), -0.003, 0.02

    def __init__(
        self, transform: LearnedTransform, picture: Tensor, log_weights: Tensor | None, preset: str, iterations: int,
        progress: Callable[[int], None], seed: int, resilience: int,
    ) -> None:  # fmt: skip
        self.seed, self.transform, self.picture, self.preset = seed, transform, picture, preset
        self.log_weights, self.iterations, self.progress = log_weights, iterations, progress
        self.resilience = resilience
        least, most = (0.0, 0.0) if log_weights is None else (log_weights.min().item(), log_weights.max().item())
        self.bounds = min(LOG_LAMBDA) + least, max(LOG_LAMBDA) + most  # to where all parts are at the end of the range
        self._most = most
        self._known: dict[tuple[int, float, int], Coded] = {}

    def estimate(self, logs: Tensor) -> Tensor:
        """Bits of a file without overfitting, which costs as much as to code it."""
        return 8 * self._coded(float(logs), 0).log_sizes().exp()

    def encode(self, logs: Tensor) -> Coded:
        return self.at(float(logs))

    def choose(self, condition: Tensor, yes: Coded, no: Coded) -> Coded:
        return yes if bool(condition) else no

    def at(self, log_lambda: float) -> Coded:
        """Code the picture at a lambda."""
        return self._coded(log_lambda, self.iterations)

    def _coded(self, log_lambda: float, iterations: int) -> Coded:
        position = self.transform.position(log_lambda - self._most)
        # Where the least lambda is below those that the transform has, others may still go on falling.
        beyond = 0.0
        if self.log_weights is not None:
            beyond = round(max(0.0, self.transform.log_lambda(0) + self._most - log_lambda), 2)
        key = position, beyond, iterations
        if key not in self._known:
            self._known[key] = self._code(*key)
        return self._known[key]

    def _code(self, position: int, beyond: float, iterations: int) -> Coded:
        latents, prior = self.transform.encode(self.picture, position), self.transform.prior(self.preset, position)
        weights = trade = None
        if self.log_weights is not None:
            weights = (self.log_weights - self._most + beyond).clamp(max=0).exp()
            of_latent = of_cells(weights, DOWNSCALE)
            trade = (WORTH * (1 / of_latent - 1))[0, 0].cpu().numpy()
            if iterations:
                _, symbols = latent_coding.encode(prior, to_symbols(latents), trade=trade)
                traded = torch.from_numpy(symbols).permute(2, 0, 1)[None].to(latents)
                latents, trade = torch.where(of_latent >= FITTED, latents, traded), None
        if iterations:
            latents = overfit(
                self.transform, self.preset, self.picture, weights, latents, position, iterations, self.progress,
                self.seed,
            )  # fmt: skip
        return Coded.of(prior, Head(self.preset, position), self.resilience, to_symbols(latents), trade)
