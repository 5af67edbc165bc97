"""Pictures in packets, any of which can be lost: what profiles have in common whose files can have them.

With spacing s, a map of indices or a latent is s * s maps of every s-th row and column, each of which is one packet,
coded without the others. So near all positions that a lost packet leaves unknown there are some that others know.
"""

from __future__ import annotations

import re
import warnings
from binascii import crc_hqx
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from codec.container import Container, CorruptError, DamageWarning, Section, varint
from codec.profiles.options import Whole, option

MAX_RESILIENCE = 9
_CRC_BYTES = 2
_LENGTH_BYTES = 4
_CODINGS = 16
_WORK = 2**29  # bytes that checksums are computed of in a search: more only if a section was made to take long
_STEP = 64  # of these take as long as to look whether there is a packet

Place = tuple[slice, slice]
Contents = TypeVar("Contents")


def resilience_option() -> Any:
    """Field of how many packets a file has."""
    return option(
        0, Whole(0, MAX_RESILIENCE),
        "More makes files of more packets: larger ones, that lose less where they are damaged.",
    )  # fmt: skip


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

    def to_bytes(self) -> bytes:
        return bytes([self.coding | self.resilience << 4]) + self.detail

    @classmethod
    def of(cls, data: bytes) -> Head | None:
        """The head that some bytes are, if they are one."""
        resilience, coding = divmod(data[0], _CODINGS)
        return cls(coding, resilience, data[1:]) if resilience <= MAX_RESILIENCE else None


@dataclass(frozen=True)
class Packets:
    """Contents of a section.

    Attributes:
        head: any, if nothing is left of it.
        streams: of the packets that are sound, by number.
        beginnings: the stream of the packet that the section is cut in, by number, which no checksum vouches for.
        places: positions of all packets that there were, by number.
        cut: whether the end of the section is missing.
    """

    head: Head
    streams: Mapping[int, bytes]
    beginnings: Mapping[int, bytes]
    places: Mapping[int, Place]
    cut: bool

    @property
    def lost(self) -> list[int]:
        """Numbers of packets that are not sound."""
        return [number for number in self.places if number not in self.streams]

    @property
    def damage(self) -> str:
        """Number of packets that are not sound, in words; empty if all are."""
        return f"{len(self.lost)} of {len(self.places)} packets are lost or damaged" if self.lost else ""

    def decoded(self, decode: Callable[[bytes, Place, bool], Contents]) -> tuple[Packets, list[tuple[Place, Contents]]]:
        """The packets, of which those that hold nothing valid are not sound either, and what the others hold.

        Args:
            decode: makes contents of a stream and its positions, given whether it is only a beginning; raises a
                `CorruptError` if they are not valid.

        Raises:
            CorruptError: none is left, though the end is not missing.
        """
        sound, contents = dict[int, bytes](), list[tuple[Place, Contents]]()
        for number, stream in self.streams.items():
            place = self.places[number]
            with suppress(CorruptError):  # as its checksum is right, a faulty program wrote it, or somebody by hand
                contents.append((place, decode(stream, place, False)))
                sound[number] = stream
        if not (sound or self.cut):
            raise _nothing_sound()
        for number, stream in self.beginnings.items():
            contents.append((self.places[number], decode(stream, self.places[number], True)))
        return replace(self, streams=sound), contents

    def warn(self) -> None:
        """Tell the caller of `codec.decode`, if its decoder calls this, of packets that are not sound."""
        if self.lost:
            warnings.warn(f"{self.damage}: the picture has likely contents there", DamageWarning, stacklevel=4)

    def facts(self) -> dict[str, Any]:
        """Facts for `Decoder.describe`."""
        return {"packets": len(self.places)} | ({"lost": len(self.lost)} if self.lost else {})


def _nothing_sound() -> CorruptError:
    return CorruptError("no packet of the picture is sound: the file is damaged beyond repair; get it again")


def write(head: Head, streams: Mapping[int, bytes]) -> bytes:
    """The section."""
    return b"".join(_packet(head, number, stream) for number, stream in streams.items())


@dataclass(frozen=True)
class Layout:
    """Arrangement of packets in files of a profile.

    Attributes:
        section: that they are in.
        detail: bytes of `Head.detail`.
        sides: of the square of pixels that a position is of; all that there may be, the greatest first, if only the
            model knows it.
    """

    section: Section
    detail: int
    sides: tuple[int, ...]

    def of(self, container: Container, side: int | None = None) -> Packets:
        """Sound packets of a file, wherever in its section they are.

        Bytes that are damaged, lost or inserted cost the packets that they hit, and those of which nothing is left all
        of them: a file that is cut there has a picture, though a likely one.

        Args:
            side: one of `sides`. It says how few packets a small picture has. Without it the greatest is taken that is
                in accord with what is there and what is missing.

        Raises:
            CorruptError: nothing is left, though the end is not missing.
        """
        header = container.header
        section, length = container.sections.get(self.section, b""), header.spans.get(self.section, (0, 0))[1]
        head, streams, beginnings = self._read(section, length)
        whole = len(write(head, streams)) == length
        for each in [side] if side else self.sides:
            all_places = places(head.resilience, -(-header.height // each), -(-header.width // each))
            if streams.keys() <= all_places.keys() and (whole or streams.keys() < all_places.keys()):
                break
        known, begun = ({n: s for n, s in found.items() if n in all_places} for found in (streams, beginnings))
        return Packets(head, known, begun, all_places, len(section) < length)

    def check(self, container: Container) -> None:
        """Refuse a file of which packets are not sound, as far as that shows without a model.

        Raises:
            CorruptError: it is one.
        """
        damage = self.of(container).damage
        if damage:
            raise CorruptError(
                f"{damage}: get the file again, or make it whole by `clric-convert --repair`, with likely contents "
                "there"
            )

    def _read(self, section: bytes, length: int) -> tuple[Head, dict[int, bytes], dict[int, bytes]]:
        """Head, streams and beginnings of a section that was written with so many bytes, of which the last may lack."""
        head = self._head(section, length)
        found = list(self._sound(section, length, head)) if head else []
        streams = {packet.number: section[packet.begin : packet.stop] for packet in found}
        if len(section) < length:
            last = _Packet.at(section, found[-1].end if found else 0, length, self.detail)
            if last and last.head == (head or last.head) and last.end > len(section) and last.number not in streams:
                return last.head, streams, {last.number: section[last.begin : last.stop]}
        elif head is None:
            raise _nothing_sound()
        return head or Head(0, 0, bytes(self.detail)), streams, {}

    def _head(self, section: bytes, length: int) -> Head | None:
        """The head of most sound packets, as of many places in a long section some have a right checksum by chance.

        Those that another one or the end follows are looked for first: most places that only seem to be packets are
        none of these, and to compute their checksums, too, could take longer than is allowed.
        """
        for followed in (True, False):
            heads = Counter[Head]()
            for packet in self._sound(section, length, followed=followed):
                heads[packet.head] += length + packet.end - packet.start  # bytes count only where packets are as many
            if heads:
                return max(heads, key=heads.__getitem__)
        return None

    def _sound(
        self, section: bytes, length: int, head: Head | None = None, *, followed: bool = False
    ) -> Iterator[_Packet]:
        """Sound packets with this head or any, wherever in a section they are.

        Args:
            followed: only those that the same head or the section's end follows.
        """
        start = re.escape(head.to_bytes()) if head else rb"[\x10-\x9f]" + rb"." * self.detail
        likely = re.compile(start + rb"[\x00-\x63]", re.DOTALL)  # all that packets with numbers may begin with
        place, work = 0, _WORK
        while place < len(section) and work > 0:
            packet = _Packet.at(section, place, length, self.detail)
            place, work = place + 1, work - _STEP
            if packet and packet.head == (head or packet.head) and packet.fits(section, followed):
                work -= packet.end - packet.start
                if packet.sound(section):
                    yield packet
                    place = packet.end
            match = likely.search(section, place)
            place = match.start() if match else len(section)


class _Packet(NamedTuple):
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
    def at(cls, section: bytes, start: int, length: int, detail: int) -> _Packet | None:
        """The packet that may start at a place, if any may."""
        after = start + 1 + detail
        head = Head.of(section[start:after]) if after <= len(section) else None
        if head is None or not head.resilience:
            fits = start == 0 and after + _CRC_BYTES <= length
            return cls(head, 0, 0, after, length - _CRC_BYTES) if head and fits else None
        size, begin = 0, after + 1
        for shift in range(0, 7 * _LENGTH_BYTES, 7):
            if begin >= len(section) or section[after] >= head.spacing**2:
                return None
            size |= (section[begin] & 0x7F) << shift
            begin += 1
            if section[begin - 1] < 0x80:
                return cls(head, section[after], start, begin, begin + size)
        return None

    def fits(self, section: bytes, followed: bool) -> bool:
        """Whether it does not go beyond the section; if `followed`, its end or the same head must come next."""
        if not followed or self.end >= len(section):
            return self.end <= len(section)
        return section.startswith(self.head.to_bytes(), self.end)

    def sound(self, section: bytes) -> bool:
        """Whether the checksum is that of the packet."""
        return section[self.stop : self.end] == _crc(section[self.start : self.stop])


def _packet(head: Head, number: int, stream: bytes) -> bytes:
    start = head.to_bytes()
    if head.resilience:
        start += bytes([number]) + varint(len(stream))
    return start + stream + _crc(start + stream)


def _crc(data: bytes) -> bytes:
    """CRC-16/IBM-3740 (polynomial 0x1021 from 0xffff on), little-endian."""
    return crc_hqx(data, 0xFFFF).to_bytes(_CRC_BYTES, "little")
