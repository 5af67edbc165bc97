"""Encoder: a transform, and a latent that is rounded and coded in one go; with more effort it is corrected, and fitted.

At good qualities what the latent leaves of the picture is coded after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codec.autoencoders import store
from codec.autoencoders.learned_transform import LearnedTransform, on_device
from codec.autoencoders.networks.patch_layout import Floats
from codec.autoencoders.networks.transform_config import DOWNSCALE, PATCH
from codec.autoencoders.transform_networks import as_latent, to_symbols
from codec.blocks import to_multiple
from codec.container import Section
from codec.device import computing
from codec.distortion.pixels import STABILISER, STRUCTURE
from codec.entropy.tables import HIGH_RATE_SLOPE
from codec.importance import Importance, log_weights, of_cells
from codec.profiles.base import Budget, Encoder, Goal, Progress, Sections, counting
from codec.profiles.msp import latent_coding
from codec.profiles.msp.bitstream import Head
from codec.profiles.msp.coded import Coded, Enhanced
from codec.profiles.msp.latent_coding import Trade
from codec.profiles.msp.overfitting import FITTED, Iterations, Overfitting
from codec.profiles.msp.profile import LOG_LAMBDA, Options
from codec.profiles.options import PAPER
from codec.rate_control import Coder, of_size
from codec.runtime import cached_property
from codec.tensors import to_tensor

# Part of the channels, those that hold colours and coarse shapes, and of the trade that is made with them: without them
# a place has few bits, but is grey and made of squares.
STRONGEST, CAUTION = 1 / 12, 0.4
USUAL_COST = 2.0  # of a squared error with what it does to structure, relative to its own: in most patches


@dataclass(frozen=True)
class Effort:
    """Work that an effort puts into a latent.

    Attributes:
        preset: of the prior, if the model has it; else the model's first one.
        corrected: whether the latent is corrected by what the encoder sees in the decoded picture, before it is fitted.
        iterations: of overfitting.
    """

    preset: str
    corrected: bool
    iterations: Iterations


EFFORTS = {
    1: Effort("baseline", corrected=False, iterations=Iterations()),
    2: Effort("normal", corrected=False, iterations=Iterations()),
    3: Effort("normal", corrected=True, iterations=Iterations()),
    4: Effort("normal", corrected=True, iterations=Iterations(0, 2)),
    5: Effort("normal", corrected=True, iterations=Iterations(0, 5)),
    6: Effort("normal", corrected=True, iterations=Iterations(4, 5)),
    7: Effort("normal", corrected=True, iterations=Iterations(7, 6)),
    8: Effort("normal", corrected=True, iterations=Iterations(10, 7)),
    9: Effort("normal", corrected=True, iterations=Iterations(12, 8)),
    PAPER: Effort("extra", corrected=False, iterations=Iterations(500, 0)),  # what is published explores only
}


class MspEncoder(Encoder):
    """Encoder with the model that the options name."""

    def __init__(self, options: Options, device: torch.device) -> None:
        self.options = options
        self.sections = (Section.PACKETS if options.resilience else Section.GRIDS,)
        self.transform = on_device(store.load(options.model), str(device))
        self.model, self.device = self.transform.model.prefix, device
        self.grain = options.tune == "looks"
        if self.grain and not self.transform.has_grain:
            raise ValueError(
                f'model {self.transform.model.name} draws no texture: give tune="fidelity", or another model'
            )

    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], importance: Sequence[Importance | None], goal: Goal,
        progress: Progress | None = None,
    ) -> list[Sections]:  # fmt: skip
        with computing(self.device):
            return [self._encoded(*each, goal, progress) for each in zip(pictures, importance, strict=True)]

    def _encoded(
        self, pixels: NDArray[np.uint8], importance: Importance | None, goal: Goal, progress: Progress | None
    ) -> Sections:
        picture = to_tensor([pixels], self.device).expand(-1, 3, -1, -1)
        logs = log_weights([importance], [pixels.shape], self.device)
        coder = LatentCoder(self.transform, picture, logs, self.options, progress)
        if isinstance(goal, Budget):
            coded = self._of_size(coder, goal.sizes[0])
        else:
            coded = coder.at(goal.log_lambda(LOG_LAMBDA))
        return replace(coded, head=replace(coded.head, grain=self.grain)).sections()

    @staticmethod
    def _of_size(coder: LatentCoder, size: int) -> Coded:
        """The best file of no more than so many bytes.

        The smallest file with an enhancement layer is larger than the largest without one, by up to a third. Files of
        sizes between these have a first latent that is finer than that of any quality.
        """
        found = of_size(coder, [size])
        least = size * math.exp(coder.fitting[0])
        if found.enhanced is None and found.size < least and (finer := coder.without_layer()):
            other = of_size(finer, [size])
            return other if found.size < other.size <= size else found
        return found


class OperatingPoint(NamedTuple):
    """Operating point of a file, by the positions of its latents between the knots of their gains.

    Attributes:
        position: of the first latent.
        enhanced: of the enhancement layer, or None if there is none.
        log_lambda: of the most important part, before it is clipped to what layers reach; 0 if all parts count alike.
    """

    position: int
    enhanced: int | None
    log_lambda: float


class LatentCoder(Coder[Coded]):
    """Encoder of one picture at any lambda.

    With weights, each part of the picture has a lambda of its own. The file's position is that of the least of them,
    and elsewhere symbols that are not worth their bits by the lambda there become cheaper ones.

    Args:
        picture: (1, 3, height, width) in 0..1.
        log_weights: of the distortion, (1, 1, height, width); None if all are 0.
        options: effort, seed and resilience count.
        progress: told after each iteration of overfitting.
    """

    response = -0.5
    fitting, aim_at, further = (-0.008, 0.0), -0.003, 0.02

    def __init__(
        self, transform: LearnedTransform, picture: Tensor, log_weights: Tensor | None, options: Options,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self.seed, self.transform, self.picture, self.log_weights = options.seed, transform, picture, log_weights
        self.effort, self.resilience = EFFORTS[options.effort], options.resilience
        self.preset = self.effort.preset if self.effort.preset in transform.presets else transform.presets[0]
        self.progress = counting(progress, sum(self.effort.iterations))
        least, most = (0.0, 0.0) if log_weights is None else (log_weights.min().item(), log_weights.max().item())
        self.bounds = min(LOG_LAMBDA) + least, max(LOG_LAMBDA) + most  # to where all parts are at the end of the range
        self._most = most
        # Packets are for what may be lost: a layer that is nothing without all of them has no place there.
        self._layer = None if options.resilience else transform.enhancement
        self._known: dict[tuple[OperatingPoint, Iterations], Coded] = {}
        self._left: tuple[Coded, Floats] | None = None  # the last first latent, and what it leaves of the picture

    def without_layer(self) -> LatentCoder | None:
        """The same for files without an enhancement layer, if others have it."""
        if self._layer is None:
            return None
        other = copy(self)
        other._layer = None
        return other

    def estimate(self, logs: Tensor) -> Tensor:
        """Bits of a file without overfitting, which costs as much as to code it."""
        return 8 * self._coded(float(logs), Iterations()).log_sizes().exp()

    def encode(self, logs: Tensor) -> Coded:
        return self.at(float(logs))

    def choose(self, condition: Tensor, yes: Coded, no: Coded) -> Coded:
        return yes if bool(condition) else no

    def at(self, log_lambda: float) -> Coded:
        """Code the picture at a lambda."""
        return self._coded(log_lambda, self.effort.iterations)

    def _coded(self, log_lambda: float, iterations: Iterations) -> Coded:
        return self._at_point(self._point(log_lambda - self._most), iterations)

    def _at_point(self, point: OperatingPoint, iterations: Iterations) -> Coded:
        key = point, iterations
        if key not in self._known:
            if point.enhanced is None:
                self._known[key] = self._code(*key)
            else:
                first = self._at_point(point._replace(enhanced=None), iterations)
                self._known[key] = replace(first, enhanced=self._enhanced(point, first))
        return self._known[key]

    def _point(self, log_lambda: float) -> OperatingPoint:
        """Operating point of a file whose most important part has this lambda."""
        layer, enhanced = self._layer, None
        if layer is not None and log_lambda < (greatest := layer.log_lambda(layer.positions)):
            enhanced, first = layer.position(log_lambda), greatest
        else:
            first = log_lambda
        least = 0.0 if self.log_weights is None else round(log_lambda, 2)
        return OperatingPoint(self.transform.position(first), enhanced, least)

    def _code(self, point: OperatingPoint, iterations: Iterations) -> Coded:
        """Code the first latent."""
        transform, position = self.transform, point.position
        prior, latents = transform.prior(self.preset, position), transform.networks.encode(self.picture, position)
        if self.effort.corrected:
            latents = latents + self._correction(latents.round(), position)
        weights = self._weights(point, transform.log_lambda(position))
        trade = self._trade(weights)
        if any(iterations):
            if weights is not None:
                _, symbols = latent_coding.encode(prior, to_symbols(latents), trade=trade)
                traded = as_latent(symbols).to(latents)
                latents, trade = torch.where(of_cells(weights, DOWNSCALE) >= FITTED, latents, traded), None
            fit = Overfitting(transform, self.preset, self.picture, weights, position, self.progress, self.seed)
            latents = fit.fit(latents, iterations)
        return Coded.of(prior, Head(self.preset, position), self.resilience, to_symbols(latents), trade)

    def _correction(self, symbols: Tensor, position: int) -> Tensor:
        """Difference of a latent from what the encoder makes of its picture.

        The encoder is nearly the decoder's inverse. So this is nearly the step of Gauss and Newton to the latent whose
        picture is the nearest, for no more than one decoding and one encoding.
        """
        networks = self.transform.networks
        with torch.no_grad():
            made = networks.decode(symbols, position, *self.picture.shape[2:])
            return symbols - networks.encode(made.clamp(0, 1), position)

    def _enhanced(self, point: OperatingPoint, coded: Coded) -> Enhanced:
        """Code what the first latent leaves of the picture."""
        layer, position = self._layer, point.enhanced
        assert layer is not None
        assert position is not None
        if self._left is None or self._left[0] is not coded:  # searches for a size ask for many layers upon one latent
            first = coded.symbols.astype(np.float32)
            shown = self.transform.decode(first, point.position, *self.picture.shape[2:])
            self._left = coded, self.picture[0].cpu().numpy() - shown
        symbols, prior = layer.encode(self._left[1], position), layer.prior(position)
        weights = self._weights(point, layer.log_lambda(position))
        counts = self._structure * (1 if weights is None else _as_cells(weights, PATCH))
        trade = np.broadcast_to(HIGH_RATE_SLOPE / counts, symbols.shape)
        stream, coded_symbols = latent_coding.encode(prior, symbols, trade=trade)
        return Enhanced(position, stream, coded_symbols, prior)

    @cached_property
    def _structure(self) -> NDArray[np.float32]:
        return structure_cost(self.picture)

    def _weights(self, point: OperatingPoint, log_lambda: float) -> Tensor | None:
        """Weights of the distortion of each pixel in what is coded by this lambda, 0..1; None if all are 1.

        Where the lambda is above that of the most important part, others may still have their own.
        """
        if self.log_weights is None:
            return None
        beyond = max(0.0, log_lambda - point.log_lambda)
        return (self.log_weights - self._most + beyond).clamp(max=0).exp()

    def _trade(self, weights: Tensor | None) -> Trade | None:
        """Squared error of symbols of the first latent that a bit is worth, beside what rounding gives for it."""
        if weights is None:
            return None
        channels = self.transform.channels
        caution = np.where(np.arange(channels) < channels * STRONGEST, CAUTION, 1)
        trade: Trade = (HIGH_RATE_SLOPE * (1 / _as_cells(weights, DOWNSCALE) - 1) * caution).astype(np.float32)
        return trade


def structure_cost(picture: Tensor) -> NDArray[np.float32]:
    """Cost of a squared error in each patch, (rows, columns, 1), about 1 on average.

    That is 1, and by how much it adds to `structural_error`: the more, the fewer contrasts there are that hide it. Of
    an error that has nothing to do with the picture SSIM's contrast and structure lose its variance, by twice that of
    the picture.
    """
    picture = to_multiple(picture, PATCH)
    variance = F.avg_pool2d(picture.square(), PATCH) - F.avg_pool2d(picture, PATCH).square()
    costs = 1 + STRUCTURE / (2 * variance.clamp_min(0).mean(1) + STABILISER)
    found: NDArray[np.float32] = (costs / USUAL_COST)[0, :, :, None].cpu().numpy()
    return found


def _as_cells(weights: Tensor, side: int) -> NDArray[np.float32]:
    """Weights (rows, columns, 1) of cells of so many pixels a side, from those of pixels (1, 1, height, width)."""
    return of_cells(weights, side)[0, 0, :, :, None].cpu().numpy()
