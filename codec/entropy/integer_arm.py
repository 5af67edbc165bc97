"""The probability model in integers: exactly what `codec.overfit.arm` approximates in floats.

Numbers are integers, held in float64, whose sums of products are exact below 2**53, in any order and with any
instructions; the bounds below keep them there. So int64 arithmetic on any machine gives the same results.

    weights     w * 2**12, |w| < 2**8            samples     |x| < 2**14
    hidden      h * 2**12, 0 <= h <= 2**15       products    < 2**5 * 2**27 * 2**20 = 2**52
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.entropy import tables
from codec.entropy.coder import LIMIT

Whole = NDArray[np.float64]  # integers below 2**53

WEIGHT_BITS = 12
WEIGHT_LIMIT = 1 << (8 + WEIGHT_BITS)  # bound on a weight, as an integer; the identity is added to it
MAX_CONTEXTS = 31
_ONE = 1 << WEIGHT_BITS
_HIDDEN_MAX = 1 << (15 + WEIGHT_BITS)


@dataclass(frozen=True)
class IntegerARM:
    """Networks of two hidden residual layers and a stabiliser, one for each of some planes.

    All weights are integers in units of 2**-12, with a first axis over planes: (n, contexts, contexts) for the
    hidden layers, (n, contexts) for their biases, (n, 2, contexts) for output and stabiliser, (n, 2) for their bias.
    """

    hidden1: Whole
    hidden1_bias: Whole
    hidden2: Whole
    hidden2_bias: Whole
    output: Whole
    stabiliser: Whole
    output_bias: Whole

    def __post_init__(self) -> None:
        identity = _ONE * np.eye(self.hidden1.shape[-1])
        object.__setattr__(self, "hidden1", self.hidden1 + identity)
        object.__setattr__(self, "hidden2", self.hidden2 + identity)
        object.__setattr__(self, "hidden1_bias", self.hidden1_bias[..., None])
        object.__setattr__(self, "hidden2_bias", self.hidden2_bias[..., None] * _ONE)
        object.__setattr__(self, "stabiliser", self.stabiliser * _ONE)
        object.__setattr__(self, "output_bias", self.output_bias[..., None] * _ONE)

    def __call__(self, contexts: Whole) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Distributions of m samples of each plane: mean in 1/16 and index of the scale, (n, m) each.

        Args:
            contexts: (n, contexts, m).
        """
        hidden = self.hidden1 @ contexts + self.hidden1_bias
        np.clip(hidden, 0, _HIDDEN_MAX, out=hidden)
        hidden = self.hidden2 @ hidden + self.hidden2_bias
        hidden *= 1 / _ONE
        np.floor(hidden, out=hidden)
        np.clip(hidden, 0, _HIDDEN_MAX, out=hidden)
        output = self.output @ hidden + self.stabiliser @ contexts + self.output_bias
        # Now in units of 2**-24: round the mean to 1/16, the log-scale to 1/8.
        mean = np.floor(output[:, 0] * 2.0**-20 + 0.5)
        scale = np.floor(output[:, 1] * 2.0**-21 + 0.5) - tables.LOG_SCALE_MIN_EIGHTHS
        bound = 16 * LIMIT
        return np.clip(mean, -bound, bound).astype(np.int64), np.clip(scale, 0, tables.SCALES - 1).astype(np.int64)
