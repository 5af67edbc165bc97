"""Decoder of pictures that are functions themselves."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from codec.blocks import shrunk
from codec.container import Container, Section
from codec.overfit import pipeline
from codec.overfit.sections import function_sections
from codec.profiles.base import Decoder
from codec.tensors import to_pixels


class CoolChicDecoder(Decoder):
    """Decoder on a device."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def decode(self, container: Container, scale: int = 1, tune: str | None = None) -> NDArray[np.uint8]:
        sections, shape = function_sections(container), container.header.shape
        output, _ = pipeline.decode(*sections, shape, self.device, truncated=container.cut(Section.GRIDS))
        return to_pixels(shrunk(output, scale)[0].cpu().numpy())
