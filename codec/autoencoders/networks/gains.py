"""Gains of latents that are coded: what their channels are multiplied by before they are rounded."""

from __future__ import annotations

from codec.autoencoders.networks.integer_prior import LOG_LIMIT, check_bound
from codec.entropy.layers import Integers, Proven


class Gains(Proven):
    """Logarithms of the gains, by knot and channel, (knots, channels), in 1 / `integer_prior.LOG`."""

    log: Integers

    def __init__(self, knots: int, channels: int) -> None:
        super().__init__(log=(knots, channels))

    def prove(self) -> None:
        check_bound("logarithms of gains", self.log, LOG_LIMIT)
