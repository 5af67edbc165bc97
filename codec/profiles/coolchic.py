"""COOL-CHIC: a function overfitted to the pixels themselves.

No pretrained network is needed to read a file; the base functions that its weights refer to come with the format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from codec.container import Container, CorruptError, Section, TruncatedError, UnsupportedError
from codec.profiles import Profile, Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHANNELS = {"L": 1, "RGB": 3}

# lambda = distortion (of samples in 0..1) that one bit per pixel may save, by quality: log-linear between these.
QUALITY = (0, 10, 50, 90, 100)
LOG_LAMBDA = (-3.0, -3.91, -6.73, -9.1, -10.5)


class CoolChic(Profile):
    """Greyscale and RGB."""

    id = 0
    name = "coolchic"

    def encode(self, pixels: NDArray[np.uint8], settings: Settings) -> dict[Section, bytes]:
        samples = _samples(pixels)
        from codec.overfit import pipeline

        lam = float(np.exp(np.interp(settings.quality, QUALITY, LOG_LAMBDA)))
        weights, grids = pipeline.encode(samples, lam, settings)
        return {Section.WEIGHTS: weights, Section.GRIDS: grids}

    def decode(self, container: Container, device: str) -> NDArray[np.uint8]:
        header = container.header
        if header.mode not in CHANNELS:
            raise UnsupportedError(f"mode {header.mode} is not known in this profile: please update pillow-clric")
        if not header.spans.keys() >= {Section.WEIGHTS, Section.GRIDS}:
            raise CorruptError("file has no weights or no grids: it is no picture of this profile")
        weights, grids = container.sections[Section.WEIGHTS], container.sections[Section.GRIDS]
        if len(weights) < header.spans[Section.WEIGHTS][1]:
            raise TruncatedError("file is truncated before the end of its weights: get the whole file again")
        from codec.overfit import pipeline

        size = header.height, header.width, CHANNELS[header.mode]
        output = pipeline.decode(weights, grids, *size, device, truncated=container.truncated)
        # Only a file made to do harm has weights that overflow to what is not a number.
        samples = np.clip(np.nan_to_num(output, copy=False), 0, 1)
        pixels = np.rint(samples * 255).astype(np.uint8).transpose(1, 2, 0)
        return pixels[:, :, 0] if header.mode == "L" else pixels


def _samples(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(channels, height, width) in 0..1."""
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(planes, np.float32) / np.float32(255)
