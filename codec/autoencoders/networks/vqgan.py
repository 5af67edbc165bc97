"""VQGANs of others, as diffusers' `VQModel` has them, with codebooks of fewer entries beside. Needs that library.

They come without what knows of indices: these are all equally likely, and lost ones are as the nearest known ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.autoencoders.networks import kl
from codec.autoencoders.networks.index_transformer import UNKNOWN, Indices
from codec.autoencoders.networks.limits import MAX_WIDTH, whole
from codec.autoencoders.networks.vq import Codebooks, check_sizes
from codec.blocks import shrunk

# Fields of diffusers' configuration that shape the networks; the rest is about training or other pipelines.
FIELDS = (
    "down_block_types", "up_block_types", "block_out_channels", "layers_per_block", "act_fn", "latent_channels",
    "norm_num_groups", "vq_embed_dim", "norm_type", "mid_block_add_attention",
)  # fmt: skip
BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
}


def build(config: Mapping[str, Any]) -> VqGan:
    """Networks of a configuration: `FIELDS` of diffusers as "autoencoder", and "sizes" of the codebooks."""
    if set(config["autoencoder"]) != set(FIELDS):
        raise ValueError(f"its autoencoder needs {', '.join(FIELDS)}")
    check(config["autoencoder"])
    return VqGan(config["autoencoder"], check_sizes(config["sizes"]))


def check(config: Mapping[str, Any]) -> None:
    """Refuse a configuration of diffusers that asks for too much or makes no sense. Raises as `kl.check`."""
    kl.check(config)
    levels = len(config.get("block_out_channels", (1,)))
    for name, known in BLOCKS.items():
        types = config.get(name, known[:1])
        if len(types) != levels or not set(types) <= set(known):
            raise ValueError(f"{name} must be {levels} of {', '.join(known)}, not {types!r}")
    if config.get("norm_type", "group") not in ("group", "spatial"):
        raise ValueError(f"norm_type must be group or spatial, not {config['norm_type']!r}")
    dimensions, channels = config.get("vq_embed_dim"), config.get("latent_channels")
    if dimensions is not None:
        whole("vq_embed_dim", dimensions, 1, MAX_WIDTH)
    if config.get("norm_type") == "spatial" and dimensions not in (None, channels):
        raise ValueError(f"with norm_type spatial, vq_embed_dim must be latent_channels, not {dimensions}")


class VqGan(Codebooks):
    """Both networks and the entries of all codebooks, those of smaller ones first."""

    tile = 512

    def __init__(self, config: Mapping[str, Any], sizes: tuple[int, ...]) -> None:
        super().__init__()
        both = kl.diffusers().VQModel(num_vq_embeddings=1, **config)
        self.encoder, self.decoder = both.encoder, both.decoder
        self.quant_conv, self.post_quant_conv = both.quant_conv, both.post_quant_conv
        self.sizes = sizes
        self.downscale = 2 ** (len(config["block_out_channels"]) - 1)
        self.register_buffer("entries", torch.zeros(sum(sizes), self.quant_conv.out_channels))
        self._spatial = config["norm_type"] == "spatial"

    def encode_tile(self, pictures: Tensor, book: int) -> Tensor:
        latents: Tensor = self.quant_conv(self.encoder(pictures))
        return latents

    def decode_tile(self, latents: Tensor, book: int, scale: int) -> Tensor:
        pictures: Tensor = self.decoder(self.post_quant_conv(latents), latents if self._spatial else None)
        return 2 * shrunk(pictures / 2 + 0.5, scale) - 1 if scale > 1 else pictures

    def mend(self, indices: Indices, book: int) -> Indices:
        """The same with the nearest known index in place of each `UNKNOWN`; 0 if none is known."""
        known = indices != UNKNOWN
        if not known.any():
            return np.zeros_like(indices)
        padded = np.pad(indices, 1)  # nothing grows into what is not `UNKNOWN`
        found, width = padded.reshape(-1), padded.shape[1]
        front = np.flatnonzero(np.pad(known, 1))
        while len(front):  # which moves on by one position each time, and comes to each position once
            grown = []
            for step in (width, -width, 1, -1):
                source = front[found[front + step] == UNKNOWN]
                found[source + step] = found[source]
                grown.append(source + step)
            front = np.concatenate(grown)
        return padded[1:-1, 1:-1]
