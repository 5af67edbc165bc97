"""CLRIC: a function overfitted to the latent of a pretrained autoencoder, which the file names by its hash.

Where the model has a universal function, the fit starts from it and from the rounded latent, so that no iteration at
all gives a good file already; where it has none, a function is fitted to the latent first. Then the grids are fitted
to what the picture looks like, through the autoencoder's decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

from codec.container import Container, CorruptError, Header
from codec.overfit.sections import function_sections
from codec.profiles import options
from codec.profiles.base import Decoder, Encoder, Profile
from codec.profiles.options import Text, option

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Options(options.Options):
    """Options of this profile.

    Raises:
        MissingModelError: there is no such model.
    """

    model: str = option(
        "base", Text("a name, or a file or folder", (str, PathLike)),
        "The autoencoder: its name or hash in the store, or where it is. Who reads the file needs it too.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        from codec.autoencoders import store

        store.check(self.model)


class Clric(Profile[Options]):
    """Pictures of any mode; alpha is coded apart."""

    id = 1
    name = "clric"
    options = Options
    cost = 10

    def encoder(self, options: Options, device: torch.device) -> Encoder:
        from codec.profiles.clric.encoder import ClricEncoder

        return ClricEncoder(options, device)

    def decoder(self, header: Header, device: torch.device) -> Decoder:
        _check_model(header)
        from codec.profiles.clric.decoder import ClricDecoder

        return ClricDecoder(header.model, device)

    def check(self, container: Container) -> None:
        function_sections(container)
        _check_model(container.header)


def _check_model(header: Header) -> None:
    if not header.model:
        raise CorruptError("file names no model: it is no picture of this profile")


PROFILE = Clric()
