"""Metrics of two images: PSNR, MS-SSIM, SSIMULACRA2 and LPIPS."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from codec import metrics
from codec.lpips import Lpips
from codec.tensors import to_tensor
from codec.training.validation import ssimulacra2


def measure(a: Image.Image, b: Image.Image, weights: Path | None) -> dict[str, float]:
    """PSNR; MS-SSIM and SSIMULACRA2 unless the pictures are too small for these; LPIPS if there are weights for it."""
    x, y = (np.asarray(image.convert("RGB")) for image in (a, b))
    found = metrics.measure(x, y, _lpips(weights) if weights else None)
    return found if min(x.shape[:2]) < metrics.SMALLEST else {**found, "ssimulacra2": ssimulacra2(x, y)}


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Over all samples, in dB; no more than 100, which stands for no difference at all."""
    return metrics.psnr(np.asarray(a), np.asarray(b))


@torch.inference_mode()
def lpips(weights: Path, a: Image.Image, b: Image.Image) -> float:
    """Distance by LPIPS: 0 is none."""
    return float(_lpips(weights)(as_tensor(a), as_tensor(b)))


def as_tensor(image: Image.Image) -> Tensor:
    """(1, 3, height, width) in 0..1."""
    return to_tensor([np.asarray(image.convert("RGB"))], torch.device("cpu"))


@cache
def _lpips(weights: Path) -> Lpips:
    return Lpips.load(weights)
