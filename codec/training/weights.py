"""Weights of overfitted functions as a module that is trained, and as integers, as files have them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from codec.entropy.integer_arm import WEIGHT_BITS


class Weights(nn.Module):
    """Weights by name. A name may have a dot in it, as no parameter's may: it is an underscore there."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {name: name.replace(".", "_") for name in weights}
        for name, w in weights.items():
            self.register_parameter(self.names[name], nn.Parameter(w))

    def named(self) -> dict[str, Tensor]:
        return {name: self.get_parameter(own) for name, own in self.names.items()}


def whole(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as integers of 16 bits, in units of 2**-12, on the CPU.

    Raises:
        ValueError: one is larger than that can hold.
    """
    limit = 2 ** (15 - WEIGHT_BITS)
    numbers = {name: (w * 2**WEIGHT_BITS).round() for name, w in weights.items()}
    for name, w in numbers.items():
        if not (w.abs() < limit * 2**WEIGHT_BITS).all():
            raise ValueError(f"weights {name} are not all within {limit}, more than a file can hold: train again")
    return {name: w.to(torch.int16).cpu().contiguous() for name, w in numbers.items()}
