"""MSP: a learned transform's quantised latent under a multi-scale progressive prior. It codes at once.

The transform's gains are those of the quality, so one model serves all of them. The prior computes in integers, so a
file's symbols are the same on any machine; the decoder that makes a picture of them computes in floating point. On
request the latent is coded in packets, any of which can be lost: the prior tells what is expected in their place. The
best qualities have an enhancement layer: what the transform leaves of the picture, under a prior of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from codec.container import Container, Header, Section
from codec.profiles.base import Decoder, Encoder, Profile
from codec.profiles.model_options import ModelOptions, check_model, model_option
from codec.profiles.options import TUNES, Choice, effort_option, option
from codec.profiles.packets import resilience_option

if TYPE_CHECKING:
    import torch

# Squared error of samples in 0..1 that one bit per pixel may save, at `codec.profiles.base.QUALITIES`.
LOG_LAMBDA = (-2.4, -3.3, -5.6, -8.6, -12.0)


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Options of this profile."""

    effort: int | str = effort_option(3)  # the most without overfitting
    model: str = model_option("transform", "transform")
    resilience: int = resilience_option()
    tune: str = option(
        TUNES[0], Choice(" or ".join(f'"{tune}"' for tune in TUNES), TUNES),
        '"looks" has readers draw fine texture where it is lost: sharper, and less exact. The size is the same.',
    )  # fmt: skip


class Msp(Profile[Options]):
    """Pictures of any mode; alpha is coded apart."""

    id = 2
    name = "msp"
    options = Options
    sections = (Section.GRIDS, Section.PACKETS, Section.ENHANCEMENT)
    cost = 1

    def encoder(self, options: Options, device: torch.device) -> Encoder:
        from codec.profiles.msp.encoder import MspEncoder

        return MspEncoder(options, device)

    def decoder(self, header: Header, device: str) -> Decoder:
        check_model(header)
        from codec.profiles.msp.decoder import MspDecoder

        return MspDecoder(header.model, device)

    def check(self, container: Container) -> None:
        from codec.profiles.msp.bitstream import PACKETS, read_enhancement, read_head

        check_model(container.header)
        if Section.PACKETS in container.sections:
            PACKETS.check(container)
        else:
            read_head(container.sections.get(Section.GRIDS, b""))
            if Section.ENHANCEMENT in container.sections:
                read_enhancement(container.sections[Section.ENHANCEMENT])


PROFILE = Msp()
