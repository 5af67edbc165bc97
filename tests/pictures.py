"""Parts of the samples, and how near pictures are to each other."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels = NDArray[np.uint8]

SAMPLES = Path(__file__).parent.parent / "samples"


@cache
def _whole(name: str) -> Image.Image:
    with Image.open(SAMPLES / name) as image:
        return image.convert("RGB")


def photo(name: str, height: int, width: int, mode: str = "RGB", *, top: int = 0, left: int = 0) -> Pixels:
    """A part of a sample, (height, width) or with channels."""
    return pixels_of(_whole(name).crop((left, top, left + width, top + height)), mode)


def photo_tensor(name: str, height: int, width: int, *, top: int = 0, left: int = 0) -> Tensor:
    """A part of a sample, (1, 3, height, width) in 0..1."""
    return torch.from_numpy(photo(name, height, width, top=top, left=left).copy()).permute(2, 0, 1)[None] / 255


def pixels_of(picture: Image.Image, mode: str) -> Pixels:
    """Pixels of a picture in mode L, LA, RGB or RGBA, with alpha that is random and nowhere zero."""
    pixels = np.asarray(picture.convert(mode.removesuffix("A")))
    if mode.endswith("A"):
        pixels = np.dstack([pixels, np.random.default_rng(0).integers(1, 256, pixels.shape[:2], np.uint8)])
    return pixels


def psnr(one: Pixels | Image.Image | Tensor, other: Pixels | Image.Image | Tensor) -> float:
    """PSNR in dB of samples of 0..255, or of those of tensors, which are of 0..1; that of no difference is finite."""
    peak = 1 if isinstance(one, Tensor) else 255
    error = np.square(np.asarray(one, float) - np.asarray(other, float)).mean() / peak**2
    return float(-10 * np.log10(max(error, 1e-14)))
