"""The sections of a file that hold latents: a head of 3 bytes, then one stream of the range coder; or packets.

The enhancement layer has a section of its own: its position, then a stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from codec.container import Section, TruncatedError, UnsupportedError
from codec.profiles import packets
from codec.profiles.packets import Layout

PACKETS = Layout(Section.PACKETS, detail=2, sides=(16,))
PRESETS = ("baseline", "normal", "extra")  # the index is what the file holds
_HEAD = Struct("<BH")
_POSITION = Struct("<H")
_GRAIN = 8  # in the preset's byte


@dataclass(frozen=True)
class Head:
    """Coding of a latent.

    Attributes:
        preset: name of the order in which it is.
        position: quality among the knots of the model, in 1 / 256 of the distance between two of them.
        grain: whether texture shall be drawn beside what is coded.
    """

    preset: str
    position: int
    grain: bool = False

    def to_bytes(self) -> bytes:
        return _HEAD.pack(PRESETS.index(self.preset) | _GRAIN * self.grain, self.position)

    @classmethod
    def of(cls, data: bytes) -> Head:
        """The head of some bytes.

        Raises:
            UnsupportedError: it has a preset that this version does not know.
        """
        first, position = _HEAD.unpack(data)
        preset, grain = first & ~_GRAIN, bool(first & _GRAIN)
        if preset >= len(PRESETS):
            raise UnsupportedError(f"preset {preset} of profile msp is not known to this version: update pillow-clric")
        return cls(PRESETS[preset], position, grain)

    @classmethod
    def of_packet(cls, head: packets.Head) -> Head:
        """The head that those of packets stand for.

        Raises:
            UnsupportedError: as of `of`.
        """
        return cls.of(bytes([head.coding]) + head.detail)

    def of_packets(self, resilience: int) -> packets.Head:
        """The head of each packet."""
        preset, *position = self.to_bytes()
        return packets.Head(preset, resilience, bytes(position))


def write(head: Head, stream: bytes) -> bytes:
    """The section."""
    return head.to_bytes() + stream


def read_head(section: bytes) -> tuple[Head, bytes]:
    """Head and stream of a section, of which the end may be missing.

    Raises:
        TruncatedError: it lacks a part of the head.
        UnsupportedError: it has a preset that this version does not know.
    """
    if len(section) < _HEAD.size:
        raise TruncatedError("file is truncated before its latent begins, or has none: get the whole file again")
    return Head.of(section[: _HEAD.size]), section[_HEAD.size :]


def write_enhancement(position: int, stream: bytes) -> bytes:
    """The section of an enhancement layer, at a position among its knots."""
    return _POSITION.pack(position) + stream


def read_enhancement(section: bytes) -> tuple[int, bytes]:
    """Position and stream of an enhancement layer, of which the end may be missing.

    Raises:
        TruncatedError: it lacks a part of the position.
    """
    if len(section) < _POSITION.size:
        raise TruncatedError("file is truncated before its enhancement layer begins: get the whole file again")
    return _POSITION.unpack_from(section)[0], section[_POSITION.size :]
