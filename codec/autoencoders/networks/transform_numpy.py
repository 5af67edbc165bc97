"""The learned transform's decoder in NumPy: it makes a small picture in less time than it takes to import torch.

It computes what `transform.Decoder` does, in float32, channels last. Convolutions are matrix products, or sums of
shifted products where each channel is on its own, in bands of rows that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders.networks.grain import FUNCTIONS, MAX_STRENGTH, functions, noise
from codec.autoencoders.networks.patch_layout import Floats, means, of_patches
from codec.autoencoders.networks.transform_config import MAX_GATE, MAX_RMS, PATCH, PIXELS, Config
from codec.blocks import slices
from codec.runtime import shared

POSITIONS = 1024  # of a band


class Weights:
    """Weights of layers, in float32, by names that begin with a prefix.

    Raises:
        ValueError: one is not there, or of another shape than is asked for.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], prefix: str) -> None:
        self._arrays, self._prefix = arrays, prefix

    def take(self, name: str, *shape: int) -> Floats:
        """One tensor."""
        found = self._arrays.get(self._prefix + name)
        if found is None or found.shape != shape:
            raise ValueError(f"weights {self._prefix}{name} are not there, or not of shape {shape}")
        return found.astype(np.float32)

    def pointwise(self, name: str, outputs: int, inputs: int) -> Pointwise:
        return Pointwise(self.take(f"{name}.weight", outputs, inputs).T, self.take(f"{name}.bias", outputs))

    def spatial(self, name: str, outputs: int, inputs: int) -> Floats:
        """Weights of a 3 x 3 convolution and, as the last one of each output, its bias: (outputs, 9 * inputs + 1)."""
        rows = self.take(f"{name}.weight", outputs, inputs, 3, 3).transpose(0, 2, 3, 1).reshape(outputs, -1)
        return np.concatenate([rows, self.take(f"{name}.bias", outputs)[:, None]], 1)

    def blocks(self, name: str, count: int, channels: int, expansion: int) -> list[Block]:
        return [Block(Weights(self._arrays, f"{self._prefix}{name}.{i}."), channels, expansion) for i in range(count)]


class Pointwise:
    """A linear layer of the channels at each position."""

    def __init__(self, weight: Floats, bias: Floats) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Floats) -> Floats:
        """(..., inputs) to (..., outputs)."""
        made: Floats = x.reshape(-1, x.shape[-1]) @ self._weight
        made += self._bias
        return made.reshape(*x.shape[:-1], -1)


class Block:
    """A `transform.Block`."""

    def __init__(self, weights: Weights, channels: int, expansion: int) -> None:
        self._mix_in = weights.pointwise("mix_in", channels, channels)
        self._mix = weights.spatial("mix", channels, 1).T
        self._mix_out = weights.pointwise("mix_out", channels, channels)
        self._gate_in = weights.pointwise("gate_in", 2 * expansion * channels, channels)
        self._gate_out = weights.pointwise("gate_out", channels, expansion * channels)

    def __call__(self, x: Floats) -> Floats:
        """(h, w, channels) to the same."""
        made, inner = np.empty_like(x), np.empty_like(x)

        def within(band: slice) -> None:
            inner[band] = _silu(self._mix_in(x[band]))

        def around(part: tuple[slice, list[Floats]]) -> None:
            band, taps = part
            made[band] = self._gated(x[band] + self._mix_out(self._mixed(taps)))

        shared(within, bands(x))
        shared(around, neighbours(inner))
        return made

    def _mixed(self, taps: list[Floats]) -> Floats:
        """Each channel at a position and those around it, weighed."""
        made: Floats = taps[0] * self._mix[0]
        made += self._mix[-1]
        for tap, weight in zip(taps[1:], self._mix[1:], strict=False):
            made += tap * weight
        return made

    def _gated(self, x: Floats) -> Floats:
        gate, value = np.split(self._gate_in(x), 2, -1)
        gates = _silu(gate)
        np.minimum(gates, MAX_GATE, out=gates)
        gates *= value
        x += self._gate_out(gates)
        x *= np.minimum(MAX_RMS / np.sqrt(np.square(x).mean(-1, keepdims=True)), 1)
        return x


class Grain:
    """A `transform.Grain`."""

    def __init__(self, weights: Weights, config: Config) -> None:
        self._inner = weights.pointwise("inner", config.grain, config.fine)
        self._strength = weights.pointwise("strength", FUNCTIONS, config.grain)
        self._modulation = weights.take("modulation", config.knots, config.grain)
        self._condition = weights.take("condition", config.knots, FUNCTIONS)

    def __call__(self, features: Floats, knots: Floats, noise: Floats, scale: int) -> Floats:
        """Texture (h, w, PIXELS / scale**2) of features (h, w, fine) and noise (h, w, FUNCTIONS)."""
        inner = _silu(self._inner(features) * (1 + knots @ self._modulation))
        strengths = np.exp(self._strength(inner) + knots @ self._condition)
        drawn: Floats = np.minimum(strengths, np.float32(MAX_STRENGTH)) * noise @ means(functions().T, scale).T
        return drawn


class Decoder:
    """Latents to pictures.

    Args:
        arrays: weights of a model, those of the decoder among them.

    Raises:
        ValueError: they are not those of the configuration.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], config: Config) -> None:
        weights, (fine, coarse) = Weights(arrays, "decoder."), config.decoder
        self._expand = weights.pointwise("expand", config.coarse, config.latent)
        self._modulation = weights.take("modulation", config.knots, config.coarse)
        self._coarse = weights.blocks("coarse", coarse, config.coarse, config.expansion)
        self._channels = config.fine
        self._up = weights.pointwise("up", 4 * config.fine, config.coarse)
        self._fine = weights.blocks("fine", fine, config.fine, config.expansion)
        self._unembed = weights.spatial("unembed", PIXELS, config.fine)
        self._grain = Grain(Weights(arrays, "decoder.grain."), config) if config.grain else None

    @np.errstate(all="ignore")  # of weights of a file made to do harm; exponentials may be infinite, too
    def __call__(self, latents: Floats, knots: Floats, scale: int = 1, grain: bool = False) -> Floats:
        """(h, w, latent), weights of knots (knots,) to (3, 16 h / scale, 16 w / scale), in -1..1 but for excursions.

        Args:
            scale: 1, 2, 4 or 8: the result is as if means were taken over so many rows and columns of the picture.
            grain: whether texture is drawn beside what is coded.
        """
        x = np.concatenate(shared(lambda band: self._expand(latents[band]), bands(latents)))
        x *= 1 + knots @ self._modulation
        for block in self._coarse:
            x = block(x)
        x = self._finer(x)
        for block in self._fine:
            x = block(x)
        return self._pixels(x, scale, knots if grain else None)

    def _finer(self, x: Floats) -> Floats:
        """Features (h, w, coarse) to (2 h, 2 w, fine)."""
        height, width, _ = x.shape
        made = np.empty((height, 2, width, 2, self._channels), np.float32)

        def part(band: slice) -> None:
            made[band] = self._up(x[band]).reshape(-1, width, self._channels, 2, 2).transpose(0, 3, 1, 4, 2)

        shared(part, bands(x))
        return made.reshape(2 * height, 2 * width, -1)

    def _pixels(self, x: Floats, scale: int, drawn: Floats | None) -> Floats:
        """Features (h, w, fine) to (3, 8 h / scale, 8 w / scale).

        Args:
            drawn: weights of knots by which texture is drawn, or None if none is.
        """
        rows = means(self._unembed, scale)
        unembed, side = Pointwise(rows[:, :-1].T, rows[:, -1]), PATCH // scale
        made = np.empty((3, side * x.shape[0], side * x.shape[1]), np.float32)

        def part(found: tuple[slice, list[Floats]]) -> None:
            band, taps = found
            patches = unembed(np.concatenate(taps, -1))
            if drawn is not None:
                assert self._grain is not None
                own = noise(range(band.start, band.stop), range(x.shape[1]))
                patches += self._grain(x[band], drawn, own, scale)
            made[:, side * band.start : side * band.stop] = of_patches(patches)

        shared(part, neighbours(x))
        return made


def bands(x: Floats) -> Iterator[slice]:
    """Rows of features (h, w, channels) that are computed together."""
    return slices(len(x), max(1, POSITIONS // x.shape[1]))


def neighbours(x: Floats) -> Iterator[tuple[slice, list[Floats]]]:
    """Bands of features (h, w, channels), and what is at the 3 x 3 positions around theirs; edges go on outwards."""
    width, padded = x.shape[1], np.pad(x, ((1, 1), (1, 1), (0, 0)), "edge")
    for band in bands(x):
        rows = [padded[band.start + dy : band.stop + dy] for dy in range(3)]
        yield band, [row[:, dx : dx + width] for row in rows for dx in range(3)]


def _silu(x: Floats) -> Floats:
    made = np.exp(-x)
    made += 1
    return np.divide(x, made, out=made)
