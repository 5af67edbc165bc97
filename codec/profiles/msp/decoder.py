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
from codec.container import Container, CorruptError, Header, Section
from codec.device import computing
from codec.entropy.tables import FRACTIONS
from codec.profiles.base import Decoder, Quality, Sections
from codec.profiles.msp import bitstream, latent_coding
from codec.profiles.msp.bitstream import PACKETS, Head
from codec.profiles.msp.concealment import Means, conceal
from codec.profiles.msp.encoder import Coded
from codec.profiles.msp.profile import LOG_LAMBDA
from codec.profiles.packets import Packets
from codec.tensors import from_rgb


class MspDecoder(Decoder):
    """Decoder with the model of this identity."""

    def __init__(self, model: bytes, device: torch.device) -> None:
        self.transform = on_device(store.find(model), device)

    def decode(self, container: Container, scale: int = 1) -> NDArray[np.uint8]:
        transform, header = self.transform, container.header
        with computing(transform.device), torch.no_grad():
            if Section.PACKETS in container.sections:
                found = PACKETS.of(container)
                found.warn()
                head, means = self._mended(header, found)
                symbols = means.astype(np.float32) / FRACTIONS
            else:
                head, prior, stream = self._coded(container)
                size = transform.size(header.height, header.width)
                symbols = latent_coding.decode(prior, stream, *size, truncated=container.truncated).astype(np.float32)
            latents = torch.from_numpy(symbols).permute(2, 0, 1)[None]
            picture = transform.decode(latents, head.position, header.height, header.width, scale)[0]
        return from_rgb(picture, header.channels)

    def repair(self, container: Container) -> Sections:
        """Sections of a file with the likely contents of its lost packets, rounded."""
        if Section.PACKETS not in container.sections:
            return super().repair(container)
        found = PACKETS.of(container)
        with computing(self.transform.device):
            head, means = self._mended(container.header, found)
            symbols = (means + FRACTIONS // 2) // FRACTIONS
            prior, resilience = self.transform.prior(head.preset, head.position), max(1, found.head.resilience)
            return Coded.of(prior, head, resilience, symbols.astype(np.float32)).sections()

    def describe(self, container: Container) -> dict[str, Any]:
        transform, header = self.transform, container.header
        if Section.PACKETS in container.sections:
            found = PACKETS.of(container)
            return self._facts(self._head(found)) | found.facts()
        head, prior, stream = self._coded(container)
        with computing(transform.device):
            sizes = latent_coding.bytes_by_scale(prior, stream, *transform.size(header.height, header.width))
        return self._facts(head) | {"scales": {f"1/{DOWNSCALE * stride}": size for stride, size in sizes.items()}}

    def _facts(self, head: Head) -> dict[str, Any]:
        quality = Quality.at(self.transform.log_lambda(head.position), LOG_LAMBDA).value
        return {"preset": head.preset, "quality": round(quality, 1)}

    def _coded(self, container: Container) -> tuple[Head, Conditioned, bytes]:
        """Head of a latent, its prior, and its stream."""
        head, stream = bitstream.read_head(container.sections.get(Section.GRIDS, b""))
        self._check(head)
        return head, self.transform.prior(head.preset, head.position), stream

    def _check(self, head: Head) -> None:
        """Refuse a head that the model cannot have."""
        transform = self.transform
        if head.position > transform.positions or head.preset not in transform.presets:
            raise CorruptError(
                f"file is coded in preset {head.preset} at position {head.position}, and its model has "
                f"{', '.join(transform.presets)} and 0 to {transform.positions}: it is damaged"
            )

    def _head(self, found: Packets) -> Head:
        """Head of packets; if nothing is left of them, one that the model has."""
        if not (found.streams or found.beginnings):
            return Head(self.transform.presets[0], 0)
        head = Head.of_packet(found.head)
        self._check(head)
        return head

    def _mended(self, header: Header, found: Packets) -> tuple[Head, Means]:
        """Head of packets, and means of symbols (height, width, channels): see `conceal`."""
        head, spacing = self._head(found), found.head.spacing
        prior, size = self.transform.prior(head.preset, head.position), self.transform.size(header.height, header.width)
        symbols, known = np.zeros((*size, self.transform.channels), np.int32), np.zeros(size, bool)
        for number, stream in found.streams.items():
            place = found.places[number]
            symbols[place] = latent_coding.decode(prior, stream, *known[place].shape, spacing=spacing)
            known[place] = True
        for number, stream in found.beginnings.items():
            place = found.places[number]
            decided = latent_coding.decode_beginning(prior, stream, *known[place].shape, spacing=spacing)
            symbols[place], known[place] = decided
        return head, conceal(prior, symbols, known)
