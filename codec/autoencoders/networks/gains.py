"""Gains of latents that are coded: what their channels are multiplied by before they are rounded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders.networks.integer_prior import LOG, LOG_LIMIT, STEPS, between, check_bound
from codec.entropy.layers import Integers, Proven


class Gains(Proven):
    """Logarithms of the gains, by knot and channel, (knots, channels), in 1 / `integer_prior.LOG`."""

    log: Integers

    def __init__(self, knots: int, channels: int) -> None:
        super().__init__(log=(knots, channels))

    def prove(self) -> None:
        check_bound("logarithms of gains", self.log, LOG_LIMIT)


def gains_at(log_gain: Integers, position: int) -> NDArray[np.float32]:
    """Gain of each channel, (channels,), at a position among the knots of logarithms (knots, channels)."""
    return np.exp(between(log_gain, position) / LOG).astype(np.float32)


def knots_at(position: int, knots: int) -> NDArray[np.float32]:
    """Weight of each of some knots, (knots,), at a position among them, for what is linear between two."""
    weights: NDArray[np.float32] = np.maximum(0, 1 - np.abs(position / STEPS - np.arange(knots))).astype(np.float32)
    return weights
