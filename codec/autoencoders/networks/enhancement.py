"""Enhancement layer of a learned transform: what its decoder leaves of a picture, in a discrete cosine transform.

A latent has fewer numbers than its picture has samples, so however finely it is quantised, some of the picture is
missing. Below some lambda files therefore have a second latent, that of the difference: patches of 8 x 8 pixels in a
cosine transform of three axes of colour. It is orthonormal, and errors of the picture are as great as those of symbols.
A progressive prior in integers codes it like the first one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders.networks.coding_order import PRESETS
from codec.autoencoders.networks.gains import Gains
from codec.autoencoders.networks.integer_prior import IntegerPrior
from codec.autoencoders.networks.limits import MAX_WIDTH, whole
from codec.autoencoders.networks.transform_config import PATCH, PIXELS, check_lambdas
from codec.entropy.layers import Proven

PRESET = PRESETS["normal"]  # order of coding
COLOURS = ((1, 1, 1), (1, 0, -1), (1, -2, 1))  # axes, not yet of length 1
FREQUENCIES = sorted(product(range(PATCH), repeat=2), key=lambda f: (sum(f), f))  # along rows' and columns' axis


@dataclass(frozen=True)
class Config:
    """Shape of the layer.

    Attributes:
        hidden: channels of the prior's networks.
        knots: lambdas for which there are gains and distributions, evenly spaced in log lambda.
        lambdas: least and greatest of them, for distortions that are squared errors of pictures in 0..1. Below the
            greatest, files have the layer, and the first latent is that of the greatest.
    """

    hidden: int = 128
    knots: int = 6
    lambdas: tuple[float, float] = (5e-6, 1e-3)

    def __post_init__(self) -> None:
        whole("hidden", self.hidden, 1, MAX_WIDTH)
        whole("knots", self.knots, 2, 256)
        object.__setattr__(self, "lambdas", check_lambdas(self.lambdas))


class Enhancement(Proven):
    """Gains and prior of a layer, made without numbers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.gains = Gains(config.knots, PIXELS)
        self.prior = IntegerPrior(PRESET, PIXELS, config.knots, config.hidden)


def basis() -> NDArray[np.float32]:
    """Orthonormal functions of a patch, (PIXELS, PIXELS), in float32: each row is one, by `pixel_unshuffle`'s channels.

    In the order of `FREQUENCIES`, for each of them the axes of colour in theirs.
    """
    place = np.arange(PATCH)
    cosines = np.cos(math.pi / PATCH * (place + 0.5) * place[:, None])  # (frequency, place)
    cosines *= math.sqrt(2 / PATCH)
    cosines[0] /= math.sqrt(2)
    colours = COLOURS / np.linalg.norm(COLOURS, axis=1, keepdims=True)
    rows = [np.einsum("c,y,x->cyx", colour, cosines[v], cosines[u]) for v, u in FREQUENCIES for colour in colours]
    return np.stack(rows).reshape(PIXELS, PIXELS).astype(np.float32)
