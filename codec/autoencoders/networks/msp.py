"""Models of the learned transform with priors in integers: all that profile `msp` needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from codec.autoencoders.networks.integer_prior import LOG_LIMIT, IntegerPrior, check_bound, undefined
from codec.autoencoders.networks.limits import MAX_WIDTH, whole
from codec.autoencoders.networks.progressive_prior import PRESETS
from codec.autoencoders.networks.transform import Config, Decoder, Encoder
from codec.entropy.layers import Proven


class Gains(Proven):
    """Logarithms of the gains, by knot and channel, (knots, channels), in 1 / `integer_prior.LOG`."""

    log: Tensor

    def __init__(self, knots: int, channels: int) -> None:
        super().__init__({"log": undefined(knots, channels)})

    def prove(self) -> None:
        check_bound("logarithms of gains", self.log, LOG_LIMIT)


class Msp(nn.Module):
    """Encoder and decoder in floating point; gains and a prior for each preset in integers.

    Args:
        config: of the transform.
        presets: names among `PRESETS`.
        hidden: channels of the priors' networks.
    """

    def __init__(self, config: Config, presets: list[str], hidden: int) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.gains = Gains(config.knots, config.latent)
        self.prior = nn.ModuleDict(
            {name: IntegerPrior(PRESETS[name], config.latent, config.knots, hidden) for name in presets}
        )


def build(config: Mapping[str, Any]) -> Msp:
    """The networks of a model's configuration, without numbers.

    Raises:
        KeyError, TypeError, ValueError: it makes no sense.
    """
    presets = list(config["presets"])
    unknown = [name for name in presets if name not in PRESETS]
    if unknown or not presets:
        raise ValueError(f"its presets must be of {', '.join(PRESETS)}, not {presets}")
    return Msp(Config(**config["transform"]), presets, whole("hidden", config["hidden"], 1, MAX_WIDTH))
