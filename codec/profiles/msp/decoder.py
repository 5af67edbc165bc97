"""Decoder of pictures whose latent is coded under the progressive prior."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders import store
from codec.autoencoders.learned_transform import EnhancementLayer, on_device
from codec.autoencoders.networks.integer_prior import Conditioned
from codec.autoencoders.networks.patch_layout import Floats
from codec.autoencoders.networks.transform_config import DOWNSCALE
from codec.container import Container, CorruptError, Section, TruncatedError
from codec.entropy.coder import Symbols
from codec.entropy.tables import FRACTIONS, nearest
from codec.profiles.base import Decoder, Quality, Sections
from codec.profiles.msp import bitstream, latent_coding
from codec.profiles.msp.bitstream import PACKETS, Head
from codec.profiles.msp.coded import Coded
from codec.profiles.msp.concealment import Mask, Means, conceal
from codec.profiles.msp.profile import LOG_LAMBDA
from codec.profiles.options import TUNES
from codec.profiles.packets import Packets, Place
from codec.tensors import from_rgb


class MspDecoder(Decoder):
    """Decoder with the model of this identity."""

    def __init__(self, model: bytes, device: str) -> None:
        self.transform = on_device(store.find(model), device)

    def decode(self, container: Container, scale: int = 1, tune: str | None = None) -> NDArray[np.uint8]:
        transform, header = self.transform, container.header
        if Section.PACKETS in container.sections:
            read = self._read(container)
            read.found.warn()
            head, means = read.head, read.means()
            symbols, more = means.astype(np.float32) / np.float32(FRACTIONS), None
        else:
            head, prior, stream = self._coded(container)
            size = transform.size(header.height, header.width)
            truncated = container.cut(Section.GRIDS)
            symbols = latent_coding.decode(prior, stream, *size, truncated=truncated).astype(np.float32)
            more = self._enhancement(container, scale)
        # What the enhancement layer has of texture is real.
        grain = (head.grain if tune is None else tune == "looks") and Section.ENHANCEMENT not in container.sections
        picture = transform.decode(symbols, head.position, header.height, header.width, scale, grain)
        if more is not None:
            picture += more
        return from_rgb(picture, header.channels)

    def repair(self, container: Container) -> Sections:
        """Sections of a file with the likely contents of its lost packets, rounded."""
        if Section.PACKETS not in container.sections:
            return super().repair(container)
        read = self._read(container)
        read.found.warn()
        symbols, resilience = nearest(read.means()), max(1, read.found.head.resilience)
        return Coded.of(read.prior, read.head, resilience, symbols.astype(np.float32)).sections()

    def describe(self, container: Container) -> dict[str, Any]:
        transform, header = self.transform, container.header
        if Section.PACKETS in container.sections:
            read = self._read(container)
            return self._facts(read.head) | read.found.facts()
        head, prior, stream = self._coded(container)
        sizes = latent_coding.bytes_by_scale(prior, stream, *transform.size(header.height, header.width))
        facts, scales = self._facts(head), {f"1/{DOWNSCALE * stride}": size for stride, size in sizes.items()}
        if Section.ENHANCEMENT in container.sections:
            layer, position, stream = self._layer(container)
            facts["quality"] = _quality(layer.log_lambda(position))
            scales["enhancement"] = len(stream)
        return {**facts, "scales": scales}

    def _facts(self, head: Head) -> dict[str, Any]:
        quality = _quality(self.transform.log_lambda(head.position))
        return {"preset": head.preset, "tune": TUNES[head.grain], "quality": quality}

    def _coded(self, container: Container) -> tuple[Head, Conditioned, bytes]:
        """Head of a latent, its prior, and its stream."""
        head, stream = bitstream.read_head(container.sections.get(Section.GRIDS, b""))
        self._check(head)
        return head, self.transform.prior(head.preset, head.position), stream

    def _layer(self, container: Container) -> tuple[EnhancementLayer, int, bytes]:
        """The enhancement layer, and position and stream of that of a file."""
        layer, section = self.transform.enhancement, container.sections[Section.ENHANCEMENT]
        position, stream = bitstream.read_enhancement(section)
        if layer is None or position > layer.positions:
            has = "none" if layer is None else f"0 to {layer.positions}"
            raise CorruptError(
                f"file has an enhancement layer at position {position}, and its model has {has}: the file is damaged; "
                "get it again"
            )
        return layer, position, stream

    def _enhancement(self, container: Container, scale: int) -> Floats | None:
        """Addition of the enhancement layer to a picture; None if there is none, or the file ends before it begins."""
        header = container.header
        if Section.ENHANCEMENT not in container.sections:
            return None
        truncated = container.cut(Section.ENHANCEMENT)
        try:
            layer, position, stream = self._layer(container)
        except TruncatedError:
            if truncated:
                return None
            raise
        size = layer.size(header.height, header.width)
        symbols = latent_coding.decode(layer.prior(position), stream, *size, truncated=truncated)
        return layer.decode(symbols.astype(np.float32), position, header.height, header.width, scale)

    def _check(self, head: Head) -> None:
        """Refuse a head that the model cannot have."""
        transform = self.transform
        if head.position > transform.positions or head.preset not in transform.presets:
            raise CorruptError(
                f"file is coded in preset {head.preset} at position {head.position}, and its model has "
                f"{', '.join(transform.presets)} and 0 to {transform.positions}: the file is damaged; get it again"
            )

    def _head(self, found: Packets) -> Head:
        """Head of packets; if nothing is left of them, one that the model has."""
        if not (found.streams or found.beginnings):
            return Head(self.transform.presets[0], 0)
        head = Head.of_packet(found.head)
        self._check(head)
        return head

    def _read(self, container: Container) -> _Read:
        """Contents of the packets of a file."""
        found, transform = PACKETS.of(container), self.transform
        head, spacing = self._head(found), found.head.spacing
        prior, size = transform.prior(head.preset, head.position), transform.size(*container.header.shape[:2])
        symbols, known = np.zeros((*size, transform.channels), np.int32), np.zeros(size, bool)

        def decode(stream: bytes, place: Place, truncated: bool) -> tuple[Symbols, Mask | bool]:
            shape = known[place].shape
            if truncated:
                return latent_coding.decode_beginning(prior, stream, *shape, spacing=spacing)
            return latent_coding.decode(prior, stream, *shape, spacing=spacing), True

        found, contents = found.decoded(decode)
        for place, part in contents:
            symbols[place], known[place] = part
        return _Read(found, head, prior, symbols, known)


class _Read(NamedTuple):
    """A latent in packets: symbols (height, width, channels), and where they are known, (height, width)."""

    found: Packets
    head: Head
    prior: Conditioned
    symbols: Symbols
    known: Mask

    def means(self) -> Means:
        """Means of symbols, (height, width, channels): see `conceal`."""
        return conceal(self.prior, self.symbols, self.known)


def _quality(log_lambda: float) -> float:
    """Quality by which an encoder would take a lambda."""
    return round(Quality.at(log_lambda, LOG_LAMBDA).value, 1)
