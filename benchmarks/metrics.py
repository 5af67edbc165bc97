"""How near two pictures are: PSNR, MS-SSIM and LPIPS."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch_msssim import ms_ssim
from torch import Tensor

from codec.training import photos
from codec.training.lpips import Lpips

SMALLEST = 161  # side of a picture that MS-SSIM is defined for: its five scales need as much


def measure(a: Image.Image, b: Image.Image, weights: Path | None) -> dict[str, float]:
    """PSNR; MS-SSIM unless the pictures are too small for it; LPIPS if there are weights for it."""
    x, y = to_tensor(a), to_tensor(b)
    found = {"psnr": psnr(a, b)}
    if min(a.size) >= SMALLEST:
        found["msssim"] = float(ms_ssim(x, y, data_range=1))
    if weights:
        found["lpips"] = lpips(weights, a, b)
    return found


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Over all samples, in dB; no more than 100, which stands for no difference at all."""
    error = np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean() / 255**2
    return -10 * math.log10(max(float(error), 1e-10))


@torch.inference_mode()
def lpips(weights: Path, a: Image.Image, b: Image.Image) -> float:
    """Distance by LPIPS: 0 is none."""
    return float(_lpips(weights)(to_tensor(a), to_tensor(b)))


def to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, height, width) in 0..1."""
    return photos.to_tensor([np.asarray(image.convert("RGB"))])


@cache
def _lpips(weights: Path) -> Lpips:
    return Lpips.load(weights)
