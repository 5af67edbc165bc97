"""A picture as its coded latents, of which the sections of a file are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codec.autoencoders.networks.integer_prior import Conditioned
from codec.container import Section, entry_size
from codec.entropy.coder import Symbols
from codec.profiles import packets
from codec.profiles.base import Sections
from codec.profiles.msp import bitstream, latent_coding
from codec.profiles.msp.bitstream import Head
from codec.profiles.msp.latent_coding import Trade

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Enhanced:
    """The coded enhancement layer of a picture."""

    position: int
    stream: bytes
    symbols: Symbols
    prior: Conditioned

    def section(self) -> bytes:
        return bitstream.write_enhancement(self.position, self.stream)


@dataclass(frozen=True)
class Coded:
    """A coded picture."""

    head: Head
    resilience: int
    streams: Mapping[int, bytes]  # of packets, by number
    symbols: Symbols
    prior: Conditioned
    enhanced: Enhanced | None = None

    @classmethod
    def of(
        cls, prior: Conditioned, head: Head, resilience: int, latent: NDArray[np.float32], trade: Trade | None = None
    ) -> Coded:
        """Code a latent (height, width, channels), in symbols that need not be rounded, and may be traded for bits."""
        streams, symbols = dict[int, bytes](), np.empty(latent.shape, np.int32)
        for number, place in packets.places(resilience, *latent.shape[:2]).items():
            own = None if trade is None else trade[place]
            streams[number], symbols[place] = latent_coding.encode(prior, latent[place], 1 + resilience, own)
        return cls(head, resilience, streams, symbols, prior)

    def sections(self) -> Sections:
        """Sections of the file, which were read back."""
        for number, place in packets.places(self.resilience, *self.symbols.shape[:2]).items():
            latent_coding.check(self.prior, self.streams[number], self.symbols[place], 1 + self.resilience)
        if self.enhanced is not None:
            latent_coding.check(self.enhanced.prior, self.enhanced.stream, self.enhanced.symbols)
        return self._written()

    def _written(self) -> Sections:
        if self.resilience:
            return {Section.PACKETS: packets.write(self.head.of_packets(self.resilience), self.streams)}
        sections = {Section.GRIDS: bitstream.write(self.head, self.streams[0])}
        return sections if self.enhanced is None else {**sections, Section.ENHANCEMENT: self.enhanced.section()}

    @property
    def size(self) -> int:
        """Bytes of the sections, and of the directory's entry of one that not all files have.

        See `codec.profiles.base.Encoder.sections`.
        """
        sections = self._written()
        size = sum(map(len, sections.values()))
        return size if self.enhanced is None else size + entry_size(len(sections[Section.ENHANCEMENT]))

    def log_sizes(self) -> Tensor:
        """As `codec.rate_control.Coded` has them."""
        import torch

        return torch.tensor([self.size], dtype=torch.float64, device="cpu").log()
