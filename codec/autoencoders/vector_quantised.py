"""An autoencoder with codebooks at work: pictures of any size to maps of indices and back."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codec.autoencoders import model as files
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.learned_transform import tiled_latents
from codec.autoencoders.model import Model
from codec.autoencoders.networks.index_transformer import Indices
from codec.autoencoders.networks.transform import DOWNSCALE
from codec.autoencoders.networks.vq import Vq
from codec.device import computing, reduced_precision, to_device


class VectorQuantised:
    """A model of kind `vq` on a device. Networks compute in bfloat16 where that is faster.

    Attributes:
        model: whose networks these are.
        device: on which they compute.
        sizes: entries of each codebook, rising.
        prior: distributions of indices, in integers.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        networks = files.build(model)
        if not isinstance(networks, Vq):
            raise ModelFileError(
                f"model {model.name} is of kind {model.architecture!r}, and profile vq needs one of kind 'vq'"
            )
        self.model, self.device, self.sizes = model, device, networks.config.sizes
        self._encoder, self._decoder = (to_device(part, device) for part in (networks.encoder, networks.decoder))
        self._entries = [
            networks.entries[start : start + size].to(device)
            for start, size in zip(networks.config.starts, self.sizes, strict=False)
        ]
        self.prior, self._transformer = networks.prior.to(device), networks.transformer.to(device)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the map of indices of a picture of this size."""
        return -(-height // DOWNSCALE), -(-width // DOWNSCALE)

    @torch.no_grad()
    def encode(self, picture: Tensor, book: int) -> Tensor:
        """Latent (1, dimensions, *size(height, width)) for a codebook, float32.

        Args:
            picture: (1, 3, height, width) in 0..1; edges are repeated outwards.
        """
        height, width = picture.shape[2:]
        padded = F.pad(picture, (0, -width % DOWNSCALE, 0, -height % DOWNSCALE), mode="replicate")
        channels, knots = self._entries[book].shape[1], self._knots(book)
        with reduced_precision(self.device):
            latents = tiled_latents(lambda x: self._encoder(2 * x - 1, knots), padded, channels, (DOWNSCALE, 1))
        return latents.float()

    @torch.no_grad()
    def costs(self, latents: Tensor, book: int) -> NDArray[np.float32]:
        """What each entry of a codebook costs at each position of a latent (1, dimensions, h, w): (h, w, entries).

        These are squared distances, in the mean one of the nearest entries.
        """
        entries, points = self._entries[book], latents[0].permute(1, 2, 0)
        distances = points.square().sum(-1, keepdim=True) + entries.square().sum(-1) - 2 * points @ entries.T
        usual = distances.amin(-1).mean().clamp_min(1e-6)
        return (distances / usual).cpu().numpy()

    @torch.no_grad()
    def nearest(self, latents: Tensor, book: int) -> Tensor:
        """The entries that are nearest to a latent (1, dimensions, h, w), shaped alike."""
        return self._of(self.costs(latents, book).argmin(-1), book)

    def decode(self, indices: Indices, book: int, height: int, width: int, scale: int = 1) -> Tensor:
        """Picture (1, 3, height / scale, width / scale), sides rounded up, float32, not clamped.

        Args:
            indices: (h, w) = size(height, width), of entries of a codebook.
            scale: 1, 2, 4 or 8, by how much the picture is made smaller.
        """
        with torch.no_grad():
            return self.decode_latents(self._of(indices, book), book, height, width, scale)

    def decode_latents(self, latents: Tensor, book: int, height: int, width: int, scale: int = 1) -> Tensor:
        """The same of a latent (1, dimensions, h, w), differentiable in it."""
        knots = self._knots(book)
        with reduced_precision(self.device):
            made = tiled_latents(lambda x: self._decoder(x, knots, scale), latents, 3, (1, DOWNSCALE // scale))
        return made[:, :, : -(-height // scale), : -(-width // scale)].float() / 2 + 0.5

    def _of(self, indices: NDArray[np.signedinteger], book: int) -> Tensor:
        """Entries of indices (h, w), as a latent."""
        places = torch.from_numpy(indices.astype(np.int64)).to(self.device)
        return self._entries[book][places].permute(2, 0, 1)[None]

    def mend(self, indices: Indices, book: int) -> Indices:
        """Indices (h, w) with likely ones in place of those that are not known, which are -1."""
        return self._transformer.mend(indices, book)

    def _knots(self, book: int) -> Tensor:
        return F.one_hot(torch.tensor([book], device=self.device), len(self.sizes)).float()


@lru_cache(maxsize=2)
def on_device(model: Model, device: torch.device) -> VectorQuantised:
    """The networks of a model on a device; those of the last calls are kept, as making them takes a while."""
    with computing(device):  # or whatever the first caller set would stay for all others
        return VectorQuantised(model, device)
