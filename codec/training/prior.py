"""Rate of a quantised latent, for training: gains by lambda, and a checkerboard prior.

The latent is multiplied by a gain for each channel, which depends on lambda, and rounded; so one autoencoder serves
every lambda (Cui et al., "Asymmetric gained deep image compression", CVPR 2021), and equal error in the scaled latent
costs equal distortion. The prior codes half of the positions, as on a checkerboard, with the help of earlier channels,
and the other half with that of their neighbours too (He et al., "Checkerboard context model", CVPR 2021).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.networks.progressive_prior import laplace_bits
from codec.autoencoders.networks.transform import knot_weights

LAMBDAS = (0.005, 3.0)  # least and greatest
DRAWN = (0.015, 3.0)  # of these, what trainings draw from: from about 0.5 bits per pixel downwards
KNOTS = 7  # between which gains and biases are interpolated, evenly spaced in log lambda


def draw_lambdas(count: int, device: torch.device, bounds: tuple[float, float] = DRAWN) -> Tensor:
    """Random lambdas (count,), uniform in their logarithm."""
    low, high = (math.log(bound) for bound in bounds)
    return torch.empty(count, device=device).uniform_(low, high).exp()


class Gains(nn.Module):
    """Gain of each channel by lambda: rounding the scaled latent is a quantiser with a step of 1 / gain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        low, high = LAMBDAS
        start = torch.linspace(math.log(high / low) / 2, 0, KNOTS)  # a step grows with the root of lambda
        self.log = nn.Parameter(start[:, None].repeat(1, channels))

    def forward(self, lambdas: Tensor) -> Tensor:
        """(batch,) to (batch, channels, 1, 1)."""
        return (knot_weights(lambdas, LAMBDAS, KNOTS) @ self.log).exp()[:, :, None, None]


class CheckerboardPrior(nn.Module):
    """Laplace distributions of the elements of a scaled latent, from those that are coded before them."""

    before: Tensor
    other_half: Tensor

    def __init__(self, channels: int, hidden: int = 16) -> None:
        super().__init__()
        self.earlier = nn.Conv2d(channels, channels * hidden, 3, padding=1, bias=False)
        self.neighbours = nn.Conv2d(channels, channels * hidden, 5, padding=2, groups=channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(KNOTS, 2, channels * hidden))  # of first and second half
        self.output = nn.Conv2d(channels * hidden, channels * 2, 1, groups=channels)
        self.output_bias = nn.Parameter(torch.zeros(KNOTS, channels * 2))
        order = torch.arange(channels)
        before = order[None] < order.repeat_interleave(hidden)[:, None]
        self.register_buffer("before", before[:, :, None, None].float(), persistent=False)
        self.register_buffer("other_half", _parity(5, 5).view(1, 1, 5, 5), persistent=False)

    def forward(self, scaled: Tensor, gains: Tensor, lambdas: Tensor) -> Tensor:
        """Bits (batch,) of scaled latents (batch, channels, h, w), rounded or with uniform noise."""
        mean, log_scale = self.distributions(scaled, gains, lambdas)
        return laplace_bits(scaled, mean, log_scale).flatten(1).sum(1)

    def distributions(self, scaled: Tensor, gains: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-scale of every element, each shaped as `scaled`."""
        latent = scaled / gains  # which has one distribution for all lambdas
        second = _parity(*scaled.shape[2:]).to(scaled)
        knots = knot_weights(lambdas, LAMBDAS, KNOTS)
        bias = torch.einsum("bk,kpc->pbc", knots, self.bias)[..., None, None]
        hidden = F.conv2d(latent, self.earlier.weight * self.before, padding=1)
        known = F.conv2d(latent, self.neighbours.weight * self.other_half, padding=2, groups=scaled.shape[1])
        hidden = F.silu(hidden + bias[0] + (known + bias[1]) * second)
        output = self.output(hidden) + (knots @ self.output_bias)[..., None, None]
        mean, log_scale = output.unflatten(1, (-1, 2)).unbind(2)
        return mean * gains, log_scale + gains.log()


def _parity(height: int, width: int) -> Tensor:
    """1 where row and column add up to an odd number, else 0."""
    return ((torch.arange(height)[:, None] + torch.arange(width)) % 2).float()
