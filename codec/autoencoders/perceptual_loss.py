"""Perceptual distance of two pictures, by a small network that comes with the package: users need no other weights.

Distances are those of LPIPS (Zhang et al., CVPR 2018), between features at five depths of a network shaped like
SqueezeNet (Iandola et al., 2016). Its weights were trained by `codec.training.perception` to see what the network of
LPIPS sees, see docs/MODELS.md. No reader needs it, and no file depends on it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.blocks import positions_a_block
from codec.device import of_package, to_device

FILE = Path(__file__).with_name("perceptual_loss.safetensors")
TAPS = (1, 4, 7, 9, 10)  # layers whose outputs are compared
CHANNELS = (64, 128, 256, 384, 384)  # of these
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of samples, by which the network sees them
LEAST = 32  # side of the smallest picture that all layers can see
_TINY = 1e-4  # of a feature's squared length, below which its direction means little


class Fire(nn.Module):
    """SqueezeNet's: few channels by 1x1, many of these by 1x1 and 3x3."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


def pool() -> nn.Module:
    """SqueezeNet's pooling."""
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class Perception(nn.Module):
    """Features of pictures, and weights of the differences in each."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool(),
            Fire(64, 24, 64), Fire(128, 24, 64), pool(),
            Fire(128, 48, 128), Fire(256, 96, 128), pool(),
            Fire(256, 162, 192), Fire(384, 162, 192),
        )  # fmt: skip
        self.importance = nn.ParameterList(torch.full((n, 1, 1), 1 / n) for n in CHANNELS)
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):  # no weights: they are there from the start
            self.register_buffer(name, torch.tensor(values, device="cpu").view(1, 3, 1, 1), persistent=False)

    def normalise(self, pictures: Tensor) -> Tensor:
        """Input of the first layer, from pictures (batch, 3, height, width) in 0..1."""
        return (pictures - self.mean) / self.deviation

    def embed(self, pictures: Tensor) -> list[Tensor]:
        """Directions of the features at every position of each tap, (batch, channels, h, w)."""
        return [direction(x) for x in self._features(pictures)]

    def distance(self, pictures: Tensor, seen: list[Tensor], weights: Tensor | None = None) -> Tensor:
        """Distances (batch,) of pictures (batch, 3, height, width) to those that `embed` gave these directions of.

        Differentiable in the pictures.

        Args:
            weights: of differences at each place, (batch, 1, height, width); 1 by default.
        """
        taps = zip(self._features(pictures), seen, self.importance, strict=True)
        return torch.stack(
            [_Distance.apply(x, y, w, _at(x, weights)) for x, y, w in taps]  # type: ignore[no-untyped-call]
        ).sum(0)

    def _features(self, pictures: Tensor) -> list[Tensor]:
        """Outputs of the layers of `TAPS`, (batch, channels, h, w) each."""
        height, width = pictures.shape[2:]
        # Twice as fast on CPUs in this order.
        x, found = self.normalise(pictures).contiguous(memory_format=torch.channels_last), []
        x = F.pad(x, (0, max(0, LEAST - width), 0, max(0, LEAST - height)), mode="replicate")
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in TAPS:
                found.append(x)
        return found


class _Distance(torch.autograd.Function):
    """Distance (batch,) of the directions of features to others, and its gradient in the features along with it.

    In blocks of positions, so that temporaries stay in the cache: an order of magnitude faster on CPUs than operators
    on full-size features, most of all backwards.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, others: Tensor, importance: Tensor, weights: Tensor | None) -> Tensor:
        batch, channels, height, width = features.shape
        x, y = (f.permute(0, 2, 3, 1).reshape(batch, -1, channels) for f in (features, others))
        total, gradient = features.new_zeros(batch, dtype=torch.float32), torch.empty_like(x)
        w = importance.flatten() / (height * width)
        positions = max(1, positions_a_block(features.device) // (batch * channels))
        for start in range(0, height * width, positions):
            block = slice(start, start + positions)
            here = w if weights is None else w * weights[:, block]
            total += _distance(x[:, block], y[:, block], here, gradient[:, block])
        ctx.save_for_backward(gradient.view(batch, height, width, channels).permute(0, 3, 1, 2))
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype).view(-1, 1, 1, 1), None, None, None


def _at(features: Tensor, weights: Tensor | None) -> Tensor | None:
    """Weights at the positions of features (batch, channels, h, w): (batch, h * w, 1)."""
    if weights is None:
        return None
    height, width = features.shape[2:]
    return F.adaptive_avg_pool2d(weights, (height, width)).to(features.dtype).flatten(2).mT


def _distance(x: Tensor, y: Tensor, w: Tensor, gradient: Tensor) -> Tensor:
    """Sum (batch,) of w * (direction(x) - y)**2 over (batch, positions, channels); writes its gradient in x."""
    inverse = x.square().sum(2, keepdim=True).add_(_TINY).rsqrt_()
    difference = torch.addcmul(-y, x, inverse)
    weighted = difference * w
    total = difference.mul_(weighted).sum((1, 2))
    along = (weighted * x).sum(2, keepdim=True).mul_(-(inverse**3))
    torch.mul(x, along, out=gradient)
    gradient.addcmul_(weighted, inverse).mul_(2)
    return total


def direction(x: Tensor) -> Tensor:
    """Features (batch, channels, h, w) scaled to unit length at every position."""
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + _TINY)


@cache
def perception(device: torch.device) -> Perception:
    """The network that comes with the package."""
    return to_device(of_package(Perception, FILE), device)
