"""COOL-CHIC: a function overfitted to the pixels themselves. No pretrained network is needed to read it.

The reference weights that its weights are differences to come with the format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from codec.container import Container, Header
from codec.overfit.sections import function_sections
from codec.profiles.base import Decoder, Encoder, Profile
from codec.profiles.options import Options

if TYPE_CHECKING:
    import torch


class CoolChic(Profile[Options]):
    """Pictures of any mode; alpha is coded apart."""

    id = 0
    name = "coolchic"
    options = Options
    cost = 300

    def encoder(self, options: Options, device: torch.device) -> Encoder:
        from codec.profiles.coolchic.encoder import CoolChicEncoder

        return CoolChicEncoder(options, device)

    def decoder(self, header: Header, device: str) -> Decoder:
        from codec.profiles.coolchic.decoder import CoolChicDecoder

        return CoolChicDecoder(device)

    def check(self, container: Container) -> None:
        from codec.overfit import bitstream

        weights, _ = function_sections(container)
        bitstream.read_weights(weights, *container.header.shape)


PROFILE = CoolChic()
