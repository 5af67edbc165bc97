"""The learned transform's networks in torch, on any device: they encode, are fitted, and decode large pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codec.autoencoders import model_file
from codec.autoencoders.model_file import Model
from codec.autoencoders.networks.dequantisation import dequantised
from codec.autoencoders.networks.gains import gains_at, knots_at
from codec.autoencoders.networks.grain import noise
from codec.autoencoders.networks.integer_prior import IntegerPrior
from codec.autoencoders.networks.progressive_prior import Distributions, ProgressivePrior
from codec.autoencoders.networks.transform import Coders
from codec.autoencoders.networks.transform_config import DOWNSCALE, OVERLAP, TILE
from codec.autoencoders.tiles import tiled
from codec.blocks import to_multiple
from codec.device import computing, reduced_precision, to_device
from codec.entropy.layers import Integers


class TransformNetworks:
    """Encoder and decoder of a model of kind `msp` on a device. They compute in bfloat16 where that is faster.

    Args:
        log_gain: (knots, channels), logarithms of the gains.

    Attributes:
        device: on which they compute.
    """

    def __init__(self, model: Model, log_gain: Integers, device: torch.device) -> None:
        with computing(device):  # or whatever the first caller set would stay for all others
            networks = model_file.build(model)
            assert isinstance(networks, Coders)
            self._encoder, self._decoder = (to_device(part, device) for part in (networks.encoder, networks.decoder))
        self.device, self._log_gain = device, log_gain
        self._knots, self._channels = log_gain.shape
        self._priors: dict[IntegerPrior, ProgressivePrior] = {}

    @torch.no_grad()
    def encode(self, pictures: Tensor, position: int) -> Tensor:
        """Latents in symbols, not yet rounded: (batch, channels, *size(height, width)), float32.

        Args:
            pictures: (batch, 3, height, width) in 0..1; edges are repeated outwards.
        """
        padded = to_multiple(pictures, DOWNSCALE)
        knots = self._knot_weights(position, len(pictures))
        with reduced_precision(self.device):
            latents = _tiled(lambda x: self._encoder(2 * x - 1, knots), padded, self._channels, (DOWNSCALE, 1))
        return latents.float() * self._gains(position)

    def decode(
        self, symbols: Tensor, position: int, height: int, width: int, scale: int = 1, grain: bool = False
    ) -> Tensor:
        """Pictures (batch, 3, height / scale, width / scale), sides rounded up, float32, not clamped.

        Args:
            symbols: (batch, channels, *size(height, width)); the result is differentiable in them.
            scale: 1, 2, 4 or 8, by how much the picture is made smaller.
            grain: whether texture is drawn beside what is coded.
        """
        source = symbols.to(self.device, torch.float32) / self._gains(position)
        if grain:
            source = torch.cat([source, self._noise(source)], 1)
        knots = self._knot_weights(position, len(symbols))

        def decoded(x: Tensor) -> Tensor:
            latents, drawn = x[:, : self._channels], x[:, self._channels :]
            pictures: Tensor = self._decoder(latents, knots, scale, F.pixel_shuffle(drawn, 2) if grain else None)
            return pictures

        with reduced_precision(self.device):
            made = _tiled(decoded, source, 3, (1, DOWNSCALE // scale))
        return made[:, :, : -(-height // scale), : -(-width // scale)].float() / 2 + 0.5

    def picture(
        self, symbols: NDArray[np.float32], position: int, height: int, width: int, scale: int, grain: bool
    ) -> NDArray[np.float32]:
        """Picture of symbols, by `decode`, (*size(height, width), channels): (3, height / scale, width / scale)."""
        with computing(self.device), torch.no_grad():
            made = self.decode(as_latent(symbols), position, height, width, scale, grain)
            picture: NDArray[np.float32] = made[0].cpu().numpy()
        return picture

    def distributions(self, prior: IntegerPrior, known: Tensor, position: int) -> Distributions:
        """Means and log-scales of symbols (1, channels, ...), nearly; differentiable in what is known of them."""
        if prior not in self._priors:
            self._priors[prior] = dequantised(prior).to(self.device)
        gains, knots = self._gains(position), self._knot_weights(position, len(known))
        found: Distributions = self._priors[prior](known / gains, knots)
        return found.scaled(gains)

    def _noise(self, latents: Tensor) -> Tensor:
        """Noise for texture, as channels beside those of latents: (batch, 4 * FUNCTIONS, h, w)."""
        height, width = latents.shape[2:]
        drawn = torch.from_numpy(noise(range(2 * height), range(2 * width))).permute(2, 0, 1)[None]
        return F.pixel_unshuffle(drawn, 2).to(latents).expand(len(latents), -1, -1, -1)

    def _gains(self, position: int) -> Tensor:
        return torch.from_numpy(gains_at(self._log_gain, position)).to(self.device)[:, None, None]

    def _knot_weights(self, position: int, count: int) -> Tensor:
        return torch.from_numpy(knots_at(position, self._knots)).to(self.device).expand(count, -1)


def _tiled(function: Callable[[Tensor], Tensor], source: Tensor, channels: int, scales: tuple[int, int]) -> Tensor:
    return tiled(function, source, channels, scales, TILE, OVERLAP)


def to_symbols(latents: Tensor) -> NDArray[np.float32]:
    """A latent (1, channels, height, width) as its coding takes it: (height, width, channels)."""
    return np.ascontiguousarray(latents[0].permute(1, 2, 0).cpu().numpy())


def as_latent(symbols: NDArray[np.number[Any]]) -> Tensor:
    """Symbols (height, width, channels) as a latent (1, channels, height, width), float32 on the CPU."""
    return torch.from_numpy(symbols.astype(np.float32)).permute(2, 0, 1)[None]
