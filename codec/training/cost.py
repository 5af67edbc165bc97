"""Cost of pictures that trainings lower, distortion + lambda * rate, for all lambdas at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from codec.autoencoders.networks.progressive_prior import laplace_bits

ROUNDED = 0.7  # part of the pictures whose decoder gets rounded latents; the others' gets latents with uniform noise
USUALLY = 0.85  # part of the pictures whose lambda is one that most files have
EASY = 0.1  # cost below which that of a picture hardly counts; the usual one is about 0.5

Bounds = tuple[float, float]


def draw_lambdas(count: int, device: torch.device, bounds: Bounds) -> Tensor:
    """Random lambdas (count,), uniform in their logarithm."""
    low, high = (math.log(bound) for bound in bounds)
    return torch.empty(count, device=device).uniform_(low, high).exp()


def draw_mixed(count: int, device: torch.device, usual: Bounds, bounds: Bounds) -> Tensor:
    """The same, most of the usual ones, which decide how good files are."""
    often, rarely = (draw_lambdas(count, device, each) for each in (usual, bounds))
    return torch.where(torch.rand(count, device=device) < USUALLY, often, rarely)


def quantised(scaled: Tensor, distributions: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Latents as a decoder gets them in training, and bits (batch,) of the latents, that are trained by.

    The rate is that of rounded latents, by which distributions learn. Latents learn by the rate of those with uniform
    noise under the same distributions. Gradients pass rounding as they are.

    Args:
        scaled: latents (batch, channels, h, w) in units of their steps.
        distributions: of rounded latents as context: means and log-scales of Laplace distributions.
    """
    noisy = scaled + torch.rand_like(scaled) - 0.5
    rounded = scaled + (scaled.round() - scaled).detach()
    mean, log_scale = distributions(rounded)
    real = laplace_bits(rounded.detach(), mean, log_scale)
    surrogate = laplace_bits(noisy, mean.detach(), log_scale.detach())
    bits = (real + surrogate - surrogate.detach()).flatten(1).sum(1)
    hard = torch.rand(len(scaled), 1, 1, 1, device=scaled.device) < ROUNDED
    return torch.where(hard, rounded, noisy), bits


def balanced(distortion: Tensor, bits: Tensor, lambdas: Tensor) -> Tensor:
    """Loss of pictures, of their distortion, bits per pixel and lambdas (batch,).

    By the root of lambda, as distortion and rate of a good codec grow with it: all rates count alike. And by the
    logarithm, as rates at equal quality are compared in per cent: all pictures count alike.
    """
    cost = 10 * (distortion + lambdas * bits) / lambdas.sqrt()
    return (cost + EASY).log().mean()
