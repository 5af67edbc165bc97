"""Models of the learned transform with priors in integers: all that profile `msp` needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from codec.autoencoders.networks import enhancement
from codec.autoencoders.networks.gains import Gains
from codec.autoencoders.networks.integer_prior import IntegerPrior
from codec.autoencoders.networks.limits import MAX_WIDTH, whole
from codec.autoencoders.networks.progressive_prior import PRESETS
from codec.autoencoders.networks.transform import Config, Decoder, Encoder


class Msp(nn.Module):
    """Encoder and decoder in floating point; gains and a prior for each preset in integers; and a layer beyond these.

    Args:
        config: of the transform.
        presets: names among `PRESETS`.
        hidden: channels of the priors' networks.
        layer: shape of the enhancement layer, or None if there is none.
    """

    def __init__(
        self, config: Config, presets: list[str], hidden: int, layer: enhancement.Config | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.gains = Gains(config.knots, config.latent)
        self.prior = nn.ModuleDict(
            {name: IntegerPrior(PRESETS[name], config.latent, config.knots, hidden) for name in presets}
        )
        self.enhancement = None if layer is None else enhancement.Enhancement(layer)


def build(config: Mapping[str, Any]) -> Msp:
    """The networks of a model's configuration, without numbers.

    Raises:
        KeyError, TypeError, ValueError: it makes no sense.
    """
    presets = list(config["presets"])
    unknown = [name for name in presets if name not in PRESETS]
    if unknown or not presets:
        raise ValueError(f"its presets must be of {', '.join(PRESETS)}, not {presets}")
    layer = enhancement.Config(**config["enhancement"]) if "enhancement" in config else None
    return Msp(Config(**config["transform"]), presets, whole("hidden", config["hidden"], 1, MAX_WIDTH), layer)
