"""Decoder of pictures whose latent is a function."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from codec.autoencoders import preview, store
from codec.autoencoders.autoencoder import on_device
from codec.container import Container, Section
from codec.device import computing
from codec.overfit import pipeline
from codec.overfit.sections import function_sections
from codec.profiles.base import Decoder
from codec.profiles.clric.initialisation import step_of, universal_of
from codec.tensors import from_rgb


class ClricDecoder(Decoder):
    """Decoder with the model of this identity."""

    def __init__(self, model: bytes, device: str) -> None:
        self.autoencoder = on_device(store.find(model), torch.device(device))

    def decode(self, container: Container, scale: int = 1, tune: str | None = None) -> NDArray[np.uint8]:
        autoencoder, device, header = self.autoencoder, self.autoencoder.device, container.header
        size = *autoencoder.latent_size(header.height, header.width), autoencoder.channels
        with computing(device), torch.no_grad():
            output, weights = pipeline.decode(
                *function_sections(container), size, device, universal_of(autoencoder.model),
                truncated=container.cut(Section.GRIDS),
            )  # fmt: skip
            latents = output * step_of(weights.origin, device)
            picture = preview.decode(autoencoder, latents, header.height, header.width, scale)[0]
        return from_rgb(picture.cpu().numpy(), header.channels)
