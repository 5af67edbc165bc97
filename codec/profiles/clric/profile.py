"""CLRIC: a function overfitted to the latent of a pretrained autoencoder, which the file names by its hash.

Where the model has a universal function, the fit starts from it and from the rounded latent, so that no iteration at
all gives a good file already; where it has none, a function is fitted to the latent first. Then the grids are fitted
to what the picture looks like, through the autoencoder's decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from codec.container import Container, Header
from codec.overfit.sections import function_sections
from codec.profiles.base import Decoder, Encoder, Profile
from codec.profiles.model_options import ModelOptions, check_model, model_option

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Options of this profile."""

    model: str = model_option("patch", "autoencoder")


class Clric(Profile[Options]):
    """Pictures of any mode; alpha is coded apart."""

    id = 1
    name = "clric"
    options = Options
    cost = 10

    def encoder(self, options: Options, device: torch.device) -> Encoder:
        from codec.profiles.clric.encoder import ClricEncoder

        return ClricEncoder(options, device)

    def decoder(self, header: Header, device: str) -> Decoder:
        check_model(header)
        from codec.profiles.clric.decoder import ClricDecoder

        return ClricDecoder(header.model, device)

    def check(self, container: Container) -> None:
        function_sections(container)
        check_model(container.header)


PROFILE = Clric()
