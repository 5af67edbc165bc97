"""A learned transform at work: pictures of any size to latents and back, at any quality."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codec.autoencoders import model as files
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.model import Model
from codec.autoencoders.networks.enhancement import Enhancement, basis
from codec.autoencoders.networks.integer_prior import LOG, STEPS, Conditioned, IntegerPrior, between, dequantised
from codec.autoencoders.networks.msp import Msp
from codec.autoencoders.networks.progressive_prior import Distributions, ProgressivePrior
from codec.autoencoders.networks.transform import DOWNSCALE, PATCH, means, weights_at
from codec.autoencoders.tiles import tiled
from codec.blocks import to_multiple
from codec.device import computing, reduced_precision, to_device

TILE, OVERLAP = 1024 // DOWNSCALE, 128 // DOWNSCALE  # samples of the latent: how far the networks see, twice
PATCHES = 1024 // PATCH  # along a side of a tile of what the networks do not see


class Layer:
    """Something that is coded in symbols at any of some qualities.

    A position is a quality, from 0 (the best) to `positions`.

    Args:
        lambdas: at both ends.
        log_gain: (knots, channels), logarithms of what symbols are greater than what they stand for.

    Attributes:
        device: on which it computes.
        positions: the last one.
        channels: of the symbols.
    """

    def __init__(self, lambdas: tuple[float, float], log_gain: Tensor, device: torch.device) -> None:
        self.device, self._log_gain = device, log_gain
        self._knots, self.channels = log_gain.shape
        self._bounds = math.log(lambdas[0]), math.log(lambdas[1])
        self.positions = STEPS * (self._knots - 1)

    def position(self, log_lambda: float) -> int:
        """The position nearest to a lambda, distortion in squared errors of samples in 0..1 for a bit per pixel."""
        low, high = self._bounds
        return round(min(max((log_lambda - low) / (high - low), 0.0), 1.0) * self.positions)

    def log_lambda(self, position: int) -> float:
        """Logarithm of lambda at a position."""
        low, high = self._bounds
        return low + (high - low) * position / self.positions

    def _gains(self, position: int) -> Tensor:
        """(channels, 1, 1)"""
        gains = np.exp(between(self._log_gain, position) / LOG)
        return torch.from_numpy(gains).to(self.device, torch.float32)[:, None, None]


class EnhancementLayer(Layer):
    """What the transform leaves of pictures: see `codec.autoencoders.networks.enhancement`."""

    def __init__(self, networks: Enhancement, device: torch.device) -> None:
        super().__init__(networks.config.lambdas, networks.gains.log, device)
        self._prior, self._basis = networks.prior.to(device), basis().to(device)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of a picture of this size."""
        return -(-height // PATCH), -(-width // PATCH)

    def prior(self, position: int) -> Conditioned:
        """Distributions of symbols at a position."""
        return self._prior.at(position, self._log_gain)

    def encode(self, differences: Tensor, position: int) -> Tensor:
        """Symbols, not yet rounded, (1, channels, *size(height, width)) of differences (1, 3, height, width)."""
        kernel, gains = self._basis[:, :, None, None], self._gains(position)

        def transformed(x: Tensor) -> Tensor:
            return F.conv2d(F.pixel_unshuffle(x, PATCH), kernel) * gains

        return tiled(transformed, to_multiple(differences, PATCH), self.channels, (PATCH, 1), PATCHES, 1)

    def decode(self, symbols: Tensor, position: int, height: int, width: int, scale: int = 1) -> Tensor:
        """Differences (1, 3, height / scale, width / scale), sides rounded up, of symbols: see `LearnedTransform`."""
        kernel, gains = means(self._basis.T, scale)[:, :, None, None], self._gains(position)

        def transformed(x: Tensor) -> Tensor:
            return F.pixel_shuffle(F.conv2d(x / gains, kernel), PATCH // scale)

        made = tiled(transformed, symbols.to(self.device), 3, (1, PATCH // scale), PATCHES, 1)
        return made[:, :, : -(-height // scale), : -(-width // scale)]


class LearnedTransform(Layer):
    """A model of kind `msp` on a device. Networks compute in bfloat16 where that is faster.

    Attributes:
        model: whose networks these are.
        presets: names of the orders in which latents can be coded.
        enhancement: the layer that files of the best qualities have, too; None if the model has none.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        networks = files.build(model)
        if not isinstance(networks, Msp):
            raise ModelFileError(
                f"model {model.name} is of kind {model.architecture!r}, and profile msp needs one of kind 'msp'"
            )
        super().__init__(networks.config.lambdas, networks.gains.log, device)
        self.model = model
        self._encoder, self._decoder = (to_device(part, device) for part in (networks.encoder, networks.decoder))
        self._priors = networks.prior.to(device)
        self._float_priors: dict[str, ProgressivePrior] = {}
        self.presets = tuple(networks.prior)
        layer = networks.enhancement
        self.enhancement = None if layer is None else EnhancementLayer(layer, device)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the latent of a picture of this size."""
        return -(-height // DOWNSCALE), -(-width // DOWNSCALE)

    def prior(self, preset: str, position: int) -> Conditioned:
        """Distributions for a preset at a position.

        Raises:
            ModelFileError: the model has none for this preset.
        """
        if preset not in self.presets:
            raise ModelFileError(
                f"model {self.model.name} has no prior for preset {preset}, but for {', '.join(self.presets)}"
            )
        prior: Conditioned = self._priors[preset].at(position, self._log_gain)  # type: ignore[operator]
        return prior

    @torch.no_grad()
    def encode(self, pictures: Tensor, position: int) -> Tensor:
        """Latents in symbols, not yet rounded: (batch, channels, *size(height, width)), float32.

        Args:
            pictures: (batch, 3, height, width) in 0..1; edges are repeated outwards.
        """
        padded = to_multiple(pictures, DOWNSCALE)
        knots = self._knot_weights(position, len(pictures))
        with reduced_precision(self.device):
            latents = _tiled(lambda x: self._encoder(2 * x - 1, knots), padded, self.channels, (DOWNSCALE, 1))
        return latents.float() * self._gains(position)

    def decode(self, symbols: Tensor, position: int, height: int, width: int, scale: int = 1) -> Tensor:
        """Pictures (batch, 3, height / scale, width / scale), sides rounded up, float32, not clamped.

        Args:
            symbols: (batch, channels, *size(height, width)); the result is differentiable in them.
            scale: 1, 2, 4 or 8, by how much the picture is made smaller.
        """
        latents = symbols.to(self.device, torch.float32) / self._gains(position)
        knots = self._knot_weights(position, len(symbols))
        with reduced_precision(self.device):
            made = _tiled(lambda x: self._decoder(x, knots, scale), latents, 3, (1, DOWNSCALE // scale))
        return made[:, :, : -(-height // scale), : -(-width // scale)].float() / 2 + 0.5

    def distributions(self, preset: str, known: Tensor, position: int) -> Distributions:
        """Means and log-scales of symbols (1, channels, ...), nearly; differentiable in what is known of them."""
        gains, knots = self._gains(position), self._knot_weights(position, len(known))
        found: Distributions = self._float_prior(preset)(known / gains, knots)
        return found.scaled(gains)

    def _float_prior(self, preset: str) -> ProgressivePrior:
        if preset not in self._float_priors:
            prior = self._priors[preset]
            assert isinstance(prior, IntegerPrior)
            self._float_priors[preset] = dequantised(prior)
        return self._float_priors[preset]

    def _knot_weights(self, position: int, count: int) -> Tensor:
        place = torch.tensor([position / STEPS], device=self.device)
        return weights_at(place, self._knots).expand(count, -1)


def _tiled(function: Callable[[Tensor], Tensor], source: Tensor, channels: int, scales: tuple[int, int]) -> Tensor:
    return tiled(function, source, channels, scales, TILE, OVERLAP)


@lru_cache(maxsize=2)
def on_device(model: Model, device: torch.device) -> LearnedTransform:
    """The transform of a model on a device; those of the last calls are kept, as making one takes a while."""
    with computing(device):  # or whatever the first caller set would stay for all others
        return LearnedTransform(model, device)


def to_symbols(latents: Tensor) -> NDArray[np.float32]:
    """A latent (1, channels, height, width) as its coding takes it: (height, width, channels)."""
    return np.ascontiguousarray(latents[0].permute(1, 2, 0).cpu().numpy())


def as_latent(symbols: NDArray[np.number[Any]]) -> Tensor:
    """Symbols (height, width, channels) as a latent (1, channels, height, width), float32 on the CPU."""
    return torch.from_numpy(symbols.astype(np.float32)).permute(2, 0, 1)[None]
