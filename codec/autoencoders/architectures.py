"""The kinds of models that there are, and which tensors they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from codec.autoencoders.networks import kl, msp, patch, residual, tiny, transform, vq, vqgan
from codec.autoencoders.tensor_file import Typed
from codec.entropy.layers import Proven
from codec.overfit import lambda_conditioned_weights

TensorsOf = Callable[[Any, int, Mapping[str, Typed]], Mapping[str, Typed]]


@dataclass(frozen=True)
class Architecture:
    """A kind of models. A component of a model is all its tensors whose names agree up to the first dot.

    Attributes:
        build: makes the networks of a configuration, with any weights; raises KeyError, TypeError or ValueError if the
            configuration makes no sense. Every model has the tensors of their `state_dict`: float32 stands for
            any of `FLOATS` there, int64 for any of `INTEGERS`. An autoencoder's networks are `Networks`; their models
            have a mean and a scale for each channel of the latent, too.
        integers: makes what models compute in integers, without these, if there is anything; raises as `build`.
        optional: components that a model may have, by name: it does if its description has an entry of that name.
            The function makes its tensors without values (on "meta"), by their names without the component, of this
            entry, the number of channels, and the tensors that are there; it raises as `build`, or a `FormatError`.
    """

    build: Callable[[Mapping[str, Any]], nn.Module]
    integers: Callable[[Mapping[str, Any]], Proven] | None = None
    optional: Mapping[str, TensorsOf] = field(default_factory=dict)


def _function(told: Any, channels: int, found: Mapping[str, Typed]) -> dict[str, Tensor]:
    """Tensors of a universal function, with as many knots as there are steps."""
    knots = found["steps"].shape[0] if "steps" in found else 1
    shapes = lambda_conditioned_weights.tensor_shapes(told, channels, knots)
    return {name: torch.empty(shape, dtype=torch.int16, device="meta") for name, shape in shapes.items()}


_AUTOENCODER: dict[str, TensorsOf] = {"function": _function}
ARCHITECTURES = {
    "base": Architecture(lambda config: residual.Residual(residual.Config(**config)), optional=_AUTOENCODER),
    "patch": Architecture(lambda config: patch.PatchAutoencoder(patch.Config(**config)), optional=_AUTOENCODER),
    "tiny": Architecture(lambda config: tiny.Tiny(tiny.Config(**config)), optional=_AUTOENCODER),
    "kl": Architecture(kl.build, optional=_AUTOENCODER),
    "msp": Architecture(lambda config: transform.Coders(msp.parts(config).config), msp.parts),
    "vq": Architecture(vq.build, vq.parts),
    "vqgan": Architecture(vqgan.build),
}
