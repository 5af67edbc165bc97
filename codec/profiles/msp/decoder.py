"""Decoder of pictures whose latent is coded under the progressive prior."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codec.autoencoders import store
from codec.autoencoders.learned_transform import on_device
from codec.autoencoders.networks.integer_prior import Conditioned
from codec.autoencoders.networks.transform import DOWNSCALE
from codec.container import Container, CorruptError, Section
from codec.device import computing
from codec.profiles.base import Decoder, Quality
from codec.profiles.msp import bitstream, latent_coding
from codec.profiles.msp.bitstream import Head
from codec.profiles.msp.profile import LOG_LAMBDA
from codec.tensors import from_rgb


class MspDecoder(Decoder):
    """Decoder with the model of this identity."""

    def __init__(self, model: bytes, device: torch.device) -> None:
        self.transform = on_device(store.find(model), device)

    def decode(self, container: Container, scale: int = 1) -> NDArray[np.uint8]:
        transform, header = self.transform, container.header
        head, prior, stream = self._coded(container)
        with computing(transform.device), torch.no_grad():
            size = transform.size(header.height, header.width)
            symbols = latent_coding.decode(prior, stream, *size, truncated=container.truncated)
            latents = torch.from_numpy(symbols).permute(2, 0, 1)[None]
            picture = transform.decode(latents, head.position, header.height, header.width, scale)[0]
        return from_rgb(picture, header.channels)

    def describe(self, container: Container) -> dict[str, Any]:
        transform, header = self.transform, container.header
        head, prior, stream = self._coded(container)
        with computing(transform.device):
            found = latent_coding.bytes_by_scale(prior, stream, *transform.size(header.height, header.width))
        return {
            "preset": head.preset,
            "quality": round(Quality.at(transform.log_lambda(head.position), LOG_LAMBDA).value, 1),
            "scales": {f"1/{DOWNSCALE * stride}": size for stride, size in found.items()},
        }

    def _coded(self, container: Container) -> tuple[Head, Conditioned, bytes]:
        """Head of a latent, its prior, and its stream."""
        transform = self.transform
        head, stream = bitstream.read_head(container.sections.get(Section.GRIDS, b""))
        if head.position > transform.positions or head.preset not in transform.presets:
            raise CorruptError(
                f"file is coded in preset {head.preset} at position {head.position}, and its model has "
                f"{', '.join(transform.presets)} and 0 to {transform.positions}: it is damaged"
            )
        return head, transform.prior(head.preset, head.position), stream
