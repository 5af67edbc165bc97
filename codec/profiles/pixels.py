"""Pictures of the modes that profiles code, as samples and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.container import UnsupportedError

CHANNELS = {"L": 1, "RGB": 3}


def channels(mode: str) -> int:
    """Of a picture of this mode; `UnsupportedError` if it is not coded."""
    if mode not in CHANNELS:
        raise UnsupportedError(f"mode {mode} is not known in this profile: please update pillow-clric")
    return CHANNELS[mode]


def to_samples(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(height, width) or (height, width, channels) to (channels, height, width) in 0..1."""
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(planes, np.float32) / np.float32(255)


def to_pixels(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The inverse; one channel gives a picture without an axis for channels."""
    # Only a file made to do harm has weights that overflow to what is not a number.
    samples = np.clip(np.nan_to_num(samples), 0, 1)
    pixels = np.rint(samples * 255).astype(np.uint8).transpose(1, 2, 0)
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
