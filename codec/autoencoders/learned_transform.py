"""A learned transform at work: latents of pictures of any size, at any quality, and pictures of latents.

What reads small pictures on the CPU needs no torch, which takes longer to be imported than these to be decoded.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.model_file import Model, loaded, shaped
from codec.autoencoders.networks import msp, transform_numpy
from codec.autoencoders.networks.enhancement import Enhancement, basis
from codec.autoencoders.networks.gains import gains_at, knots_at
from codec.autoencoders.networks.integer_prior import STEPS, Conditioned, IntegerPrior
from codec.autoencoders.networks.patch_layout import Floats, means, of_patches, to_patches
from codec.autoencoders.networks.transform_config import DOWNSCALE, PATCH, TILE
from codec.blocks import bands
from codec.entropy.layers import Integers
from codec.runtime import cached_property, shared

if TYPE_CHECKING:
    from codec.autoencoders.transform_networks import TransformNetworks


class Layer:
    """Something that is coded in symbols at any of some qualities.

    A position is a quality, from 0 (the best) to `positions`.

    Args:
        lambdas: at both ends.
        log_gain: (knots, channels), logarithms of what symbols are greater than what they stand for.

    Attributes:
        positions: the last one.
        channels: of the symbols.
    """

    def __init__(self, lambdas: tuple[float, float], log_gain: Integers) -> None:
        self._log_gain = log_gain
        self._knots, self.channels = map(int, log_gain.shape)
        self._bounds = math.log(lambdas[0]), math.log(lambdas[1])
        self.positions = STEPS * (self._knots - 1)

    def position(self, log_lambda: float) -> int:
        """The position nearest to a lambda, distortion in squared errors of samples in 0..1 for a bit per pixel."""
        low, high = self._bounds
        return round(min(max((log_lambda - low) / (high - low), 0.0), 1.0) * self.positions)

    def log_lambda(self, position: int) -> float:
        """Logarithm of lambda at a position."""
        low, high = self._bounds
        return low + (high - low) * position / self.positions

    def _gains(self, position: int) -> Floats:
        """Of each channel, (channels,)."""
        return gains_at(self._log_gain, position)


class EnhancementLayer(Layer):
    """Remainder that the transform leaves of pictures: see `codec.autoencoders.networks.enhancement`."""

    def __init__(self, networks: Enhancement) -> None:
        super().__init__(networks.config.lambdas, networks.gains.log)
        self._prior, self._basis = networks.prior, basis()

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of a picture of this size."""
        return -(-height // PATCH), -(-width // PATCH)

    def prior(self, position: int) -> Conditioned:
        """Distributions of symbols at a position."""
        return self._prior.at(position, self._log_gain)

    def encode(self, differences: Floats, position: int) -> Floats:
        """Symbols, not yet rounded, (*size(height, width), channels) of differences (3, height, width)."""
        patches, gains = to_patches(differences), self._gains(position)

        def part(band: slice) -> None:
            patches[band] = patches[band] @ self._basis.T * gains

        shared(part, bands(*patches.shape[:2]))
        return patches

    def decode(self, symbols: Floats, position: int, height: int, width: int, scale: int = 1) -> Floats:
        """Differences (3, height / scale, width / scale), sides rounded up, of symbols: see `LearnedTransform`."""
        kernel, gains = means(self._basis.T, scale), self._gains(position)
        (rows, columns, _), side = symbols.shape, PATCH // scale
        made = np.empty((3, rows * side, columns * side), np.float32)

        def part(band: slice) -> None:
            coefficients: Floats = symbols[band] / gains
            made[:, side * band.start : side * band.stop] = of_patches(coefficients @ kernel.T)

        shared(part, bands(rows, columns))
        return made[:, : -(-height // scale), : -(-width // scale)]


class LearnedTransform(Layer):
    """A model of kind `msp` on a device.

    Args:
        device: name of the device, as `codec.runtime.resolved` gives it.

    Attributes:
        model: whose networks these are.
        presets: names of the orders in which latents can be coded.
        has_grain: whether texture can be drawn beside pictures.
    """

    def __init__(self, model: Model, device: str) -> None:
        if model.architecture != "msp":
            raise ModelFileError(
                f"model {model.name} is of kind {model.architecture!r}, and profile msp needs one of kind 'msp'"
            )
        self._parts = shaped(msp.parts, model)
        self._config = self._parts.config
        super().__init__(self._config.lambdas, loaded(self._parts.gains, model, "gains.").log)
        self.model, self._device, self.presets = model, device, tuple(self._parts.prior)
        self.has_grain = self._config.grain > 0
        self._priors: dict[str, IntegerPrior] = {}

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the latent of a picture of this size."""
        return -(-height // DOWNSCALE), -(-width // DOWNSCALE)

    def prior(self, preset: str, position: int) -> Conditioned:
        """Distributions for a preset at a position.

        Raises:
            ModelFileError: the model has none for this preset, or one whose results would not be exact.
        """
        return self.integer_prior(preset).at(position, self._log_gain)

    def integer_prior(self, preset: str) -> IntegerPrior:
        """The prior for a preset, which is loaded when it is asked for. Raises as `prior`."""
        if preset not in self.presets:
            raise ModelFileError(
                f"model {self.model.name} has no prior for preset {preset}, but for {', '.join(self.presets)}"
            )
        if preset not in self._priors:
            self._priors[preset] = loaded(self._parts.prior[preset], self.model, f"prior.{preset}.")
        return self._priors[preset]

    @cached_property
    def enhancement(self) -> EnhancementLayer | None:
        """The layer that files of the best qualities have, too; None if the model has none.

        Raises:
            ModelFileError: its results would not be exact.
        """
        layer = self._parts.enhancement
        return None if layer is None else EnhancementLayer(loaded(layer, self.model, "enhancement."))

    @cached_property
    def networks(self) -> TransformNetworks:
        """Encoder and decoder in torch."""
        import torch

        from codec.autoencoders.transform_networks import TransformNetworks

        return TransformNetworks(self.model, self._log_gain, torch.device(self._device))

    @cached_property
    def _decoder(self) -> transform_numpy.Decoder:
        return shaped(lambda _: transform_numpy.Decoder(self.model.arrays, self._config), self.model)

    def decode(
        self, symbols: Floats, position: int, height: int, width: int, scale: int = 1, grain: bool = False
    ) -> Floats:
        """Picture (3, height / scale, width / scale), sides rounded up, not clamped.

        On the CPU NumPy makes what is not larger than a tile, in float32. All else is made by `networks`.

        Args:
            symbols: (*size(height, width), channels)
            scale: 1, 2, 4 or 8, by how much the picture is made smaller.
            grain: whether texture is drawn beside what is coded, if the model has that.
        """
        grain = grain and self.has_grain
        if self._device != "cpu" or max(symbols.shape[:2]) > TILE:
            return self.networks.picture(symbols, position, height, width, scale, grain)
        made = self._decoder(symbols / self._gains(position), knots_at(position, self._knots), scale, grain)
        return made[:, : -(-height // scale), : -(-width // scale)] * np.float32(0.5) + np.float32(0.5)


@lru_cache(maxsize=2)
def on_device(model: Model, device: str) -> LearnedTransform:
    """The transform of a model on a device; those of the last calls are kept, as making one takes a while."""
    return LearnedTransform(model, device)
