"""Latent overfitting: the latent of one picture is fitted, by the decoder and the prior as they are.

Zhang et al., "Leveraging progressive model and overfitting for efficient learned image compression", 2022. The decoder
sees rounded latents while gradients pass rounding (straight-through), rates are those of latents with uniform noise,
and the best latent so far is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from codec.autoencoders.learned_transform import LearnedTransform
from codec.autoencoders.networks.progressive_prior import laplace_bits
from codec.autoencoders.networks.transform_config import DOWNSCALE
from codec.device import reduced_precision
from codec.distortion.pixels import picture_error
from codec.importance import of_cells

RATE = 0.12  # part of the way to where each symbol alone would cost least, at first, by the root of all iterations
STEP = 0.03  # greatest step of a symbol at once
NARROW = -2.0  # logarithm of the scale from which on a symbol may change: others would cost a hundred bits
WORTH = math.log(2) / 6  # squared error of a symbol that a bit is worth, where steps are small
FITTED = 0.3  # least weight of what is fitted: the rest is better off with symbols that were chosen by their bits


def overfit(
    transform: LearnedTransform, preset: str, picture: Tensor, weights: Tensor | None, latents: Tensor,
    position: int, iterations: int, progress: Callable[[int], None], seed: int,
) -> Tensor:  # fmt: skip
    """A latent that costs less: distortion + lambda * bits per pixel.

    Args:
        picture: (1, 3, height, width)
        weights: of the distortion, (1, 1, height, width), 0..1; None if all are 1.
        latents: (1, channels, ...) in symbols, not rounded.
        progress: told after each iteration.
        seed: of the noise.

    Returns:
        The latent, rounded.
    """
    height, width = picture.shape[2:]
    trade = math.exp(transform.log_lambda(position)) / (height * width)
    # The cost is about a sum of squares, so its gradient is about a step to its least, but for a factor.
    rate = RATE / math.sqrt(iterations) * WORTH / 2 / trade
    networks, prior = transform.networks, transform.integer_prior(preset)
    best, least = latents.round(), math.inf
    generator = torch.Generator(latents.device).manual_seed(seed)
    with torch.no_grad():
        free = networks.distributions(prior, best, position).log_scale > NARROW
        free = free if weights is None else free & (of_cells(weights, DOWNSCALE) >= FITTED)
    with torch.enable_grad():
        fitted = latents.clone().requires_grad_()
        for iteration in range(1 + iterations):
            rounded = fitted + (fitted.round() - fitted).detach()
            made = networks.decode(rounded, position, height, width).clamp(0, 1)
            error = picture_error(made, picture, weights).sum()
            with reduced_precision(networks.device):
                found = networks.distributions(prior, rounded, position)
            cost = error.item() + trade * laplace_bits(rounded.detach(), *found).sum().item()
            if cost < least:
                best, least = rounded.detach().clone(), cost
            if iteration == iterations:
                break
            noise = torch.rand(fitted.shape, generator=generator, device=fitted.device) - 0.5
            total = error + trade * laplace_bits(fitted + noise, *found).sum()
            (gradient,) = torch.autograd.grad(total, fitted)
            with torch.no_grad():
                annealed = 0.5 * rate * (1 + math.cos(math.pi * iteration / iterations))
                fitted -= (annealed * gradient).clamp_(-STEP, STEP).mul_(free)
            progress(iteration)
    return best
