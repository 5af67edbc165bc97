"""The TAESD family of tiny autoencoders (github.com/madebyollin/taesd), for the latents of other models.

taesd, taesdxl, taesd3 and taef1 are one architecture with 4 or 16 channels; taef2 adds a branch with normalisation at
1/8 of the resolution, which sees the complete picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.networks.interface import Networks
from codec.autoencoders.networks.limits import MAX_CHANNELS, whole

WIDTH = 64


@dataclass(frozen=True)
class Config:
    """Shape of the networks.

    Attributes:
        latent: channels of the latent.
        pooling: whether the blocks at 1/8 of the resolution have the branch with normalisation.
    """

    latent: int = 4
    pooling: bool = False

    def __post_init__(self) -> None:
        whole("latent", self.latent, 1, MAX_CHANNELS)


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


class Block(nn.Module):
    def __init__(self, pooling: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH))
        self.pool: nn.Sequential | None = None
        if pooling:
            wide = 4 * WIDTH
            ends = nn.Conv2d(WIDTH, wide, 1, bias=False), nn.Conv2d(wide, WIDTH, 1, bias=False)
            self.pool = nn.Sequential(ends[0], nn.GroupNorm(4, wide), nn.ReLU(), ends[1])

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class Clamp(nn.Module):
    """Keeps latents within -3..3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def _encoder(config: Config) -> nn.Sequential:
    halve = [_conv(WIDTH, WIDTH, stride=2, bias=False) for _ in range(3)]
    last = [Block(config.pooling) for _ in range(3)]
    blocks = [halve[0], Block(), Block(), Block(), halve[1], Block(), Block(), Block(), halve[2], *last]
    return nn.Sequential(_conv(3, WIDTH), Block(), *blocks, _conv(WIDTH, config.latent))


def _decoder(config: Config) -> nn.Sequential:
    double = [(nn.Upsample(scale_factor=2), _conv(WIDTH, WIDTH, bias=False)) for _ in range(3)]
    first = [Block(config.pooling) for _ in range(3)]
    blocks = [*first, *double[0], Block(), Block(), Block(), *double[1], Block(), Block(), Block(), *double[2], Block()]
    return nn.Sequential(Clamp(), _conv(config.latent, WIDTH), nn.ReLU(), *blocks, _conv(WIDTH, 3))


class Tiny(Networks):
    """Both networks, for pictures in 0..1; parameters are named as in the original's two files."""

    downscale = 8
    features = WIDTH

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.channels = config.latent
        self.encoder, self.decoder = _encoder(config), _decoder(config)

    def encode_tile(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.encoder[:11](pictures)
        return features

    def encode_global(self, features: Tensor) -> Tensor:
        latents: Tensor = self.encoder[11:](features)
        return latents

    def decode_global(self, latents: Tensor) -> Tensor:
        features: Tensor = self.decoder[:6](latents)
        return features

    def decode_tile(self, features: Tensor) -> Tensor:
        pictures: Tensor = self.decoder[6:](features)
        return pictures
