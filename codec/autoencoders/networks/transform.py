"""The networks of the learned transform: everything at 1/8 and 1/16 of the picture's resolution, for any rate.

Patches of 8 x 8 pixels are embedded once, and from there on all layers are 1 x 1 or depthwise convolutions, which CPUs
and GPUs alike run at nearly the speed of plain matrix products (Jia et al., "Towards practical real-time neural video
compression", CVPR 2025). The layers that change the resolution form a linear path from pixels to latent and back,
beside which the residual blocks start as zero: a network that starts as a KLT has only to learn what no linear
transform can do (`codec.training.transform_network`).

One network serves all rates: the latent is multiplied by a gain for each channel before it is rounded (Cui et al.,
"Asymmetric gained deep image compression", CVPR 2021), and features at 1/16 are modulated, both by lambda.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.networks.grain import FUNCTIONS, MAX_STRENGTH, functions
from codec.autoencoders.networks.patch_layout import means
from codec.autoencoders.networks.transform_config import AT_ONCE, MAX_GATE, MAX_RMS, PATCH, PIXELS, Config


class Pointwise(nn.Linear):
    """A 1 x 1 convolution as a matrix product, which is faster where grids are small and weights are many."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) to (batch, outputs, h, w); channels_last stays so, without a copy."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Spatial(nn.Conv2d):
    """A 3 x 3 convolution that repeats edges outwards: with zeros there, a picture of one colour would get a frame."""

    def __init__(self, inputs: int, outputs: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, 3, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) to (batch, outputs, h, w)"""
        if torch.is_grad_enabled():  # torch.compile cannot differentiate what is faster
            x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
            return super().forward(torch.cat([x[..., :1], x, x[..., -1:]], 3))
        return super().forward(F.pad(x, (1, 1, 1, 1), mode="replicate"))


class Block(nn.Module):
    """Spatial mixing by a depthwise convolution, then a gated layer at each position; both are added to the input.

    Gates are bounded, so a block's output grows no faster than its input; and what is longer than any photo's features
    is shortened. Products of unbounded factors would be polynomials of a high degree after many blocks, which explode
    where pictures are unlike those of the training.
    """

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.mix_in = Pointwise(channels, channels)
        self.mix = Spatial(channels, channels, groups=channels)
        self.mix_out = Pointwise(channels, channels)
        self.gate_in = Pointwise(channels, 2 * expansion * channels)
        self.gate_out = Pointwise(expansion * channels, channels)
        for layer in (self.mix_in, self.mix, self.gate_in):
            initialise(layer)
        for layer in (self.mix_out, self.gate_out):  # a block starts as the identity
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) to the same; without gradients, in its memory, which must be channels_last."""
        in_place = not torch.is_grad_enabled()
        mixed = self.mix_out(self.mix(F.silu(self.mix_in(x), inplace=in_place)))
        if in_place:
            x += mixed
            for some in x.permute(0, 2, 3, 1).view(-1, x.shape[1]).split(AT_ONCE):
                some += self._gated(some)
                some *= _shortening(some)
            return x
        x = (x + mixed).permute(0, 2, 3, 1)
        x = x + self._gated(x)
        return (x * _shortening(x)).permute(0, 3, 1, 2)

    def _gated(self, x: Tensor) -> Tensor:
        """(..., channels) to the same, each position on its own."""
        gate, value = F.linear(x, self.gate_in.weight, self.gate_in.bias).chunk(2, -1)
        return F.linear(F.silu(gate).clamp_max(MAX_GATE) * value, self.gate_out.weight, self.gate_out.bias)


def _shortening(x: Tensor) -> Tensor:
    """Factors (..., 1) by which features (..., channels) are as long as any photo's, at most."""
    return (MAX_RMS * x.square().mean(-1, keepdim=True).rsqrt()).clamp_max(1)


def initialise(layer: Spatial | Pointwise) -> None:
    """Random weights that keep the variance, and no bias; none where there is no memory for them.

    There, torch would import a second's worth of modules for random numbers.
    """
    if layer.weight.is_meta:
        return
    nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Stack(nn.Sequential):
    """Blocks of one width."""

    def __init__(self, channels: int, count: int, expansion: int) -> None:
        super().__init__(*(Block(channels, expansion) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) to the same; without gradients, the input's memory may be taken for it."""
        if not torch.is_grad_enabled():
            x = x.float().contiguous(memory_format=torch.channels_last)
        for block in self:
            x = block(x)
        return x


class Encoder(nn.Module):
    """Pictures in -1..1 to latents."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        fine, coarse = config.encoder
        self.embed = Spatial(PIXELS, config.fine)
        self.fine = Stack(config.fine, fine, config.expansion)
        self.down = Pointwise(4 * config.fine, config.coarse)
        self.coarse = Stack(config.coarse, coarse, config.expansion)
        self.project = Pointwise(config.coarse, config.latent)
        self.modulation = nn.Parameter(torch.zeros(config.knots, config.coarse))
        for layer in (self.embed, self.down, self.project):
            initialise(layer)

    def forward(self, pictures: Tensor, knots: Tensor) -> Tensor:
        """(batch, 3, 16 h, 16 w), weights of knots (batch, knots) to (batch, latent, h, w)."""
        x = self.fine(self.embed(F.pixel_unshuffle(pictures, PATCH)))
        x = self.coarse(self.down(F.pixel_unshuffle(x, 2)) * (1 + spread(knots @ self.modulation)))
        latents: Tensor = self.project(x)
        return latents


class Grain(nn.Module):
    """Strength of texture at each frequency, from a decoder's features: see `codec.autoencoders.networks.grain`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inner = Pointwise(config.fine, config.grain)
        self.strength = Pointwise(config.grain, FUNCTIONS)
        self.modulation = nn.Parameter(torch.zeros(config.knots, config.grain))
        self.condition = nn.Parameter(torch.zeros(config.knots, FUNCTIONS))
        initialise(self.inner)
        for tensor in (self.strength.weight, self.strength.bias):
            nn.init.zeros_(tensor)

    def forward(self, features: Tensor, knots: Tensor) -> Tensor:
        """Logarithms of strengths (batch, FUNCTIONS, h, w) of features (batch, fine, h, w), for samples in -1..1."""
        inner = F.silu(self.inner(features) * (1 + spread(knots @ self.modulation)))
        found: Tensor = self.strength(inner) + spread(knots @ self.condition)
        return found

    def patches(self, features: Tensor, knots: Tensor, noise: Tensor, scale: int) -> Tensor:
        """Texture (batch, PIXELS / scale**2, h, w) of noise (batch, FUNCTIONS, h, w)."""
        drawn = self(features, knots).exp().clamp_max(MAX_STRENGTH) * noise
        kernel = means(torch.from_numpy(functions().T.copy()).to(drawn), scale)
        return F.conv2d(drawn, kernel[:, :, None, None])


class Decoder(nn.Module):
    """Latents to pictures, in -1..1 but for small excursions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        fine, coarse = config.decoder
        self.expand = Pointwise(config.latent, config.coarse)
        self.coarse = Stack(config.coarse, coarse, config.expansion)
        self.up = Pointwise(config.coarse, 4 * config.fine)
        self.fine = Stack(config.fine, fine, config.expansion)
        self.unembed = Spatial(config.fine, PIXELS)
        self.modulation = nn.Parameter(torch.zeros(config.knots, config.coarse))
        self.grain = Grain(config) if config.grain else None
        for layer in (self.expand, self.up, self.unembed):
            initialise(layer)

    def forward(self, latents: Tensor, knots: Tensor, scale: int = 1, noise: Tensor | None = None) -> Tensor:
        """(batch, latent, h, w), weights of knots (batch, knots) to (batch, 3, 16 h / scale, 16 w / scale).

        Args:
            scale: 1, 2, 4 or 8: the result is as if means were taken over so many rows and columns of the picture.
            noise: (batch, FUNCTIONS, 2 h, 2 w), of which texture is made, if there shall be any.
        """
        features = self.features(latents, knots)
        patches = self.patches(features, scale)
        if noise is not None:
            assert self.grain is not None
            patches = patches + self.grain.patches(features, knots, noise, scale)
        return F.pixel_shuffle(patches, PATCH // scale)

    def features(self, latents: Tensor, knots: Tensor) -> Tensor:
        """(batch, latent, h, w), weights of knots (batch, knots) to (batch, fine, 2 h, 2 w), which make patches."""
        x = self.coarse(self.expand(latents) * (1 + spread(knots @ self.modulation)))
        fine: Tensor = self.fine(F.pixel_shuffle(self.up(x), 2))
        return fine

    def patches(self, features: Tensor, scale: int = 1) -> Tensor:
        """Patches (batch, PIXELS / scale**2, h, w) of features (batch, fine, h, w)."""
        if scale == 1:
            patches: Tensor = self.unembed(features)
            return patches
        rows = torch.cat([self.unembed.weight.flatten(1), self.unembed.get_parameter("bias")[:, None]], 1)
        rows = means(rows, scale)
        kernel = rows[:, :-1].reshape(-1, *self.unembed.weight.shape[1:])
        return F.conv2d(F.pad(features, (1, 1, 1, 1), mode="replicate"), kernel, rows[:, -1])


class Coders(nn.Module):
    """Encoder and decoder alone: models of kind `msp` have the gains in integers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)


def spread(values: Tensor) -> Tensor:
    """(batch, channels) to (batch, channels, 1, 1)."""
    return values[:, :, None, None]
