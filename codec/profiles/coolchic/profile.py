"""COOL-CHIC: a function overfitted to the pixels themselves. No pretrained network is needed to read it.

The base functions that its weights are differences to come with the format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from codec.container import Container, Header, Section
from codec.profiles import PAPER, Profile, Settings, function_sections
from codec.tensors import to_pixels

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from codec.profiles.coolchic.encoder import PictureFits

# Distortion of samples in 0..1 that one bit per pixel may save, at `codec.profiles.QUALITIES`.
LOG_LAMBDA = (-3.0, -3.91, -6.73, -9.1, -10.5)

# (main, settling) iterations by effort.
ITERATIONS = {
    1: (60, 20), 2: (150, 40), 3: (300, 60), 4: (600, 100), 5: (1200, 120), 6: (2000, 250), 7: (3000, 350),
    8: (6000, 600), 9: (15000, 1000),
}  # fmt: skip
# Times lambda, that of the base function which fits of at least so many iterations begin with. The lower a function's
# lambda, the more it leaves to its finest grid, and long fits add to that more easily than they take from it.
AHEAD, LONG = 3.0, 300
ANNEALING: dict[str, Any] = {"temperature": (0.5, 0.06), "noise": (0.22, 0.15), "preconditioned": True}


class CoolChic(Profile):
    """Pictures of any mode; alpha is coded apart."""

    id = 0
    name = "coolchic"
    footprint = 600

    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], settings: Settings, room: Sequence[int] | None = None
    ) -> list[dict[Section, bytes]]:
        from codec.device import computing, resolve
        from codec.rate_control import encoded

        device = resolve(settings.device)
        with computing(device):
            fits = _fits(pictures, settings, device, sized=room is not None)
            return encoded(fits, settings.log_lambda(LOG_LAMBDA), room).sections()

    def check(self, container: Container) -> None:
        from codec.overfit import bitstream

        bitstream.read_weights(function_sections(container)[0], *_size(container.header))

    def decode(self, container: Container, device: str, scale: int = 1) -> NDArray[np.uint8]:
        sections = function_sections(container)
        from codec.blocks import shrunk
        from codec.device import resolve
        from codec.overfit import pipeline

        output, _ = pipeline.decode(*sections, _size(container.header), resolve(device), truncated=container.truncated)
        return to_pixels(shrunk(output, scale)[0].cpu().numpy())


def _size(header: Header) -> tuple[int, int, int]:
    """Height, width and channels of the function's output."""
    return header.height, header.width, header.channels


def _fits(
    pictures: Sequence[NDArray[np.uint8]], settings: Settings, device: torch.device, *, sized: bool
) -> PictureFits:
    from codec.overfit.fit import PAPER_SCHEDULE, Schedule
    from codec.profiles.coolchic.encoder import PictureFits
    from codec.rate_control import ROUNDS

    if settings.effort == PAPER:
        schedule, ahead = PAPER_SCHEDULE, None
    else:
        schedule = Schedule(0, *ITERATIONS[int(settings.effort)], **ANNEALING)
        ahead = AHEAD if schedule.main >= LONG else 1.0
    total = schedule.total + sized * ROUNDS * (schedule.again + schedule.settle)
    bounds, progress = (min(LOG_LAMBDA), max(LOG_LAMBDA)), settings.counting(total)
    return PictureFits(pictures, schedule, bounds, settings.seed, progress, device, ahead)
