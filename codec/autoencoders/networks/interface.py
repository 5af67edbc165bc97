"""Interface of the networks of all architectures of autoencoders."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Networks(nn.Module, ABC):
    """Encoder and decoder, each in two parts: one that is applied to tiles, and one that sees the complete picture.

    Attributes:
        downscale: pixels for one sample of the latent, along each axis.
        channels: of the latent.
        features: channels between the parts, at the latent's resolution.
        tile: side in pixels of the tiles in which large pictures are coded, a multiple of `downscale`: what memory
            allows.
        quick: whether the decoder is small enough to be run many times for one picture, without a GPU.
    """

    downscale: int
    channels: int
    features: int
    tile = 512
    quick = True

    @abstractmethod
    def encode_tile(self, pictures: Tensor) -> Tensor:
        """(batch, 3, downscale * h, downscale * w) in 0..1 to features (batch, features, h, w)."""

    def encode_global(self, features: Tensor) -> Tensor:
        """Features to latents (batch, channels, h, w)."""
        return features

    def decode_global(self, latents: Tensor) -> Tensor:
        """Latents to features."""
        return latents

    @abstractmethod
    def decode_tile(self, features: Tensor) -> Tensor:
        """Features to pictures, which are not clamped."""


class Local(Networks):
    """Networks that see no more than a tile, of one part each, and have samples in -1..1 inside.

    Args:
        encoder: pictures in -1..1 to latents.
        decoder: latents to pictures, in -1..1 but for small excursions.
        channels: of the latent.
    """

    tile = 1024

    def __init__(self, encoder: nn.Module, decoder: nn.Module, channels: int) -> None:
        super().__init__()
        self.channels = self.features = channels
        self.encoder, self.decoder = encoder, decoder

    def encode_tile(self, pictures: Tensor) -> Tensor:
        latents: Tensor = self.encoder(2 * pictures - 1)
        return latents

    def decode_tile(self, features: Tensor) -> Tensor:
        pictures: Tensor = self.decoder(features)
        return pictures / 2 + 0.5
