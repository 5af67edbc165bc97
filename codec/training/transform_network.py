"""The learned transform as it is trained: encoder and decoder, with gains and modulations for every lambda.

Its linear path starts as a Karhunen-Loeve transform, so it has only to learn what no linear transform can do.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.networks.transform import Decoder, Encoder, spread
from codec.autoencoders.networks.transform_config import DOWNSCALE, PATCH, Config
from codec.blocks import to_multiple
from codec.entropy.tables import HIGH_RATE_SLOPE

STEP = 2 * math.sqrt(3 / HIGH_RATE_SLOPE)  # best step by the root of lambda, at high rates, for samples in -1..1


class Transform(nn.Module):
    """Encoder and decoder, with the gains and modulations by which they serve every lambda."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        low, high = (math.log(bound) for bound in config.lambdas)
        knots = torch.linspace(low, high, config.knots)
        self.log_gain = nn.Parameter((-math.log(STEP) - knots / 2)[:, None].repeat(1, config.latent))

    def knot_weights(self, lambdas: Tensor) -> Tensor:
        """Weight of each knot at each lambda: (batch,) to (batch, knots)."""
        return knot_weights(lambdas, self.config.lambdas, self.config.knots)

    def gains(self, lambdas: Tensor) -> Tensor:
        """Gain of each channel: (batch,) to (batch, latent, 1, 1)."""
        return spread(self.knot_weights(lambdas) @ self.log_gain).exp()

    def encode(self, pictures: Tensor, lambdas: Tensor) -> Tensor:
        """Latents, not yet multiplied by gains.

        Args:
            pictures: (batch, 3, height, width) in 0..1, of any size from 1 x 1 on; edges are repeated outwards.
            lambdas: (batch,)

        Returns:
            (batch, latent, ceil(height / 16), ceil(width / 16)) in float32.
        """
        latents: Tensor = self.encoder(2 * to_multiple(pictures, DOWNSCALE) - 1, self.knot_weights(lambdas))
        return latents.float()

    def decode(self, latents: Tensor, lambdas: Tensor, height: int, width: int) -> Tensor:
        """Pictures (batch, 3, height, width) in float32, in 0..1 but for small excursions.

        Args:
            latents: (batch, latent, ceil(height / 16), ceil(width / 16)), after their gains were divided out.
            lambdas: (batch,)
        """
        pictures: Tensor = self.decoder(latents, self.knot_weights(lambdas))
        return pictures[:, :, :height, :width].float() / 2 + 0.5

    @torch.no_grad()
    def start_as_klt(self, pictures: Tensor) -> Tensor:
        """Make the linear path the Karhunen-Loeve transform of patches of 16 x 16, best for the fewest channels.

        Args:
            pictures: (batch, 3, 16 h, 16 w) in 0..1, as many as possible.

        Returns:
            Variance of each channel of the latent (latent,), falling.
        """
        encoder, decoder = self.encoder, self.decoder
        patches = F.pixel_unshuffle(2 * pictures - 1, PATCH)
        embedding = _principal(patches)[1][: self.config.fine]
        embedded = F.conv2d(patches, embedding[:, :, None, None])
        variances, basis = _principal(F.pixel_unshuffle(embedded, 2))
        basis = basis[: self.config.latent]
        rows, inputs = basis.shape
        for layer in (encoder.embed, encoder.down, encoder.project, decoder.expand, decoder.up, decoder.unembed):
            # A little noise, so that channels that are not needed yet can become useful.
            layer.weight.normal_(std=0.01 * layer.weight.shape[1] ** -0.5)
        encoder.embed.weight[: len(embedding), :, 1, 1] += embedding
        encoder.down.weight[:rows, :inputs] += basis
        encoder.project.weight[:rows, :rows] += torch.eye(rows, device=basis.device)
        decoder.expand.weight[:rows, :rows] += torch.eye(rows, device=basis.device)
        decoder.up.weight[:inputs, :rows] += basis.T
        decoder.unembed.weight[:, : len(embedding), 1, 1] += embedding.T
        return variances[:rows]


def knot_weights(lambdas: Tensor, bounds: tuple[float, float], knots: int) -> Tensor:
    """Weight of each of some knots, evenly spaced in log lambda, for linear interpolation between them.

    Args:
        lambdas: (batch,); beyond the bounds it is as there.
        bounds: lambdas of the first and the last knot.

    Returns:
        (batch, knots)
    """
    low, high = (math.log(bound) for bound in bounds)
    position = ((lambdas.log() - low) / (high - low)).clamp(0, 1) * (knots - 1)
    return F.relu(1 - (position[:, None] - torch.arange(knots, device=position.device)).abs())


def _principal(features: Tensor) -> tuple[Tensor, Tensor]:
    """Second moments along the principal axes of features (batch, channels, h, w), falling, and these axes as rows."""
    samples = features.transpose(0, 1).flatten(1)
    moments, axes = torch.linalg.eigh(samples @ samples.T / samples.shape[1])
    return moments.flip(0), axes.T.flip(0)
