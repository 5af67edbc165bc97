"""VGG-16's first layers: features by which trainings compare pictures.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2014. The weights are not
part of this package: a safetensors file with torchvision's names, `features.0.weight` and so on.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.tensor_file import read_safetensors

BLOCKS = ((0, 2), (5, 7), (10, 12, 14))  # torchvision's numbers of the convolutions
MEAN = (0.4850, 0.4580, 0.4076)  # of what the network was trained with


class Vgg(nn.Module):
    """Features of pictures (batch, 3, h, w) in 0..1: after each block of layers, at 1, 1/2 and 1/4 of the resolution.

    Means are taken where the original takes maxima, as Gatys et al. do: no pattern is invisible.

    Args:
        weights: a file as this module's docstring says.

    Raises:
        ModelFileError: it is none.
    """

    mean: Tensor

    def __init__(self, weights: Path) -> None:
        super().__init__()
        found = read_safetensors(weights)[1]
        self.layers = nn.ModuleDict()
        for number in (number for block in BLOCKS for number in block):
            names = [f"features.{number}.{name}" for name in ("weight", "bias")]
            if missing := [name for name in names if name not in found]:
                raise ModelFileError(f"{weights} lacks {missing[0]}: take torchvision's weights of VGG-16")
            weight, bias = (found[name].float() for name in names)
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            layer.load_state_dict({"weight": weight, "bias": bias})
            self.layers[str(number)] = layer
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.requires_grad_(False).eval()

    def forward(self, pictures: Tensor) -> list[Tensor]:
        x, features = pictures - self.mean, list[Tensor]()
        for block in BLOCKS:
            if features:
                x = F.avg_pool2d(x, 2)
            for number in block:
                x = F.relu(self.layers[str(number)](x))
            features.append(x)
        return features
