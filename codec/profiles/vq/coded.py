"""A picture as its coded map of indices, of which the section of a file is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from codec.autoencoders.networks.index_transformer import Indices
from codec.autoencoders.networks.integer_index_prior import AnyPrior
from codec.container import Section
from codec.entropy import selftest
from codec.profiles import packets
from codec.profiles.base import Sections
from codec.profiles.packets import Head
from codec.profiles.vq import index_coding
from codec.profiles.vq.index_coding import Costs, Trade
from codec.runtime import cached_property


@dataclass(frozen=True)
class Coded:
    """A coded picture.

    Attributes:
        prior: under which it is coded.
        streams: of all packets, by number.
        indices: (h, w), which they hold.
    """

    prior: AnyPrior
    head: Head
    streams: Mapping[int, bytes]
    indices: Indices

    @classmethod
    def of(cls, prior: AnyPrior, head: Head, costs: Costs | Indices, trade: Trade | float = 0.0) -> Coded:
        """Code a map (h, w): see `index_coding.encode`.

        Args:
            trade: of each index of the map, or of all.
        """
        size = costs.shape[:2]
        streams, indices, trades = dict[int, bytes](), np.empty(size, np.int32), np.broadcast_to(trade, size)
        for number, place in packets.places(head.resilience, *size).items():
            arguments = prior, head.coding, head.spacing, costs[place], trades[place]
            streams[number], indices[place] = index_coding.encode(*arguments)
        return cls(prior, head, streams, indices)

    def sections(self) -> Sections:
        """Sections of the file, which were read back.

        Raises:
            RuntimeError: they do not hold these indices.
        """
        for number, place in packets.places(self.head.resilience, *self.indices.shape).items():
            arguments = self.prior, self.head.coding, self.head.spacing, self.streams[number]
            found = index_coding.decode(*arguments, *self.indices[place].shape)
            selftest.check_read_back(np.array_equal(found, self.indices[place]))
        return {Section.GRIDS: self._section}

    @property
    def size(self) -> int:
        """Bytes of the section."""
        return len(self._section)

    @cached_property
    def _section(self) -> bytes:
        return packets.write(self.head, self.streams)
