"""Metrics of a picture beside the original: PSNR, MS-SSIM and, where its weights are given, LPIPS."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.tensors import to_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SMALLEST", "decibels", "measure", "ms_ssim", "psnr"]

SMALLEST = 161  # side of a picture that MS-SSIM is defined for: its five scales need as much

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, fine to coarse
_WINDOW, _DEVIATION = 11, 1.5  # of the Gaussian, in samples
_LUMINANCE, _CONTRAST = 0.01**2, 0.03**2  # what keeps quotients of flat areas finite


def measure(
    a: NDArray[np.uint8], b: NDArray[np.uint8], lpips: Callable[[Tensor, Tensor], Tensor] | None = None
) -> dict[str, float]:
    """All that can be measured of two pictures (height, width, 3).

    Args:
        lpips: a metric of pictures (1, 3, height, width) in 0..1.

    Returns:
        "psnr"; "msssim" unless a side is below `SMALLEST`; "lpips" if that metric is given.
    """
    found = {"psnr": psnr(a, b)}
    if min(a.shape[:2]) >= SMALLEST:
        found["msssim"] = ms_ssim(a, b)
    if lpips:
        with torch.inference_mode():
            found["lpips"] = float(lpips(*(to_tensor([x], torch.device("cpu")) for x in (a, b))))
    return found


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """PSNR over all samples, in dB; no more than 100, which stands for no difference at all."""
    error = np.square(a.astype(np.float64) - b).mean() / 255**2
    return -10 * math.log10(max(float(error), 1e-10))


def decibels(similarity: float) -> float:
    """MS-SSIM in dB; no more than 100, which stands for no difference at all."""
    return -10 * math.log10(max(1 - similarity, 1e-10))


@torch.inference_mode()
def ms_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean over the channels of two pictures (height, width, 3), no side below `SMALLEST`; 1 is no difference at all.

    Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", 2003.
    """
    if min(a.shape[:2]) < SMALLEST:
        raise ValueError(f"MS-SSIM takes pictures of {SMALLEST} x {SMALLEST} at least, not {a.shape[1]} x {a.shape[0]}")
    channels = [[torch.from_numpy(x[..., i] / np.float32(255))[None, None] for x in (a, b)] for i in range(a.shape[2])]
    return sum(_ms_ssim(x, y) for x, y in channels) / len(channels)


def _ms_ssim(x: Tensor, y: Tensor) -> float:
    """MS-SSIM of one channel, (1, 1, height, width) in 0..1."""
    product = 1.0
    for i, weight in enumerate(_WEIGHTS):
        if i:
            x, y = (F.avg_pool2d(z, 2, padding=(z.shape[2] % 2, z.shape[3] % 2)) for z in (x, y))
        luminance, contrast = _similarity(x, y)
        similarity = luminance * contrast if i == len(_WEIGHTS) - 1 else contrast
        product *= max(0.0, float(similarity.mean())) ** weight
    return product


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of how alike luminance, and contrast with structure, are within the window."""
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _LUMINANCE) / (mean_x**2 + mean_y**2 + _LUMINANCE)
    return luminance, (2 * covariance + _CONTRAST) / (var_x + var_y + _CONTRAST)


def _blurred(x: Tensor) -> Tensor:
    """Weighted means where the complete window is in the picture. Faster than convolutions of a single channel."""
    offsets = torch.arange(_WINDOW) - _WINDOW // 2
    window = torch.softmax(-(offsets**2) / (2 * _DEVIATION**2), 0).tolist()
    for axis in (2, 3):
        length = x.shape[axis] - _WINDOW + 1
        parts = (weight * x.narrow(axis, i, length) for i, weight in enumerate(window))
        x = reduce(torch.add, parts)
    return x
