"""The section of a file that holds a map of indices: packets, any of which can be lost.

With spacing s, the map is s * s maps of every s-th row and column, each of which is one packet. So near all positions
that a lost packet leaves unknown there are some that others know.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from codec.container import Container, CorruptError, Section, varint

MAX_RESILIENCE = 9
SIDES = 32, 16, 8, 4, 2, 1  # of the square of pixels that an index may be of
_CRC_BYTES = 2
_LENGTH_BYTES = 3
_BOOKS = 16
_WORK = 2**29  # bytes that checksums are computed of in a search: more only if a section was made to take long
_STEP = 256  # of these take as long as to look whether there is a packet

Place = tuple[slice, slice]


@dataclass(frozen=True)
class Head:
    """How a map is coded; every packet begins with it.

    Attributes:
        book: index of the codebook, 0..15.
        resilience: 0..MAX_RESILIENCE.
    """

    book: int
    resilience: int

    @property
    def spacing(self) -> int:
        """Rows and columns from one position of a packet to the next."""
        return self.resilience + 1

    def places(self, height: int, width: int) -> dict[int, Place]:
        """Positions of each packet in a map of this size, by its number; packets without any are left out.

        Positions of packets that follow each other are a knight's move apart, so that those of a burst are scattered.
        """
        spacing, found = self.spacing, {}
        for number in range(spacing**2):
            row, column = number % spacing, (2 * number + number // spacing) % spacing
            if row < height and column < width:
                found[number] = slice(row, None, spacing), slice(column, None, spacing)
        return found

    def byte(self) -> bytes:
        return bytes([self.book | self.resilience << 4])

    @classmethod
    def of(cls, byte: int) -> Head | None:
        """The head that a byte is, if it is one."""
        resilience, book = divmod(byte, _BOOKS)
        return cls(book, resilience) if resilience <= MAX_RESILIENCE else None


@dataclass(frozen=True)
class Packets:
    """What a section holds.

    Attributes:
        head: any, if nothing is left of it.
        streams: of the packets that are sound, by number.
        beginnings: the stream of the packet that the section is cut in, by number, which no checksum vouches for.
        places: positions of all packets that there were, by number.
    """

    head: Head
    streams: Mapping[int, bytes]
    beginnings: Mapping[int, bytes]
    places: Mapping[int, Place]

    @property
    def lost(self) -> list[int]:
        """Numbers of packets that are not sound."""
        return [number for number in self.places if number not in self.streams]


def write(head: Head, streams: Mapping[int, bytes]) -> bytes:
    """The section."""
    return b"".join(_packet(head, number, stream) for number, stream in streams.items())


def of(container: Container, side: int | None = None) -> Packets:
    """Sound packets of a file, wherever in its section they are.

    Bytes that are damaged, lost or inserted cost the packets that they hit, and those of which nothing is left all of
    them: a file that is cut there has a picture, though a likely one.

    Args:
        side: of the square of pixels that an index is of. It says how few packets a small picture has. Only the model
            knows it: without that the greatest is taken that is in accord with what is there and what is missing.

    Raises:
        CorruptError: nothing is left, though the end is not missing.
    """
    header = container.header
    section, length = container.sections.get(Section.GRIDS, b""), header.spans.get(Section.GRIDS, (0, 0))[1]
    head, streams, beginnings = _read(section, length)
    whole = len(write(head, streams)) == length
    for each in [side] if side else SIDES:
        places = head.places(-(-header.height // each), -(-header.width // each))
        if streams.keys() <= places.keys() and (whole or streams.keys() < places.keys()):
            break
    known, begun = ({n: s for n, s in found.items() if n in places} for found in (streams, beginnings))
    return Packets(head, known, begun, places)


def _read(section: bytes, length: int) -> tuple[Head, dict[int, bytes], dict[int, bytes]]:
    """Head, streams and beginnings of a section that was written with so many bytes, of which the last may lack.

    Of many places in a long section some have a right checksum by chance; the head is that of most packets.
    """
    heads = Counter[Head]()
    for packet in _sound(section, length):
        heads[packet.head] += length + packet.end - packet.start  # bytes count only where packets are as many
    head = max(heads, key=heads.__getitem__, default=None)
    found = list(_sound(section, length, head)) if head else []
    streams = {packet.number: section[packet.begin : packet.stop] for packet in found}
    if len(section) < length:
        last = _Packet.at(section, found[-1].end if found else 0, length)
        if last and last.head == (head or last.head) and last.end > len(section) and last.number not in streams:
            return last.head, streams, {last.number: section[last.begin : last.stop]}
    elif head is None:
        raise CorruptError("no packet of the picture is sound: the file is damaged beyond repair; get it again")
    return head or Head(0, 0), streams, {}


def _sound(section: bytes, length: int, head: Head | None = None) -> Iterator[_Packet]:
    """Sound packets with this head or any, wherever in a section they are."""
    place, work = 0, _WORK
    while place < len(section) and work > 0:
        packet = _Packet.at(section, place, length)
        place, work = place + 1, work - _STEP
        if packet and packet.head == (head or packet.head) and packet.end <= len(section):
            work -= packet.end - packet.start
            if packet.sound(section):
                yield packet
                place = packet.end


class _Packet(NamedTuple):
    """A packet as it seems to be in a section: where it starts, and where its stream begins and stops."""

    head: Head
    number: int
    start: int
    begin: int
    stop: int

    @property
    def end(self) -> int:
        """Where the next packet may start."""
        return self.stop + _CRC_BYTES

    @classmethod
    def at(cls, section: bytes, start: int, length: int) -> _Packet | None:
        """The packet that may start at a place, if any may."""
        head = Head.of(section[start]) if start < len(section) else None
        if head is None or not head.resilience:
            return cls(head, 0, 0, 1, length - _CRC_BYTES) if head and not start else None
        size, begin = 0, start + 2
        for shift in range(0, 7 * _LENGTH_BYTES, 7):
            if begin >= len(section) or section[start + 1] >= head.spacing**2:
                return None
            size |= (section[begin] & 0x7F) << shift
            begin += 1
            if section[begin - 1] < 0x80:
                return cls(head, section[start + 1], start, begin, begin + size)
        return None

    def sound(self, section: bytes) -> bool:
        """Whether the checksum is that of the packet."""
        return section[self.stop : self.end] == _crc(section[self.start : self.stop])


def _packet(head: Head, number: int, stream: bytes) -> bytes:
    start = head.byte()
    if head.resilience:
        start += bytes([number]) + varint(len(stream))
    return start + stream + _crc(start + stream)


def _crc(data: bytes) -> bytes:
    """CRC-16/IBM-3740 (polynomial 0x1021 from 0xffff on), little-endian."""
    return crc_hqx(data, 0xFFFF).to_bytes(_CRC_BYTES, "little")
