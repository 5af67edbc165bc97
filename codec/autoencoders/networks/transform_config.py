"""Shape of the learned transform's networks, and bounds of what they compute."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codec.autoencoders.networks.limits import MAX_BLOCKS, MAX_WIDTH, whole

PATCH = 8  # side, in pixels, of the patches that are embedded
DOWNSCALE = 16  # pixels for one sample of the latent, along each axis
TILE, OVERLAP = 1024 // DOWNSCALE, 128 // DOWNSCALE  # samples of the latent: how far the networks see, twice
PIXELS = 3 * PATCH**2  # samples of a patch
MAX_GATE = 4.0
AT_ONCE = 2048  # positions that are gated together: what is computed for them stays in the processor's cache
MAX_RMS = 2.0  # of a position's channels, between blocks; the greatest that photos have


@dataclass(frozen=True)
class Config:
    """Shape of the networks.

    Attributes:
        latent: channels of the latent, at 1/16.
        fine: channels at 1/8 of the resolution.
        coarse: channels at 1/16, at least as many as the latent's.
        encoder, decoder: residual blocks at 1/8 and at 1/16.
        expansion: hidden channels of each block's gated layer for each of its channels.
        knots: lambdas for which there are gains and modulations, evenly spaced in log lambda.
        lambdas: least and greatest of them, for distortions that are squared errors of pictures in 0..1.
        grain: hidden channels of what tells how strong texture is that may be drawn; 0: there is none.
    """

    latent: int = 128
    fine: int = 256
    coarse: int = 320
    encoder: tuple[int, int] = (3, 2)
    decoder: tuple[int, int] = (4, 2)
    expansion: int = 1
    knots: int = 12
    lambdas: tuple[float, float] = (3e-5, 0.1)
    grain: int = 0

    def __post_init__(self) -> None:
        whole("fine", self.fine, 1, MAX_WIDTH)
        whole("coarse", self.coarse, 1, min(MAX_WIDTH, 4 * self.fine))
        whole("latent", self.latent, 1, min(self.coarse, 4 * PIXELS))
        whole("expansion", self.expansion, 1, 16)
        whole("knots", self.knots, 2, 256)
        whole("grain", self.grain, 0, MAX_WIDTH)
        for name in ("encoder", "decoder"):
            first, second = getattr(self, name)
            object.__setattr__(self, name, (whole(name, first, 0, MAX_BLOCKS), whole(name, second, 0, MAX_BLOCKS)))
        object.__setattr__(self, "lambdas", check_lambdas(self.lambdas))

    @property
    def macs(self) -> dict[str, float]:
        """Multiplications a pixel of "encoder" and "decoder", in thousands."""

        def blocks(channels: int, count: int) -> int:
            return count * channels * (channels * (2 + 3 * self.expansion) + 9)

        ends = 9 * PIXELS * self.fine
        between = self.coarse * (4 * self.fine + self.latent)
        return {
            name: ((ends + blocks(self.fine, fine)) / PATCH**2 + (between + blocks(self.coarse, coarse)) / DOWNSCALE**2)
            / 1000
            for name, (fine, coarse) in (("encoder", self.encoder), ("decoder", self.decoder))
        }


def check_lambdas(lambdas: tuple[float, float]) -> tuple[float, float]:
    """Bounds of a range of lambdas.

    Raises:
        TypeError, ValueError: they are none.
    """
    low, high = (float(bound) for bound in lambdas)
    if not 0 < low < high < math.inf:
        raise ValueError(f"lambdas must be two rising positive numbers, not {lambdas!r}")
    return low, high
