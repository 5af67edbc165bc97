"""Models of the learned transform with priors in integers: all that profile `msp` needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codec.autoencoders.networks import enhancement
from codec.autoencoders.networks.coding_order import PRESETS
from codec.autoencoders.networks.gains import Gains
from codec.autoencoders.networks.integer_prior import IntegerPrior
from codec.autoencoders.networks.limits import MAX_WIDTH, whole
from codec.autoencoders.networks.transform_config import Config
from codec.entropy.layers import Proven


class Parts(Proven):
    """Integers of a model: gains, and a prior for each preset; and a layer beyond these.

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
        self.gains = Gains(config.knots, config.latent)
        self.prior = {name: IntegerPrior(PRESETS[name], config.latent, config.knots, hidden) for name in presets}
        self.enhancement = None if layer is None else enhancement.Enhancement(layer)


def parts(config: Mapping[str, Any]) -> Parts:
    """The integers of a model's configuration, not loaded.

    Raises:
        KeyError, TypeError, ValueError: it makes no sense.
    """
    presets = list(config["presets"])
    unknown = [name for name in presets if name not in PRESETS]
    if unknown or not presets:
        raise ValueError(f"its presets must be of {', '.join(PRESETS)}, not {presets}")
    layer = enhancement.Config(**config["enhancement"]) if "enhancement" in config else None
    return Parts(Config(**config["transform"]), presets, whole("hidden", config["hidden"], 1, MAX_WIDTH), layer)
