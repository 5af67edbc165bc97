"""Autoencoders whose latent is one entry of a codebook at each position, for codebooks of several sizes.

The networks are the learned transform's (`codec/autoencoders/networks/transform.py`). Where these are modulated by
lambda, here they are by the codebook, so one network serves all sizes. Entries were learned as means of the latents
that they stand for (van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning", 2017).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.networks import transform_config
from codec.autoencoders.networks.index_transformer import UNKNOWN, IndexTransformer, Indices
from codec.autoencoders.networks.integer_index_prior import IntegerIndexPrior
from codec.autoencoders.networks.limits import MAX_BLOCKS, MAX_WIDTH, whole
from codec.autoencoders.networks.transform import Decoder, Encoder
from codec.autoencoders.networks.transform_config import DOWNSCALE
from codec.entropy.layers import Proven

MAX_SIZE = 1 << 14  # of a codebook
MAX_BOOKS = 16  # that the heads of packets can name


class Codebooks(nn.Module, ABC):
    """Interface of autoencoders with codebooks, for pictures in -1..1.

    Attributes:
        downscale: pixels for one index, along each axis.
        tile: side in pixels of the tiles in which large pictures are coded, a multiple of `downscale`.
        sizes: entries of each codebook, rising.
        entries: of all codebooks, those of smaller ones first, (sum of sizes, dimensions).
    """

    downscale: int
    tile: int
    sizes: tuple[int, ...]
    entries: Tensor

    @abstractmethod
    def encode_tile(self, pictures: Tensor, book: int) -> Tensor:
        """(1, 3, downscale * h, downscale * w) to latents (1, dimensions, h, w) for a codebook."""

    @abstractmethod
    def decode_tile(self, latents: Tensor, book: int, scale: int) -> Tensor:
        """Latents to pictures that are smaller by a divisor of `downscale`; they are not clamped."""

    @abstractmethod
    def mend(self, indices: Indices, book: int) -> Indices:
        """Indices (h, w) with likely ones in place of those that are `UNKNOWN`."""

    def latents(self, indices: Indices, book: int) -> Tensor:
        """Latents (1, dimensions, h, w) of indices (h, w) of a codebook; where these are `UNKNOWN`, likely ones."""
        places = torch.from_numpy(self.mend(indices, book).astype(np.int64)).to(self.entries.device)
        latents: Tensor = self.entries.split(self.sizes)[book][places].permute(2, 0, 1)[None]
        return latents


def squared_distances(points: Tensor, entries: Tensor) -> Tensor:
    """Squared distances of points (..., dimensions) from entries (n, dimensions): (..., n)."""
    squares = points.square().sum(-1, keepdim=True) + entries.square().sum(-1)
    return squares - 2 * points @ entries.T


def check_sizes(sizes: Sequence[int], least: int = 1) -> tuple[int, ...]:
    """Check the sizes of codebooks, of which there are `least` or more, and return them.

    Raises:
        ValueError: they make no sense.
    """
    checked = tuple(whole("sizes", size, 2, MAX_SIZE) for size in sizes)
    if not least <= len(checked) <= MAX_BOOKS or list(checked) != sorted(set(checked)):
        raise ValueError(f"sizes must be {least} to {MAX_BOOKS} rising numbers, not {sizes!r}")
    return checked


@dataclass(frozen=True)
class Config:
    """Shape of the networks.

    Attributes:
        sizes: entries of each codebook, rising.
        dimensions: of an entry.
        fine, coarse, encoder, decoder, expansion: as in `transform_config.Config`.
    """

    sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024)
    dimensions: int = 32
    fine: int = 256
    coarse: int = 320
    encoder: tuple[int, int] = (1, 2)
    decoder: tuple[int, int] = (3, 2)
    expansion: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", check_sizes(self.sizes, least=2))
        whole("dimensions", self.dimensions, 1, MAX_WIDTH)
        for name in ("encoder", "decoder"):
            object.__setattr__(self, name, getattr(self.transform, name))

    @property
    def transform(self) -> transform_config.Config:
        """Shape of encoder and decoder."""
        return transform_config.Config(
            self.dimensions, self.fine, self.coarse, self.encoder, self.decoder, self.expansion, len(self.sizes)
        )

    @property
    def starts(self) -> tuple[int, ...]:
        """First entry of each codebook among those of all, and the end of the last one."""
        return tuple(accumulate(self.sizes, initial=0))


class Quantised(nn.Module):
    """Encoder, decoder and codebooks."""

    entries: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config.transform), Decoder(config.transform)
        self.register_buffer("entries", torch.zeros(config.starts[-1], config.dimensions))

    def chosen(self, books: Tensor) -> Tensor:
        return F.one_hot(books, len(self.config.sizes)).to(self.entries.dtype)


@dataclass(frozen=True)
class IndexConfig:
    """Shape of the networks that know of indices.

    Attributes:
        hidden: channels of the prior.
        width, layers, heads: of the transformer; the width is a multiple of the heads.
    """

    hidden: int = 160
    width: int = 192
    layers: int = 4
    heads: int = 6

    def __post_init__(self) -> None:
        whole("hidden", self.hidden, 1, MAX_WIDTH)
        whole("layers", self.layers, 1, MAX_BLOCKS)
        whole("heads", self.heads, 1, MAX_WIDTH)
        if whole("width", self.width, 1, MAX_WIDTH) % self.heads:
            raise ValueError(f"width must be a multiple of heads, not {self.width} and {self.heads}")


class Vq(Quantised, Codebooks):
    """An autoencoder with codebooks, and the transformer that fills in indices."""

    downscale, tile = DOWNSCALE, 1024

    def __init__(self, config: Config, indices: IndexConfig) -> None:
        super().__init__(config)
        self.sizes = config.sizes
        self.transformer = IndexTransformer(config.starts, indices.width, indices.layers, indices.heads)

    def encode_tile(self, pictures: Tensor, book: int) -> Tensor:
        latents: Tensor = self.encoder(pictures, self._knots(book))
        return latents

    def decode_tile(self, latents: Tensor, book: int, scale: int) -> Tensor:
        pictures: Tensor = self.decoder(latents, self._knots(book), scale)
        return pictures

    def mend(self, indices: Indices, book: int) -> Indices:
        return self.transformer.mend(indices, book)

    def latents(self, indices: Indices, book: int) -> Tensor:
        entries = self.entries.split(self.sizes)[book]
        places = torch.from_numpy(indices.astype(np.int64)).to(entries.device)
        known = (places != UNKNOWN)[..., None]
        filled = torch.where(known, entries[places.clamp_min(0)], self.transformer.expected(indices, book, entries))
        return filled.permute(2, 0, 1)[None]

    def _knots(self, book: int) -> Tensor:
        return self.chosen(torch.tensor([book], device=self.entries.device))


class Parts(Proven):
    """Integers of a model: the prior of its indices."""

    def __init__(self, config: Config, indices: IndexConfig) -> None:
        super().__init__()
        self.prior = IntegerIndexPrior(config.starts, indices.hidden)


def parts(config: Mapping[str, Any]) -> Parts:
    """The integers of a model's configuration, not loaded; raises as `build`."""
    return Parts(Config(**config["autoencoder"]), IndexConfig(**config["indices"]))


def build(config: Mapping[str, Any]) -> Vq:
    """The networks of a model's configuration, without numbers.

    Raises:
        KeyError, TypeError, ValueError: it makes no sense.
    """
    return Vq(Config(**config["autoencoder"]), IndexConfig(**config["indices"]))
