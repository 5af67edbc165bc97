"""Lambda-conditioned weights, a model's universal function: for every lambda one that suits all photos, to fit from.

They are stored for some lambdas, as integers, and interpolated between them in integers. NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.container import CorruptError
from codec.entropy.integer_arm import WEIGHT_BITS
from codec.overfit.spec import FEATURES_BITS, FIELDS, FLAGS, LEVELS_BITS, Spec

# Distortions whose lambdas descriptions state, by what they are called there, in squared errors: at these, an encoder
# takes functions for about the same rate.
DISTORTIONS = {"perceptual": 1 / 19, "pictures": 1.0}
NUMBER_BITS = 10
LAST = (1 << NUMBER_BITS) - 1  # numbers from 1 to this one lie between the knots, evenly in log lambda


@dataclass(frozen=True, eq=False)
class LambdaConditionedWeights:
    """Lambda-conditioned weights: a universal function.

    Attributes:
        shape: fields of `Spec` but for height, width and outputs.
        lambdas: least and greatest, for squared errors of samples in 0..1 and bits per pixel.
        knots: by name of the weight, (knots, ...), integers in units of 2**-12; the first is for the least
            lambda. None at all stand for a model that has no universal function.
        steps: quantisation steps (knots, outputs), likewise: the function's outputs are multiplied by them.
    """

    shape: Mapping[str, Any]
    lambdas: tuple[float, float]
    knots: Mapping[str, NDArray[np.int16]]
    steps: NDArray[np.int16]

    def spec(self, height: int, width: int, outputs: int) -> Spec:
        """The function's shape.

        Raises:
            CorruptError: the model has no universal function.
        """
        if not self.knots:
            raise CorruptError("the file needs its model's universal function, and the model has none: it is damaged")
        return Spec(height, width, outputs, **self.shape)

    def number(self, lam: float) -> int:
        """Number, 1 to `LAST`, by which files name the weights for this lambda, or for the nearest there is."""
        low, high = (math.log(bound) for bound in self.lambdas)
        part = (math.log(lam) - low) / (high - low)
        return 1 + round(min(max(part, 0.0), 1.0) * (LAST - 1))

    def weights(self, number: int) -> dict[str, NDArray[np.int64]]:
        """Weights in units of 2**-12, for a number from 1 to `LAST`."""
        return {name: _between(knots, number) for name, knots in self.knots.items()}

    def step(self, number: int) -> NDArray[np.float32]:
        """Quantisation step of each channel of the latent, (outputs,), for a number from 1 to `LAST`."""
        steps: NDArray[np.float32] = (_between(self.steps, number) * 2.0**-WEIGHT_BITS).astype(np.float32)
        return steps


def read_description(told: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[float, float]]:
    """Shape and lambdas, as `LambdaConditionedWeights` has them, from a model's description.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: there are none, or they make no sense.
    """
    low, high = map(float, told["lambdas"])
    if not 0 < low < high < math.inf:
        raise ValueError(f"lambdas must be two rising positive numbers, not {told['lambdas']!r}")
    unit = DISTORTIONS[told.get("distortion", "perceptual")]
    return {**told["shape"], "features": tuple(told["shape"]["features"])}, (unit * low, unit * high)


def tensor_shapes(told: Mapping[str, Any], outputs: int, knots: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a universal function by name, "steps" among them; all are int16.

    Args:
        told: its description: models come from anywhere.

    Raises:
        KeyError, TypeError, ValueError, OverflowError, FormatError: the description makes no sense.
    """
    spec = Spec(1, 1, outputs, **read_description(told)[0])
    numbers = [(getattr(spec, name), bits, least) for name, bits, least in FIELDS]
    numbers += [(count, FEATURES_BITS[True], 1) for count in spec.features] + [(len(spec.features), LEVELS_BITS, 1)]
    if any(type(n) is not int for n, _, _ in numbers) or any(type(getattr(spec, name)) is not bool for name in FLAGS):
        raise TypeError("a number of the shape is no whole number, or a flag is none")
    if any(n not in range(least, least + 2**bits) for n, bits, least in numbers) or knots < 1:
        raise ValueError("a number of the shape, or of knots, is out of range")
    spec.check()
    return {name: (knots, *shape) for name, shape in {"steps": (outputs,), **spec.weight_shapes}.items()}


NONE = LambdaConditionedWeights({}, (1.0, 2.0), {}, np.zeros((0, 0), np.int16))


def _between(knots: NDArray[np.int16], number: int) -> NDArray[np.int64]:
    """Linear between the two knots on either side, rounded."""
    below, part = divmod((number - 1) * (len(knots) - 1), LAST - 1)
    first, second = (knots[min(i, len(knots) - 1)].astype(np.int64) for i in (below, below + 1))
    between: NDArray[np.int64] = (first * (LAST - 1 - part) + second * part + (LAST - 1) // 2) // (LAST - 1)
    return between
