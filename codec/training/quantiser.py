"""Autoencoder and codebooks as they are trained, each picture with a codebook of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from codec.autoencoders.networks.transform_config import DOWNSCALE
from codec.autoencoders.networks.vq import Quantised, squared_distances
from codec.blocks import to_multiple
from codec.training.index_prior import of_others


class Quantiser(Quantised):
    """Encoder, decoder and codebooks, for batches of pictures in 0..1."""

    def encode(self, pictures: Tensor, books: Tensor) -> Tensor:
        """Latents (batch, dimensions, ceil(h / 16), ceil(w / 16)), not quantised, float32.

        Args:
            pictures: (batch, 3, h, w) in 0..1; edges are repeated outwards.
            books: (batch,), int64, index of each one's codebook.
        """
        latents: Tensor = self.encoder(2 * to_multiple(pictures, DOWNSCALE) - 1, self.chosen(books))
        return latents.float()

    def decode(self, latents: Tensor, books: Tensor, height: int, width: int) -> Tensor:
        """Pictures (batch, 3, height, width), float32, in 0..1 but for small excursions."""
        pictures: Tensor = self.decoder(latents, self.chosen(books))
        return pictures[:, :, :height, :width].float() / 2 + 0.5

    def distances(self, latents: Tensor, books: Tensor) -> Tensor:
        """Squared distances (batch, h, w, entries of all codebooks); infinite to those of other codebooks."""
        other = of_others(self.config.starts, books)[:, None, None]
        return squared_distances(latents.permute(0, 2, 3, 1), self.entries).masked_fill(other, torch.inf)

    def quantised(self, latents: Tensor, books: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest entries (batch, dimensions, h, w), and their places among those of all codebooks (batch, h, w)."""
        places = self.distances(latents, books).argmin(-1)
        return self.entries[places].permute(0, 3, 1, 2), places
