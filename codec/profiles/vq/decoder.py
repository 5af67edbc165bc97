"""Decoder of maps of indices, which fills in what lost packets leave unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codec.autoencoders import store
from codec.autoencoders.networks.index_transformer import UNKNOWN, Indices
from codec.autoencoders.vector_quantised import on_device
from codec.container import Container, CorruptError
from codec.device import computing
from codec.profiles.base import Decoder, Sections
from codec.profiles.packets import Packets, Place
from codec.profiles.vq import index_coding
from codec.profiles.vq.coded import Coded
from codec.profiles.vq.profile import PACKETS
from codec.tensors import from_rgb


class VqDecoder(Decoder):
    """Decoder with the model of this identity."""

    def __init__(self, model: bytes, device: str) -> None:
        self.autoencoder = on_device(store.find(model), torch.device(device))

    def decode(self, container: Container, scale: int = 1, tune: str | None = None) -> NDArray[np.uint8]:
        header = container.header
        found, indices = self._known(container)
        found.warn()
        with computing(self.autoencoder.device):
            picture = self.autoencoder.decode(indices, found.head.coding, header.height, header.width, scale)[0]
        return from_rgb(picture.cpu().numpy(), header.channels)

    def repair(self, container: Container) -> Sections:
        """Sections of a file with the likely contents of its lost packets."""
        found, indices = self._known(container)
        found.warn()
        with computing(self.autoencoder.device):
            whole = self.autoencoder.mend(indices, found.head.coding)
            return Coded.of(self.autoencoder.prior, found.head, whole).sections()

    def describe(self, container: Container) -> dict[str, Any]:
        found = self._known(container)[0]
        return {"codebook": self.autoencoder.sizes[found.head.coding], **found.facts()}

    def _packets(self, container: Container) -> Packets:
        found, sizes = PACKETS.of(container, self.autoencoder.downscale), self.autoencoder.sizes
        if found.head.coding >= len(sizes):
            raise CorruptError(
                f"file is coded with codebook {found.head.coding}, and its model has 0 to {len(sizes) - 1}: "
                "the file is damaged; get it again"
            )
        return found

    def _known(self, container: Container) -> tuple[Packets, Indices]:
        """The packets, and the map that they make, with `UNKNOWN` where they do not say what is there."""
        found, header = self._packets(container), container.header
        indices = np.full(self.autoencoder.size(header.height, header.width), UNKNOWN, np.int32)
        arguments = self.autoencoder.prior, found.head.coding, found.head.spacing

        def decode(stream: bytes, place: Place, truncated: bool) -> Indices:
            return index_coding.decode(*arguments, stream, *indices[place].shape, truncated=truncated)

        with computing(self.autoencoder.device):
            found, contents = found.decoded(decode)
        for place, part in contents:
            indices[place] = part
        return found, indices
