"""An autoencoder with codebooks at work: pictures of any size to maps of indices and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.autoencoders import model_file
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.model_file import Model
from codec.autoencoders.networks import vq
from codec.autoencoders.networks.index_transformer import Indices
from codec.autoencoders.networks.integer_index_prior import AnyPrior, EquallyLikely
from codec.autoencoders.networks.vq import Codebooks, Vq, squared_distances
from codec.autoencoders.tiles import tiled
from codec.blocks import shrunk, to_multiple
from codec.device import computing, reduced_precision, to_device

OVERLAP = 128  # pixels that neighbouring tiles share
AT_ONCE = 1 << 24  # distances that are in memory at a time


class VectorQuantised:
    """A model of kind `vq` or `vqgan` on a device. Networks compute in bfloat16 where that is faster.

    Attributes:
        model: whose networks these are.
        device: on which they compute.
        downscale: pixels for one index, along each axis.
        sizes: entries of each codebook, rising.
        prior: distributions of indices, in integers.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        networks = model_file.build(model)
        if not isinstance(networks, Codebooks):
            raise ModelFileError(
                f"model {model.name} is of kind {model.architecture!r}, and profile vq needs one of kind 'vq' or "
                "'vqgan'"
            )
        self._networks = to_device(networks, device)
        self.model, self.device, self.downscale = model, device, networks.downscale
        self.sizes, self.prior = networks.sizes, _prior(model, networks)
        self._entries = networks.entries.split(networks.sizes)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the map of indices of a picture of this size."""
        return -(-height // self.downscale), -(-width // self.downscale)

    @torch.no_grad()
    def encode(self, picture: Tensor, book: int) -> Tensor:
        """Latent (1, dimensions, *size(height, width)) for a codebook, float32.

        Args:
            picture: (1, 3, height, width) in 0..1; edges are repeated outwards.
        """
        padded = to_multiple(picture, self.downscale)
        channels = self._entries[book].shape[1]
        return self._tiled(lambda x: self._networks.encode_tile(2 * x - 1, book), padded, channels, (self.downscale, 1))

    @torch.no_grad()
    def costs(self, latents: Tensor, book: int) -> NDArray[np.float32] | Indices:
        """Cost of each entry of a codebook at each position of a latent (1, dimensions, h, w): (h, w, entries).

        These are squared distances, in the mean one of the nearest entries. Where all entries cost the same bits, these
        are no reason to take another than the nearest one: what is returned are the indices of those, (h, w).
        """
        if isinstance(self.prior, EquallyLikely):
            return self._nearest(latents, book)
        parts = self._parts(latents, book)
        found, least = np.empty((*latents.shape[2:], self.sizes[book]), np.float32), []
        for part, rows in zip(parts, np.split(found, np.cumsum([len(part) for part in parts])[:-1]), strict=True):
            distances = self._distances(part, book)
            rows[:] = distances.cpu().numpy()
            least.append(distances.amin(-1))
        found /= np.float32(torch.cat(least).mean().clamp_min(1e-6).item())
        return found

    def _nearest(self, latents: Tensor, book: int) -> Indices:
        """Indices (h, w) of the nearest entries."""
        found = torch.cat([self._distances(part, book).argmin(-1) for part in self._parts(latents, book)])
        return found.cpu().numpy().astype(np.int32)

    def _parts(self, latents: Tensor, book: int) -> tuple[Tensor, ...]:
        """Points (h, w, dimensions) of a few rows each, whose distances from all entries take little memory."""
        points = latents[0].permute(1, 2, 0)
        parts: tuple[Tensor, ...] = points.split(max(1, AT_ONCE // (points.shape[1] * self.sizes[book])))
        return parts

    def _distances(self, points: Tensor, book: int) -> Tensor:
        """Squared distances of points (h, w, dimensions) from all entries, (h, w, entries)."""
        return squared_distances(points, self._entries[book])

    @torch.no_grad()
    def decode(self, indices: Indices, book: int, height: int, width: int, scale: int = 1) -> Tensor:
        """Picture (1, 3, height / scale, width / scale), sides rounded up, float32, not clamped.

        Args:
            indices: (h, w) = size(height, width), of entries of a codebook; those that are not known, which are -1, are
                filled in with what is likely there.
            scale: 1, 2, 4 or 8, by how much the picture is made smaller.
        """
        latents, common = self._networks.latents(indices, book), math.gcd(scale, self.downscale)
        scales = 1, self.downscale // common
        made = self._tiled(lambda x: self._networks.decode_tile(x, book, common), latents, 3, scales)
        return shrunk(made[:, :, : -(-height // common), : -(-width // common)] / 2 + 0.5, scale // common)

    def _tiled(
        self, function: Callable[[Tensor], Tensor], source: Tensor, channels: int, scales: tuple[int, int]
    ) -> Tensor:
        """Apply one of the networks in tiles: see `tiled`."""
        tile, overlap = self._networks.tile // self.downscale, OVERLAP // self.downscale
        with reduced_precision(self.device):
            return tiled(function, source, channels, scales, tile, overlap).float()

    def mend(self, indices: Indices, book: int) -> Indices:
        """Indices (h, w) with likely ones in place of those that are not known, which are -1."""
        return self._networks.mend(indices, book)


def _prior(model: Model, networks: Codebooks) -> AnyPrior:
    """The model's own, or that of models without one."""
    if isinstance(networks, Vq):
        return model_file.loaded(vq.parts(model.config), model).prior
    return EquallyLikely(networks.sizes)


@lru_cache(maxsize=2)
def on_device(model: Model, device: torch.device) -> VectorQuantised:
    """The networks of a model on a device; those of the last calls are kept, as making them takes a while."""
    with computing(device):  # or whatever the first caller set would stay for all others
        return VectorQuantised(model, device)
