"""One packet: its head, its number, the positions that it has, and its bytes."""

from __future__ import annotations

from binascii import crc_hqx
from dataclasses import dataclass
from typing import NamedTuple

from codec.container import varint

MAX_RESILIENCE = 9
_CRC_BYTES = 2
_LENGTH_BYTES = 4
_CODINGS = 16
_ONE_IN = 20  # of all packets may be lost for each step of resilience, and parity packets restore them

Place = tuple[slice, slice]


def places(resilience: int, height: int, width: int) -> dict[int, Place]:
    """Positions of each packet in a map of this size, by its number; packets without any are left out.

    Positions of packets that follow each other are a knight's move apart, so that those of a burst are scattered.
    """
    spacing, found = resilience + 1, {}
    for number in range(spacing**2):
        row, column = number % spacing, (2 * number + number // spacing) % spacing
        if row < height and column < width:
            found[number] = slice(row, None, spacing), slice(column, None, spacing)
    return found


def parity_numbers(resilience: int, count: int) -> range:
    """Numbers of parity packets beside so many others, which differ from all of theirs.

    There are as many as make up a share of 5 % * resilience of all packets. Readers that know none pass over them.
    """
    return range(256 - -(-count * resilience // (_ONE_IN - resilience)), 256)


@dataclass(frozen=True)
class Head:
    """Head of every packet: coding of the picture.

    Attributes:
        coding: number of the codebook or of the preset, 0..15.
        resilience: 0..MAX_RESILIENCE.
        detail: what else the profile says; of one length for all of its files.
    """

    coding: int
    resilience: int
    detail: bytes = b""

    @property
    def spacing(self) -> int:
        """Rows and columns from one position of a packet to the next."""
        return self.resilience + 1

    @property
    def numbers(self) -> range:
        """Numbers that packets other than those for parity may have."""
        return range(self.spacing**2)

    @property
    def parity_numbers(self) -> range:
        """Numbers that parity packets may have."""
        return parity_numbers(self.resilience, len(self.numbers))

    def has(self, number: int) -> bool:
        """Whether a packet may have a number."""
        return number in self.numbers or number in self.parity_numbers

    def to_bytes(self) -> bytes:
        return bytes([self.coding | self.resilience << 4]) + self.detail

    @classmethod
    def of(cls, data: bytes) -> Head | None:
        """The head that some bytes are, if they are one."""
        resilience, coding = divmod(data[0], _CODINGS)
        return cls(coding, resilience, data[1:]) if resilience <= MAX_RESILIENCE else None


def packet(head: Head, number: int, stream: bytes) -> bytes:
    """One packet of a section."""
    start = head.to_bytes()
    if head.resilience:
        start += bytes([number]) + varint(len(stream))
    return start + stream + crc(start + stream)


class Packet(NamedTuple):
    """A packet as it seems to be in a section: where it starts, and where its stream begins and stops."""

    head: Head
    number: int
    start: int
    begin: int
    stop: int

    @property
    def end(self) -> int:
        """First place at which the next packet may start."""
        return self.stop + _CRC_BYTES

    @classmethod
    def at(cls, section: bytes, start: int, length: int, detail: int) -> Packet | None:
        """The packet that may start at a place, if any may."""
        after = start + 1 + detail
        head = Head.of(section[start:after]) if after <= len(section) else None
        if head is None or not head.resilience:
            fits = start == 0 and after + _CRC_BYTES <= length
            return cls(head, 0, 0, after, length - _CRC_BYTES) if head and fits else None
        if after >= len(section) or not head.has(section[after]):
            return None
        size, begin = 0, after + 1
        for shift in range(0, 7 * _LENGTH_BYTES, 7):
            if begin >= len(section):
                return None
            size |= (section[begin] & 0x7F) << shift
            begin += 1
            if section[begin - 1] < 0x80:
                needless = shift > 0 and section[begin - 1] == 0
                return None if needless else cls(head, section[after], start, begin, begin + size)
        return None

    def fits(self, section: bytes, followed: bool = False) -> bool:
        """Whether it does not go beyond the section; if `followed`, its end or the same head must come next."""
        if not followed or self.end >= len(section):
            return self.end <= len(section)
        return section.startswith(self.head.to_bytes(), self.end)

    def sound(self, section: bytes) -> bool:
        """Whether the checksum is that of the packet."""
        return section[self.stop : self.end] == crc(section[self.start : self.stop])


def crc(data: bytes) -> bytes:
    """CRC-16/IBM-3740 (polynomial 0x1021 from 0xffff on), little-endian."""
    return crc_hqx(data, 0xFFFF).to_bytes(_CRC_BYTES, "little")
