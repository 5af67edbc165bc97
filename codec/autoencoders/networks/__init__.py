"""The kinds of networks that there are, and how they are built for a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.model import Model, check_shapes
from codec.autoencoders.networks import kl, residual, tiny
from codec.autoencoders.networks.base import Networks


@dataclass(frozen=True)
class Architecture:
    """A kind of networks.

    Attributes:
        build: makes them from a model's `config`, with any weights; raises KeyError, TypeError or ValueError if the
            configuration makes no sense.
        tile: side in pixels of the tiles in which large pictures are coded: what memory allows.
        quick: whether its decoder is small enough to be run many times for one picture, without a GPU.
    """

    build: Callable[[Mapping[str, Any]], Networks]
    tile: int
    quick: bool


ARCHITECTURES = {
    "base": Architecture(lambda config: residual.Residual(residual.Config(**config)), tile=1024, quick=True),
    "tiny": Architecture(lambda config: tiny.Tiny(tiny.Config(**config)), tile=512, quick=True),
    "kl": Architecture(kl.build, tile=512, quick=False),
}


def build(model: Model) -> Networks:
    """The networks of a model, with its weights in float32, on the CPU.

    Raises:
        ModelFileError: the architecture is not known, or configuration and weights do not fit it.
        ImportError: the architecture needs an extra that is not installed.
    """
    if model.architecture not in ARCHITECTURES:
        raise ModelFileError(f"model {model.name} is of kind {model.architecture!r}: update pillow-clric to use it")
    try:
        with torch.device("meta"):  # no memory is taken before it is known to fit
            networks = ARCHITECTURES[model.architecture].build(model.config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"model {model.name} has a configuration that makes no sense: {error}") from error
    check_shapes(model.networks, networks.state_dict(), f"model {model.name}")
    if not len(model.mean) == len(model.scale) == networks.channels:
        raise ModelFileError(f"model {model.name} needs mean and scale of {networks.channels} channels")
    networks.load_state_dict({name: tensor.float() for name, tensor in model.networks.items()}, assign=True)
    return networks.requires_grad_(False).eval()
