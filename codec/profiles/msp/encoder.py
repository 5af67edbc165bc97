"""Encoder: a transform, and a latent that is rounded and coded in one go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.autoencoders import store
from codec.autoencoders.learned_transform import on_device, to_symbols
from codec.container import Section
from codec.device import computing
from codec.profiles.base import Budget, Encoder, Goal, Progress, Sections
from codec.profiles.msp import bitstream, latent_coding
from codec.profiles.msp.bitstream import Head
from codec.profiles.msp.profile import Options
from codec.tensors import to_tensor

# Squared error of samples in 0..1 that one bit per pixel may save, at `codec.profiles.base.QUALITIES`.
LOG_LAMBDA = (-2.4, -3.3, -5.6, -8.6, -10.4)


class MspEncoder(Encoder):
    """Encoder with the model that the options name."""

    bytes_per_pixel = 100
    batchable = False

    def __init__(self, options: Options, device: torch.device) -> None:
        self.options = options
        self.transform = on_device(store.load(options.model), device)
        self.model = self.transform.model.prefix

    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], goal: Goal, progress: Progress | None = None
    ) -> list[Sections]:
        with computing(self.transform.device):
            return [self._encoded(picture, goal) for picture in pictures]

    def _encoded(self, pixels: NDArray[np.uint8], goal: Goal) -> Sections:
        picture = to_tensor([pixels], self.transform.device).expand(-1, 3, -1, -1)
        assert not isinstance(goal, Budget)
        position = self.transform.position(goal.log_lambda(LOG_LAMBDA))
        return {Section.GRIDS: self._section(picture, position)}

    def _section(self, picture: Tensor, position: int) -> bytes:
        head = Head("normal", position)
        latent = to_symbols(self.transform.encode(picture, position))
        stream, _ = latent_coding.encode(self.transform.prior(head.preset, position), latent)
        return bitstream.write(head, stream)
