"""VQ: a map of indices of a codebook, coded under a prior, in packets any of which can be lost.

One model has codebooks of several sizes. Quality chooses one of these and, between two, how much a bit of an index
counts beside what the index is nearest to. What lost packets leave unknown the model fills in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from codec.container import Container, Header, Section
from codec.profiles.base import Decoder, Encoder, Profile
from codec.profiles.model_options import ModelOptions, check_model, model_option
from codec.profiles.options import effort_option
from codec.profiles.packets import Layout, resilience_option

if TYPE_CHECKING:
    import torch

PACKETS = Layout(Section.GRIDS, detail=0, sides=(32, 16, 8, 4, 2, 1))


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Options of this profile."""

    effort: int | str = effort_option(3)  # as the default profile: it makes no difference
    model: str = model_option("vq", "autoencoder with codebooks")
    resilience: int = resilience_option()


class Vq(Profile[Options]):
    """Pictures of any mode; alpha is coded apart."""

    id = 3
    name = "vq"
    options = Options
    sections = (Section.GRIDS,)
    cost = 1

    def encoder(self, options: Options, device: torch.device) -> Encoder:
        from codec.profiles.vq.encoder import VqEncoder

        return VqEncoder(options, device)

    def decoder(self, header: Header, device: str) -> Decoder:
        check_model(header)
        from codec.profiles.vq.decoder import VqDecoder

        return VqDecoder(header.model, device)

    def check(self, container: Container) -> None:
        check_model(container.header)
        PACKETS.check(container)


PROFILE = Vq()
