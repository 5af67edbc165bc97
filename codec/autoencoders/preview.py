"""Small versions of large pictures, without running the decoder over all of them.

Latents are nearly a linear map of what a picture looks like at a lower resolution. Which map, that is learned anew for
each picture from a few patches of it, which are decoded in full.
"""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.autoencoders.autoencoder import Autoencoder
from codec.blocks import shrunk

PATCHES = 3  # along each axis
INNER, MARGIN = 16, 4  # samples of the latent: of a patch, and what is decoded around it and left out
SIDE = INNER + 2 * MARGIN
KERNEL = 5  # samples that the map sees along each axis
DAMPING = 1e-2  # of the regression, relative to the samples' mean variance
WORTH = 4  # times the patches' area: smaller pictures are as quick to decode


@torch.no_grad()
def decode(autoencoder: Autoencoder, latents: Tensor, height: int, width: int, scale: int) -> Tensor:
    """A picture (1, 3, height / scale, width / scale), rounded up, float32.

    Args:
        latents: (1, channels, *latent_size(height, width)), as the autoencoder gives them.
        height, width: of the full-size picture.
        scale: 1, 2, 4 or 8. With 1, or if little time can be saved, the decoder runs over all of it.
    """
    rows, columns = latents.shape[2:]
    if scale == 1 or min(rows, columns) < SIDE or rows * columns < WORTH * (PATCHES * SIDE) ** 2:
        return shrunk(autoencoder.decode(latents, height, width), scale)
    common = math.gcd(scale, autoencoder.downscale)
    small = _sketch(autoencoder, latents, common)[:, :, : -(-height // common), : -(-width // common)]
    return shrunk(small, scale // common)


def _sketch(autoencoder: Autoencoder, latents: Tensor, scale: int) -> Tensor:
    """Estimated output of the decoder for latents, smaller by a divisor of its `downscale`."""
    patches = _patches(latents)
    margin, side = (n * autoencoder.downscale for n in (MARGIN, SIDE))
    made = torch.cat([autoencoder.decode(patch, side, side) for patch in patches.split(1)])
    density = autoencoder.downscale // scale
    wanted = F.pixel_unshuffle(shrunk(made[:, :, margin:-margin, margin:-margin], scale), density)
    unseen = MARGIN - KERNEL // 2
    kernel, bias = _regression(patches[:, :, unseen:-unseen, unseen:-unseen], wanted)
    return F.pixel_shuffle(F.conv2d(F.pad(latents, (KERNEL // 2,) * 4, mode="replicate"), kernel, bias), density)


def _patches(latents: Tensor) -> Tensor:
    """Some parts (patches, channels, SIDE, SIDE), evenly spread."""
    rows, columns = ([i * (n - SIDE) // (PATCHES - 1) for i in range(PATCHES)] for n in latents.shape[2:])
    return torch.cat([latents[:, :, y : y + SIDE, x : x + SIDE] for y, x in product(rows, columns)])


def _regression(seen: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the convolution that comes closest to making `wanted` of `seen`: ridge regression."""
    inputs = F.unfold(seen, KERNEL).mT.flatten(0, 1).cpu().double()
    outputs = wanted.flatten(2).mT.flatten(0, 1).cpu().double()
    mean_in, mean_out = inputs.mean(0), outputs.mean(0)
    centred = inputs - mean_in
    covariance = centred.mT @ centred
    covariance.diagonal().add_(DAMPING * covariance.diagonal().mean() + 1e-9)  # flat pictures have none
    kernel = torch.linalg.solve(covariance, centred.mT @ (outputs - mean_out))
    bias = mean_out - mean_in @ kernel
    return kernel.mT.reshape(-1, seen.shape[1], KERNEL, KERNEL).to(seen), bias.to(seen)
