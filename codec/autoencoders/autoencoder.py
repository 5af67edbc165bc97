"""An autoencoder at work: pictures of any size to normalised latents and back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.autoencoders.errors import ModelError
from codec.autoencoders.model_file import Model, build
from codec.autoencoders.networks.interface import Networks
from codec.autoencoders.tiles import tiled
from codec.device import computing, reduced_precision, to_device

OVERLAP = 128  # pixels that neighbouring tiles share: about as far as convolutions see
LEAST = 64  # pixels to which smaller pictures are extended: models know photos, not single samples


class Autoencoder:
    """A model on a device. Computes in bfloat16 on GPUs, in float32 elsewhere unless its caller reduces that.

    Attributes:
        model: the model whose networks these are.
        device: on which it computes.
        downscale: pixels for one sample of the latent, along each axis.
        channels: of the latent.
        tile: side of the tiles in which larger pictures are coded, in pixels.
        quick: whether the decoder can be run many times for one picture.

    Raises:
        ModelError: the model is none of an autoencoder.
        ImportError: it needs an extra that is not installed.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        self.model, self.device = model, device
        networks = build(model)
        if not isinstance(networks, Networks):
            raise ModelError(
                f"model {model.name} is of kind {model.architecture!r}, no autoencoder: name another model"
            )
        self._networks = to_device(networks, device)
        self.downscale, self.channels = networks.downscale, networks.channels
        self._mean, self._scale = (
            torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (model.mean, model.scale)
        )
        self.tile, self.quick = networks.tile, networks.quick or device.type == "cuda"

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the latent of a picture of this size."""
        return -(-height // self.downscale), -(-width // self.downscale)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Normalised latents, float32.

        Args:
            pictures: (batch, 3, height, width) in 0..1, of any height and width; the last rows and columns are
                repeated up to a multiple of `downscale`.

        Returns:
            (batch, channels, *latent_size(height, width)), in which equal error costs about equal distortion.
        """
        rows, columns = self.latent_size(*pictures.shape[2:])
        size = (max(n, self._least) * self.downscale for n in (rows, columns))
        padded = _extend(pictures.to(self.device, torch.float32), *size)
        with self._precision():
            features = self._tiled(self._networks.encode_tile, padded, self._networks.features, (self.downscale, 1))
            latents = self._networks.encode_global(features).float()
        return (latents[:, :, :rows, :columns] - self._mean) * self._scale

    def decode(self, latents: Tensor, height: int, width: int) -> Tensor:
        """Pictures (batch, 3, height, width), float32, in 0..1 but for small excursions; differentiable in `latents`.

        Args:
            latents: (batch, channels, *latent_size(height, width)), as `encode` gives them.
        """
        raw = latents.to(self.device, torch.float32) / self._scale + self._mean
        raw = _extend(raw, *(max(n, self._least) for n in raw.shape[2:]))
        with self._precision():
            features = self._networks.decode_global(raw)
            made = self._tiled(self._networks.decode_tile, features, 3, (1, self.downscale))
        return made[:, :, :height, :width].float()

    def _tiled(
        self, function: Callable[[Tensor], Tensor], source: Tensor, channels: int, scales: tuple[int, int]
    ) -> Tensor:
        return tiled(function, source, channels, scales, self.tile // self.downscale, OVERLAP // self.downscale)

    @property
    def _least(self) -> int:
        return -(-LEAST // self.downscale)

    def _precision(self) -> AbstractContextManager[None]:
        return reduced_precision(self.device) if self.device.type == "cuda" else nullcontext()


@lru_cache(maxsize=2)
def on_device(model: Model, device: torch.device) -> Autoencoder:
    """The autoencoder of a model on a device; those of the last calls are kept, as making one takes a while."""
    with computing(device):  # or whatever the first caller set would stay for all others
        return Autoencoder(model, device)


def _extend(x: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last row and column up to this size."""
    if x.shape[2:] == (height, width):
        return x
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]), mode="replicate")
