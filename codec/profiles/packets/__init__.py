"""Pictures in packets, any of which can be lost: what profiles have in common whose files can have them.

With spacing s, a map of indices or a latent is s * s maps of every s-th row and column, each of which is one packet,
coded without the others. So near all positions that a lost packet leaves unknown there are some that others know.
Further packets are for parity: as many as are lost can be restored from them.
"""

from __future__ import annotations

from codec.profiles.packets.contents import Packets, write
from codec.profiles.packets.layout import Layout, resilience_option
from codec.profiles.packets.one_packet import MAX_RESILIENCE, Head, Place, packet, parity_numbers, places

__all__ = [
    "MAX_RESILIENCE", "Head", "Layout", "Packets", "Place", "packet", "parity_numbers", "places", "resilience_option",
    "write",
]  # fmt: skip
