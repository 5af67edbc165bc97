"""MSP: a learned transform's quantised latent under a multi-scale progressive prior. It codes at once.

The transform's gains are those of the quality, so one model serves all of them. The prior computes in integers, so a
file's symbols are the same on any machine; the decoder that makes a picture of them computes in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

from codec.container import Container, CorruptError, Header, Section
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
        "transform", Text("a name, or a file or folder", (str, PathLike)),
        "The transform: its name or hash in the store, or where it is. Who reads the file needs it too.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        from codec.autoencoders import store

        store.check(self.model)


class Msp(Profile[Options]):
    """Pictures of any mode; alpha is coded apart."""

    id = 2
    name = "msp"
    options = Options
    cost = 1

    def encoder(self, options: Options, device: torch.device) -> Encoder:
        from codec.profiles.msp.encoder import MspEncoder

        return MspEncoder(options, device)

    def decoder(self, header: Header, device: torch.device) -> Decoder:
        _check_model(header)
        from codec.profiles.msp.decoder import MspDecoder

        return MspDecoder(header.model, device)

    def check(self, container: Container) -> None:
        from codec.profiles.msp.bitstream import read_head

        _check_model(container.header)
        read_head(container.sections.get(Section.GRIDS, b""))


def _check_model(header: Header) -> None:
    if not header.model:
        raise CorruptError("file names no model: it is no picture of this profile")


PROFILE = Msp()
