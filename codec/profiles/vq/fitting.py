"""Fitting of one picture's latent to the picture that its entries show, by the decoder as it is.

As in latent overfitting (`codec/profiles/msp/overfitting.py`), the decoder sees the nearest entries, gradients pass
quantisation as they are (straight-through), and the best latent is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from codec.autoencoders.vector_quantised import VectorQuantised
from codec.distortion.pixels import picture_error

STEP = 0.04  # of Adam, at first, in the latent's deviation


def fitted(
    autoencoder: VectorQuantised, picture: Tensor, latents: Tensor, book: int, iterations: int,
    progress: Callable[[int], None],
) -> Tensor:  # fmt: skip
    """A latent (1, dimensions, h, w) whose nearest entries show a picture (1, 3, height, width) better.

    Args:
        progress: told after each iteration.
    """
    size = picture.shape[2:]
    best, least = latents, math.inf
    with torch.enable_grad():
        current = latents.clone().requires_grad_()
        optimizer = torch.optim.Adam([current], STEP * float(latents.std(correction=0)), betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
        for iteration in range(1 + iterations):
            passed = current + (autoencoder.nearest(current.detach(), book) - current).detach()
            error = picture_error(autoencoder.decode_latents(passed, book, *size).clamp(0, 1), picture)
            if error.item() < least:
                best, least = current.detach().clone(), error.item()
            if iteration == iterations:
                break
            (current.grad,) = torch.autograd.grad(error, current)
            optimizer.step()
            schedule.step()
            progress(iteration)
    return best
