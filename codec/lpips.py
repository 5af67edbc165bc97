"""LPIPS (SqueezeNet 1.1, version 0.1): a perceptual distance, to measure pictures by.

Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", CVPR 2018. The weights are not
part of this package: a safetensors file with torchvision's SqueezeNet 1.1 as `features.*`, and the linear layers of
LPIPS as `lin0` to `lin6`, (1, channels, 1, 1).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.tensor_file import check_shapes, read_safetensors

TAPS = (1, 4, 7, 9, 10, 11, 12)  # layers of SqueezeNet whose outputs are compared
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of samples, by which the network sees them


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
    """Pooling of SqueezeNet."""
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class Lpips(nn.Module):
    """Distances (batch,) of pictures (batch, 3, height, width) in 0..1: differentiable, and lower is nearer."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def load(cls, weights: Path) -> Lpips:
        """The metric, with its weights from a file as this module's docstring says.

        Raises:
            ModelFileError: it is none.
        """
        metric, found = cls(), read_safetensors(weights)[1]
        check_shapes(found, metric.state_dict(), str(weights))
        metric.load_state_dict({name: tensor.float() for name, tensor in found.items()})
        return metric

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool(),
            Fire(64, 16, 64), Fire(128, 16, 64), pool(),
            Fire(128, 32, 128), Fire(256, 32, 128), pool(),
            Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
        )  # fmt: skip
        channels = (64, 128, 256, 384, 384, 512, 512)
        for i, count in enumerate(channels):
            self.register_buffer(f"lin{i}", torch.zeros(1, count, 1, 1))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        distance = a.new_zeros(len(a), dtype=torch.float32)
        for i, (x, y) in enumerate(zip(self._embed(a), self._embed(b), strict=True)):
            distance = distance + ((x - y).square() * getattr(self, f"lin{i}")).sum(1).float().mean((1, 2))
        return distance

    def _embed(self, x: Tensor) -> list[Tensor]:
        x = (x - self.mean) / self.deviation
        embedded = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in TAPS:
                embedded.append(x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-10))
        return embedded
