"""An autoencoder at 1/8 of the picture's resolution, of the blocks of the learned transform.

Patches of 8 x 8 pixels are embedded by a convolution that sees those around, too, so that they have no borders; from
there on everything happens at the latent's resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.networks.interface import Local
from codec.autoencoders.networks.limits import MAX_BLOCKS, MAX_CHANNELS, MAX_WIDTH, whole
from codec.autoencoders.networks.transform import Pointwise, Spatial, Stack, initialise
from codec.autoencoders.networks.transform_config import PATCH, PIXELS


@dataclass(frozen=True)
class Config:
    """Shape of the networks; the defaults are those that are trained.

    Attributes:
        latent: channels of the latent.
        width: channels of the features.
        encoder, decoder: blocks.
        expansion: hidden channels of each block's gated layer, in its channels.
    """

    latent: int = 24
    width: int = 256
    encoder: int = 4
    decoder: int = 5
    expansion: int = 1

    def __post_init__(self) -> None:
        whole("latent", self.latent, 1, MAX_CHANNELS)
        whole("width", self.width, 1, MAX_WIDTH)
        whole("encoder", self.encoder, 0, MAX_BLOCKS)
        whole("decoder", self.decoder, 0, MAX_BLOCKS)
        whole("expansion", self.expansion, 1, 16)


class Encoder(nn.Module):
    """Pictures (batch, 3, 8 h, 8 w) in -1..1 to latents (batch, latent, h, w)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed = Spatial(PIXELS, config.width)
        self.fine = Stack(config.width, config.encoder, config.expansion)
        self.project = Pointwise(config.width, config.latent)
        for layer in (self.embed, self.project):
            initialise(layer)

    def features(self, pictures: Tensor) -> Tensor:
        """(batch, 3, 8 h, 8 w) to (batch, width, h, w)."""
        features: Tensor = self.fine(self.embed(F.pixel_unshuffle(pictures, PATCH)))
        return features

    def forward(self, pictures: Tensor) -> Tensor:
        latents: Tensor = self.project(self.features(pictures))
        return latents


class Decoder(nn.Module):
    """Latents (batch, latent, h, w) to pictures (batch, 3, 8 h, 8 w), in -1..1 but for small excursions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.expand = Pointwise(config.latent, config.width)
        self.fine = Stack(config.width, config.decoder, config.expansion)
        self.unembed = Spatial(config.width, PIXELS)
        for layer in (self.expand, self.unembed):
            initialise(layer)

    def forward(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(self.unembed(self.fine(self.expand(latents))), PATCH)


class PatchAutoencoder(Local):
    """Both networks, for pictures in 0..1."""

    downscale = PATCH
    encoder: Encoder
    decoder: Decoder

    def __init__(self, config: Config) -> None:
        super().__init__(Encoder(config), Decoder(config), config.latent)
