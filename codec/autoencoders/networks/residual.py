"""Networks of `base`, an autoencoder that files of earlier versions name: convolutions at 1/4 and 1/8."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.networks.interface import Local
from codec.autoencoders.networks.limits import MAX_BLOCKS, MAX_CHANNELS, MAX_WIDTH, whole


@dataclass(frozen=True)
class Config:
    """Shape of the networks; the defaults are those of `base`.

    Attributes:
        latent: channels of the latent.
        fine, coarse: channels at 1/4 and 1/8 of the resolution.
        encoder, decoder: residual blocks at 1/4 and at 1/8.
    """

    latent: int = 16
    fine: int = 64
    coarse: int = 128
    encoder: tuple[int, int] = (2, 3)
    decoder: tuple[int, int] = (2, 5)

    def __post_init__(self) -> None:
        whole("latent", self.latent, 1, MAX_CHANNELS)
        for name in ("fine", "coarse"):
            whole(name, getattr(self, name), 1, MAX_WIDTH)
        for name in ("encoder", "decoder"):
            for count in getattr(self, name):
                whole(name, count, 0, MAX_BLOCKS)


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is added; no normalisation, so that tiles agree."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.silu(self.conv1(x)))
        return x + change


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(channels) for _ in range(count)))


class Encoder(nn.Sequential):
    """Pictures (batch, 3, 8 h, 8 w) in -1..1 to latents (batch, latent, h, w)."""

    def __init__(self, config: Config) -> None:
        fine, coarse = config.encoder
        super().__init__(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, config.fine, 3, padding=1),
            _blocks(config.fine, fine),
            nn.Conv2d(config.fine, config.coarse, 4, stride=2, padding=1),
            _blocks(config.coarse, coarse),
            nn.Conv2d(config.coarse, config.latent, 3, padding=1),
        )


class Decoder(nn.Sequential):
    """Latents (batch, latent, h, w) to pictures (batch, 3, 8 h, 8 w), in -1..1 but for small excursions."""

    def __init__(self, config: Config) -> None:
        fine, coarse = config.decoder
        super().__init__(
            nn.Conv2d(config.latent, config.coarse, 3, padding=1),
            _blocks(config.coarse, coarse),
            nn.Conv2d(config.coarse, 4 * config.fine, 3, padding=1),
            nn.PixelShuffle(2),
            _blocks(config.fine, fine),
            nn.Conv2d(config.fine, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )


class Residual(Local):
    """Both networks, for pictures in 0..1."""

    downscale = 8

    def __init__(self, config: Config) -> None:
        super().__init__(Encoder(config), Decoder(config), config.latent)
