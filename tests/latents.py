"""Latents of profile msp and indices of profile vq under the tiny models of `tests/golden`, with random weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from codec import Container, Header, Section, alpha, pack, unpack
from codec.autoencoders import store, vector_quantised
from codec.autoencoders.learned_transform import LearnedTransform, on_device
from codec.autoencoders.networks.coding_order import Preset
from codec.autoencoders.networks.progressive_prior import ProgressivePrior
from codec.autoencoders.transform_networks import to_symbols
from codec.profiles.msp import bitstream, latent_coding
from codec.profiles.msp.coded import Coded
from codec.profiles.vq import index_coding
from codec.profiles.vq.profile import PACKETS
from codec.tensors import to_tensor

TINY = Path(__file__).parent / "golden" / "tiny@e02287ff4f582a9e.safetensors"
TINY_ENHANCED = TINY.with_name("tinyenhanced@1764ab0fba123463.safetensors")
TINY_GRAIN = TINY.with_name("tinygrain@97720f5c0423e339.safetensors")
TINY_PATCH = TINY.with_name("tinypatch@4b07860f8b6f419c.safetensors")
TINY_VQ = TINY.with_name("tinyvq@14eee1892436413a.safetensors")
HIDDEN = 8


def random_prior(preset: Preset, variances: torch.Tensor, knots: int) -> ProgressivePrior:
    """A prior of latents with such variances (channels,) whose networks add noise to that."""
    prior = ProgressivePrior(preset, len(variances), knots, HIDDEN)
    prior.start(variances)
    for key, parameter in prior.named_parameters():
        parameter.data += torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.1)
        if ".output." in key and "context" not in key:
            parameter.data *= 0.3
    return prior


@cache
def transform_of() -> LearnedTransform:
    return on_device(store.load(TINY), "cpu")


def latent_coded(preset: str, pixels: NDArray[np.uint8], position: int, resilience: int = 0) -> bytes:
    """A picture coded as the encoder would, in any order."""
    transform, channels = transform_of(), pixels.shape[2] if pixels.ndim == 3 else 1
    colours = pixels[:, :, : channels - 1] if channels in (2, 4) else pixels
    picture = to_tensor([colours], transform.networks.device).expand(-1, 3, -1, -1)
    latent = to_symbols(transform.networks.encode(picture, position))
    channel = pixels[:, :, -1] if channels in (2, 4) else None
    return latent_file(preset, pixels.shape, position, latent, channel, resilience)


def latent_file(
    preset: str, shape: tuple[int, ...], position: int, latent: NDArray[np.float32],
    channel: NDArray[np.uint8] | None = None, resilience: int = 0,
) -> bytes:  # fmt: skip
    """A file of a latent (height, width, channels), before it is rounded."""
    transform = transform_of()
    mode = {(): "L", (2,): "LA", (3,): "RGB", (4,): "RGBA"}[shape[2:]]
    header = Header(shape[1], shape[0], mode, profile=2, model=transform.model.prefix)
    coded = Coded.of(transform.prior(preset, position), bitstream.Head(preset, position), resilience, latent)
    sections = {} if channel is None else {Section.ALPHA: alpha.encode(channel)}
    return pack(header, sections | coded.sections())


def latent_of(data: bytes) -> NDArray[np.int32]:
    """Symbols (height, width, channels) of a file of profile msp, or indices (height, width) of one of profile vq."""
    container = unpack(data)
    if container.header.profile == 3:
        return indices_of(container)
    transform = on_device(store.find(container.header.model), "cpu")
    size = transform.size(container.header.height, container.header.width)
    if Section.PACKETS in container.sections:
        return symbols_of_packets(container)[0]
    head, stream = bitstream.read_head(container.sections[Section.GRIDS])
    return latent_coding.decode(transform.prior(head.preset, head.position), stream, *size)


def enhancement_of(data: bytes) -> NDArray[np.int32]:
    """Symbols (height, width, channels) of the enhancement layer of a file."""
    container = unpack(data)
    layer = on_device(store.find(container.header.model), "cpu").enhancement
    assert layer is not None
    position, stream = bitstream.read_enhancement(container.sections[Section.ENHANCEMENT])
    size = layer.size(container.header.height, container.header.width)
    return latent_coding.decode(layer.prior(position), stream, *size)


def symbols_of_packets(container: Container) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Symbols (height, width, channels) of a file of profile msp, zero in lost packets, and where (height, width)."""
    transform, found = transform_of(), bitstream.PACKETS.of(container)
    head, size = bitstream.Head.of_packet(found.head), transform.size(container.header.height, container.header.width)
    symbols, known = np.zeros((*size, transform.channels), np.int32), np.zeros(size, bool)
    for number, stream in found.streams.items():
        place = found.places[number]
        known[place] = True
        symbols[place] = latent_coding.decode(
            transform.prior(head.preset, head.position), stream, *known[place].shape, spacing=found.head.spacing
        )
    return symbols, known


def indices_of(container: Container) -> NDArray[np.int32]:
    """Indices (height, width) of a file of profile vq; those of lost packets are -1."""
    autoencoder = vector_quantised.on_device(store.find(container.header.model), torch.device("cpu"))
    found = PACKETS.of(container)
    indices = np.full(autoencoder.size(container.header.height, container.header.width), -1, np.int32)
    for number, stream in found.streams.items():
        place = indices[found.places[number]]
        place[...] = index_coding.decode(autoencoder.prior, found.head.coding, found.head.spacing, stream, *place.shape)
    return indices


def contents_of(container: Container) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Symbols or indices of a file in packets, of either profile that has them, and where (height, width) they are."""
    if container.header.profile == 3:
        indices = indices_of(container)
        return indices, indices >= 0
    return symbols_of_packets(container)
