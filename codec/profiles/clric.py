"""CLRIC: a function overfitted to the latent of a pretrained autoencoder, which the file names by its hash.

Where the model has a universal function, the fit starts from it and from the rounded latent, so that no iteration at
all gives a good file already; where it has none, a function is fitted to the latent first. Then the grids are fitted
to what the picture looks like, through the autoencoder's decoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from codec.container import Container, CorruptError, Section
from codec.profiles import PAPER, Coded, Profile, Settings, function_sections
from codec.profiles.pixels import channels, to_pixels, to_samples

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from codec.autoencoders.autoencoder import Autoencoder
    from codec.profiles.starts import Start

# What a bit per pixel may cost, in the distortion of `codec.profiles.appearance`, at `codec.profiles.QUALITIES`.
LOG_LAMBDA = (1.7, 1.1, -1.17, -3.98, -4.38)

# Iterations by effort: to the latent alone, which only models without a universal function need, and to appearance.
ITERATIONS = {
    1: (60, 0), 2: (100, 4), 3: (150, 6), 4: (200, 10), 5: (300, 16), 6: (400, 24), 7: (600, 32), 8: (1000, 40),
    9: (2000, 48),
}  # fmt: skip


class Clric(Profile):
    """Greyscale and RGB."""

    id = 1
    name = "clric"

    def encode(self, pixels: NDArray[np.uint8], settings: Settings) -> Coded:
        import torch

        from codec.autoencoders import store
        from codec.autoencoders.autoencoder import on_device
        from codec.device import computing, resolve
        from codec.overfit import pipeline

        model, device = store.load(settings.model), resolve(settings.device)
        with computing(device):
            picture = torch.from_numpy(to_samples(pixels)).to(device).unsqueeze(0).expand(-1, 3, -1, -1)
            found = _fit(on_device(model, device), picture, settings)
            sections = pipeline.write(found.function, found.weights)
        return Coded(dict(zip((Section.WEIGHTS, Section.GRIDS), sections, strict=True)), model.prefix)

    def decode(self, container: Container, device: str) -> NDArray[np.uint8]:
        header = container.header
        count = channels(header.mode)
        sections = function_sections(container)
        if not header.model:
            raise CorruptError("file names no model: it is no picture of this profile")
        import torch

        from codec.autoencoders import store
        from codec.autoencoders.autoencoder import on_device
        from codec.device import computing, resolve
        from codec.overfit import pipeline
        from codec.profiles.starts import step_of, universal_of

        model, place = store.find(header.model), resolve(device)
        with computing(place), torch.no_grad():
            autoencoder = on_device(model, place)
            size = *autoencoder.latent_size(header.height, header.width), autoencoder.channels
            output, weights = pipeline.decode(
                *sections, size, place, universal_of(model), truncated=container.truncated
            )
            latents = output * step_of(weights.origin, place)
            picture = autoencoder.decode(latents, header.height, header.width)[0].cpu()
        return to_pixels(picture.numpy() if count == 3 else picture.mean(0, keepdim=True).numpy())


def _fit(autoencoder: Autoencoder, picture: Tensor, settings: Settings) -> Start:
    """A function for a picture (1, 3, height, width)."""
    import torch

    from codec.overfit.fit import PAPER_SCHEDULE, Schedule
    from codec.profiles import starts
    from codec.profiles.sight import suitable_step

    lam = settings.lam(LOG_LAMBDA)
    generator = torch.Generator(picture.device).manual_seed(settings.seed)
    latent, universal = autoencoder.encode(picture), starts.universal_of(autoencoder.model)
    if settings.effort == PAPER:
        _, step = suitable_step(autoencoder, picture, lam)
        return starts.from_nothing(latent, step, PAPER_SCHEDULE, generator, settings.counting(PAPER_SCHEDULE.total))
    first, second = ITERATIONS[int(settings.effort)]
    second = second if autoencoder.quick else 0
    if universal.knots:
        count = settings.counting(second)
        start = starts.from_universal(universal, latent, lam)
    else:
        schedule = Schedule(0, first, first // 5)
        count = settings.counting(schedule.total + second + starts.settling(second))
        sight, step = suitable_step(autoencoder, picture, lam)
        start = starts.from_latent(latent, sight, step, schedule, generator, count)
    return starts.refined(start, autoencoder, picture, lam, second, generator, count)
