"""CLRIC: a function overfitted to the latent of a pretrained autoencoder, which the file names by its hash.

Where the model has a universal function, the fit starts from it and from the rounded latent, so that no iteration at
all gives a good file already; where it has none, a function is fitted to the latent first. Then the grids are fitted
to what the picture looks like, through the autoencoder's decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from codec.container import Container, CorruptError, Section
from codec.profiles import PAPER, Profile, Settings, function_sections
from codec.profiles.pixels import to_pixels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codec.autoencoders.autoencoder import Autoencoder
    from codec.autoencoders.model import Model
    from codec.profiles.latents import LatentFits
    from codec.profiles.targets import Fitted

# What a bit per pixel may cost, in the distortion of `codec.profiles.appearance`, at `codec.profiles.QUALITIES`.
LOG_LAMBDA = (1.7, 1.1, -1.17, -3.98, -4.38)

# Iterations by effort: to the latent alone, which only models without a universal function need, and to appearance.
ITERATIONS = {
    1: (60, 0), 2: (100, 4), 3: (150, 6), 4: (200, 10), 5: (300, 16), 6: (400, 24), 7: (600, 32), 8: (1000, 40),
    9: (2000, 48),
}  # fmt: skip


class Clric(Profile):
    """Pictures of any mode; alpha is coded apart.

    Args:
        model: to encode with.
    """

    id = 1
    name = "clric"
    footprint = 2000

    def __init__(self, model: Model | None = None) -> None:
        self._model = model

    def prepared(self, settings: Settings) -> Clric:
        from codec.autoencoders import store

        return Clric(store.load(settings.model))

    @property
    def model(self) -> bytes:
        return b"" if self._model is None else self._model.prefix

    def together(self, settings: Settings) -> bool:
        return super().together(settings) and self._model is not None and self._model.function is not None

    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], settings: Settings, room: Sequence[int] | None = None
    ) -> list[dict[Section, bytes]]:
        from codec.autoencoders.autoencoder import on_device
        from codec.device import computing, resolve
        from codec.profiles.targets import encoded

        assert self._model is not None
        device, log_lambda = resolve(settings.device), settings.log_lambda(LOG_LAMBDA)
        with computing(device):
            autoencoder = on_device(self._model, device)
            if settings.effort == PAPER:
                return _as_published(autoencoder, pictures[0], log_lambda, settings).sections()
            return encoded(_fits(autoencoder, pictures, settings, sized=room is not None), log_lambda, room).sections()

    def check(self, container: Container) -> None:
        function_sections(container)
        if not container.header.model:
            raise CorruptError("file names no model: it is no picture of this profile")

    def decode(self, container: Container, device: str, scale: int = 1) -> NDArray[np.uint8]:
        self.check(container)
        header, sections = container.header, function_sections(container)
        import torch

        from codec.autoencoders import store
        from codec.autoencoders.autoencoder import on_device
        from codec.autoencoders.sketch import decode
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
            picture = decode(autoencoder, latents, header.height, header.width, scale)[0].cpu()
        return to_pixels(picture.numpy() if header.channels == 3 else picture.mean(0, keepdim=True).numpy())


def _fits(
    autoencoder: Autoencoder, pictures: Sequence[NDArray[np.uint8]], settings: Settings, *, sized: bool
) -> LatentFits:
    from codec.profiles.latents import Iterations, OwnFits, UniversalFits
    from codec.profiles.targets import ROUNDS

    first, second = ITERATIONS[int(settings.effort)]
    iterations = Iterations(first, second if autoencoder.quick else 0)
    kind = OwnFits if autoencoder.model.function is None else UniversalFits
    total = iterations.total(own_weights=kind.own_weights, rounds=ROUNDS * sized)
    bounds = min(LOG_LAMBDA), max(LOG_LAMBDA)
    return kind(autoencoder, pictures, iterations, bounds, settings.seed, settings.counting(total))


def _as_published(autoencoder: Autoencoder, pixels: NDArray[np.uint8], log_lambda: float, settings: Settings) -> Fitted:
    """What the paper does: a function of the latent alone, from random beginnings."""
    import torch

    from codec.overfit.fit import PAPER_SCHEDULE
    from codec.profiles.pixels import to_tensor
    from codec.profiles.sight import Trials
    from codec.profiles.starts import from_nothing
    from codec.profiles.targets import Fitted

    picture = to_tensor([pixels], autoencoder.device).expand(-1, 3, -1, -1)
    generator = torch.Generator(autoencoder.device).manual_seed(settings.seed)
    step, count = Trials.on(autoencoder, picture).step(math.exp(log_lambda)), settings.counting(PAPER_SCHEDULE.total)
    start = from_nothing(autoencoder.encode(picture), step, PAPER_SCHEDULE, generator, count)
    return Fitted(start.function, [start.weights])
