"""COOL-CHIC: a function overfitted to the pixels themselves. No pretrained network is needed to read it.

The base functions that its weights are differences to come with the format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from codec.container import Container, Section
from codec.profiles import PAPER, Coded, Profile, Settings, function_sections
from codec.profiles.pixels import channels, to_pixels, to_samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Distortion of samples in 0..1 that one bit per pixel may save, at `codec.profiles.QUALITIES`.
LOG_LAMBDA = (-3.0, -3.91, -6.73, -9.1, -10.5)

# (warm-up, main, settling) iterations by effort.
ITERATIONS = {
    1: (5, 60, 20), 2: (10, 150, 40), 3: (20, 300, 60), 4: (30, 600, 100), 5: (40, 1200, 150),
    6: (50, 2000, 250), 7: (60, 3000, 350), 8: (80, 6000, 600), 9: (100, 15000, 1000),
}  # fmt: skip
WEIGHTS_BUDGET = 860  # bytes that a function's weights may take
WEIGHTS_BUDGET_PIXELS = 768 * 512  # for a picture of up to so many pixels; for larger ones, more in proportion


class CoolChic(Profile):
    """Greyscale and RGB."""

    id = 0
    name = "coolchic"

    def encode(self, pixels: NDArray[np.uint8], settings: Settings) -> Coded:
        import torch

        from codec.device import computing, resolve
        from codec.overfit import initial, pipeline
        from codec.overfit.bases import trained_spec
        from codec.overfit.fit import PAPER_CANDIDATES, PAPER_SCHEDULE, Schedule, fit
        from codec.overfit.quantise import quantise

        lam = settings.lam(LOG_LAMBDA)
        device = resolve(settings.device)
        generator = torch.Generator(device).manual_seed(settings.seed)
        with computing(device):
            target = torch.from_numpy(to_samples(pixels)).unsqueeze(0).to(device)
            outputs, height, width = target.shape[1:]
            budget = max(WEIGHTS_BUDGET, WEIGHTS_BUDGET * height * width // WEIGHTS_BUDGET_PIXELS)
            if settings.effort == PAPER:
                spec, schedule = trained_spec(height, width, outputs), PAPER_SCHEDULE
                candidates = [initial.random(spec, generator) for _ in range(PAPER_CANDIDATES)]
            else:
                candidates = initial.candidates(target, torch.full((1,), lam, device=device))
                schedule = Schedule(*ITERATIONS[int(settings.effort)])
            progress = settings.counting(schedule.total)
            lambdas = torch.full((1,), lam, device=device)
            function = fit(target, lambdas, candidates, schedule, generator, progress)
            [quantised] = quantise(function, target, lambdas, budget)
            weights, grids = pipeline.write(function, quantised)
        return Coded({Section.WEIGHTS: weights, Section.GRIDS: grids})

    def decode(self, container: Container, device: str) -> NDArray[np.uint8]:
        header = container.header
        size = header.height, header.width, channels(header.mode)
        sections = function_sections(container)
        from codec.device import resolve
        from codec.overfit import pipeline

        output, _ = pipeline.decode(*sections, size, resolve(device), truncated=container.truncated)
        return to_pixels(output[0].cpu().numpy())
