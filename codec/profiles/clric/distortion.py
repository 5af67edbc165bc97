"""Distortion, which fits of functions of latents minimise: of the decoded picture beside the original.

This is the latent overfitting of "Leveraging progressive model and overfitting for efficient learned image
compression". Value and gradient are made together, tile by tile, so that memory is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from codec.autoencoders.autoencoder import OVERLAP, Autoencoder
from codec.autoencoders.tiles import Span, spans
from codec.device import reduced_precision
from codec.distortion.pixels import picture_error
from codec.overfit.valid_region import ValidRegion

TILE = 768  # pixels, at most: a gradient needs more memory than decoding alone


@dataclass(frozen=True)
class Part:
    """A tile of the latent, and the part of the picture that is measured in it."""

    latent: tuple[slice, slice]
    size: tuple[int, int]  # of the tile's picture
    core: tuple[slice, slice]  # the part of it that is measured: cores of all tiles make up the picture
    place: tuple[slice, slice]  # of the core, in the picture


class PictureDistortion:
    """Distortion of pictures that are coded by an autoencoder: see `picture_error`.

    Args:
        picture: the originals, (batch, 3, height, width) in 0..1.
        region: their valid region; all of their shape by default.
        weights: of differences at each pixel, (batch, 1, height, width); 1 by default.
    """

    def __init__(
        self, autoencoder: Autoencoder, picture: Tensor, region: ValidRegion | None = None,
        weights: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.autoencoder, self.picture, self.region, self.weights = autoencoder, picture, region, weights
        times = autoencoder.downscale
        tile, overlap = min(TILE, autoencoder.tile) // times, OVERLAP // times
        lengths = zip(picture.shape[2:], autoencoder.latent_size(*picture.shape[2:]), strict=True)
        axes = [[_cut(span, length, times) for span in spans(n, tile, overlap)] for length, n in lengths]
        self.parts = [_part(row, column) for row, column in product(*axes)]

    def distortion(self, latents: Tensor) -> Tensor:
        """Distortion (batch,) of the pictures that latents decode to; differentiable in the latents."""
        found: Tensor = _Distance.apply(latents, self, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        return found

    def of_part(self, part: Part, latents: Tensor) -> Tensor:
        """Contribution (batch,) of a tile to the distortion, from its latents."""
        wanted = self.picture[:, :, *part.place]
        weights = None if self.weights is None else self.weights[:, :, *part.place]
        with reduced_precision(self.picture.device):
            made = self.autoencoder.decode(latents, *part.size)[:, :, *part.core]
        if self.region is not None:
            made = torch.where(self.region.inside[0][:, :, *part.place] > 0, made, wanted)
        positions = self.picture[0, 0].numel() if self.region is None else self.region.positions
        return picture_error(made, wanted, weights) * (wanted[0, 0].numel() / positions)


@dataclass(frozen=True)
class _Cut:
    """A tile along one axis; fields as those of `Part`."""

    latent: slice
    size: int
    core: slice
    place: slice


def _cut(span: Span, length: int, times: int) -> _Cut:
    start, stop = span.start * times, min(span.stop * times, length)
    first = start + span.fade_in // 2 * times
    last = stop - (span.fade_out - span.fade_out // 2) * times
    return _Cut(slice(span.start, span.stop), stop - start, slice(first - start, last - start), slice(first, last))


def _part(row: _Cut, column: _Cut) -> Part:
    return Part(
        (row.latent, column.latent), (row.size, column.size), (row.core, column.core), (row.place, column.place)
    )


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latents: Tensor, distortion: PictureDistortion, with_gradient: bool) -> Tensor:
        total, gradient = latents.new_zeros(len(latents)), torch.zeros_like(latents)
        for part in distortion.parts:
            tile = latents[:, :, *part.latent].detach().requires_grad_(with_gradient)
            with torch.set_grad_enabled(with_gradient):
                distance = distortion.of_part(part, tile)
            total += distance.detach()
            if with_gradient:
                gradient[:, :, *part.latent] += torch.autograd.grad(distance, tile, torch.ones_like(distance))[0]
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.view(-1, 1, 1, 1), None, None
