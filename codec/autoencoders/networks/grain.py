"""Texture that is drawn instead of coded: noise, whose strength at each frequency a decoder tells from its features.

As the film grain of AV1 (Norkin and Birkbeck, "Film grain synthesis for AV1 video codec", DCC 2018), but that no
parameters are coded, and that strengths follow the picture: they are what is typically lost where it looks like this.
The noise comes from a fixed generator of integers, so that all readers draw the same.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders.networks.enhancement import COLOURS, basis
from codec.autoencoders.networks.patch_layout import Floats
from codec.autoencoders.networks.transform_config import PATCH

FUNCTIONS = PATCH**2  # of a patch: those of luminance in the basis of the enhancement layer
MAX_STRENGTH = 1.0  # of samples in -1..1
_STEPS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)  # of the generator from one row, column and function to the next
_MIXED = ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))  # shifts and factors of MurmurHash3's last step


@cache
def functions() -> Floats:
    """Orthonormal functions of a patch that texture is made of, (FUNCTIONS, PIXELS), in float32; not to be changed."""
    return basis()[:: len(COLOURS)]


def noise(rows: range, columns: range) -> Floats:
    """Noise of patches, (rows, columns, FUNCTIONS), in float32: 256 levels, of mean 0 and variance 1.

    Args:
        rows, columns: of the patches in the picture.
    """
    axes = np.ogrid[rows.start : rows.stop, columns.start : columns.stop, :FUNCTIONS]
    counter: NDArray[np.uint32] = sum(
        axis.astype(np.uint32) * np.uint32(step) for axis, step in zip(axes, _STEPS, strict=True)
    )  # type: ignore[assignment]
    for shift, factor in _MIXED:
        counter ^= counter >> np.uint32(shift)
        counter *= np.uint32(factor)
    levels = (counter >> np.uint32(24)).astype(np.float32)
    levels -= np.float32(127.5)
    levels *= np.float32((12 / (256**2 - 1)) ** 0.5)
    return levels
