"""Pictures in packets, any of which can be lost: what profiles have in common whose files can have them.

With spacing s, a map of indices or a latent is s * s maps of every s-th row and column, each of which is one packet,
coded without the others. So near all positions that a lost packet leaves unknown there are some that others know.
Further packets are for parity: as many as are lost can be restored from them.
"""

from __future__ import annotations

import re
import warnings
from binascii import crc_hqx
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from codec.container import Container, CorruptError, DamageWarning, Section, varint
from codec.profiles.options import Whole, option

MAX_RESILIENCE = 9
_CRC_BYTES = 2
_LENGTH_BYTES = 4
_CODINGS = 16
_ONE_IN = 20  # of all packets may be lost for each step of resilience, and parity packets restore them
_WORK = 2**29  # bytes that checksums are computed of in a search: more only if a section was made to take long
_STEP = 64  # of these take as long as to look whether there is a packet

Place = tuple[slice, slice]
Contents = TypeVar("Contents")


def resilience_option() -> Any:
    """Field of how many packets a file has."""
    return option(
        0, Whole(0, MAX_RESILIENCE),
        "More makes files of more packets: larger ones, that bear more damage and lose less.",
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


@dataclass(frozen=True)
class Packets:
    """Contents of a section.

    Attributes:
        head: any, if nothing is left of it.
        streams: of the packets that are sound or restored, by number.
        beginnings: the stream of the packet that the section is cut in, by number, which no checksum vouches for.
        places: positions of all packets that there were, by number.
        parity: contents of parity packets that are sound, by number.
        restored: numbers of packets that were restored from these.
        whole: whether the section is sound packets and nothing else.
        cut: whether the end of the section is missing.
    """

    head: Head
    streams: Mapping[int, bytes]
    beginnings: Mapping[int, bytes]
    places: Mapping[int, Place]
    parity: Mapping[int, bytes]
    restored: Collection[int]
    whole: bool
    cut: bool

    @property
    def lost(self) -> list[int]:
        """Numbers of packets that are neither sound nor restored."""
        return [number for number in self.places if number not in self.streams]

    @property
    def damage(self) -> str:
        """Number of packets that are lost, in words; empty if none is."""
        return f"{self._count(self.lost)} are lost or damaged" if self.lost else ""

    def check(self) -> None:
        """Refuse damage, also where it is restored: the next could be too much.

        Raises:
            CorruptError: there is any.
        """
        if self.lost:
            raise CorruptError(
                f"{self.damage}: get the file again, or make it whole by `clric-convert --repair`, with likely "
                "contents there"
            )
        if not self.whole:
            told = "there are bytes that belong to no packet"
            if self.restored:
                told = f"{self._count(self.restored)} are lost or damaged, and can be restored exactly"
            elif len(self.parity) < len(parity_numbers(self.head.resilience, len(self.places))):
                told = "only parity packets are lost or damaged"
            raise CorruptError(f"{told}: make the file whole by `clric-convert --repair`, before more is lost")

    def _count(self, numbers: Collection[int]) -> str:
        return f"{len(numbers)} of {len(self.places)} packets"

    def decoded(self, decode: Callable[[bytes, Place, bool], Contents]) -> tuple[Packets, list[tuple[Place, Contents]]]:
        """The packets, of which those that hold nothing valid are not sound either, and what the others hold.

        Args:
            decode: makes contents of a stream and its positions, given whether it is only a beginning; raises a
                `CorruptError` if they are not valid.

        Raises:
            CorruptError: none is left, though the end is not missing.
        """

        def valid(streams: Mapping[int, bytes]) -> Iterator[tuple[int, Contents]]:
            for number, stream in streams.items():
                with suppress(CorruptError):  # its checksum is right by chance, or a faulty program wrote it
                    yield number, decode(stream, self.places[number], False)

        contents = dict(valid(self.streams))
        sound = {number: self.streams[number] for number in contents}
        restored = sound.keys() & self.restored
        if len(sound) < len(self.streams):
            streams = _restored(self.head, sound, self.parity, self.places) or {}
            more = dict(valid(streams))
            contents, restored = contents | more, restored | more.keys()
            sound |= {number: streams[number] for number in more}
        if not (sound or self.cut):
            raise _nothing_sound()
        found = [(self.places[number], each) for number, each in contents.items()]
        for number, stream in self.beginnings.items():
            if number not in sound:
                with suppress(CorruptError):  # no checksum vouches for it
                    found.append((self.places[number], decode(stream, self.places[number], True)))
        return replace(self, streams=sound, restored=restored), found

    def warn(self) -> None:
        """Tell the caller of `codec.decode` or `repair`, if the decoder calls this, of packets that are not sound."""
        if self.lost:
            warnings.warn(f"{self.damage}: the picture has likely contents there", DamageWarning, stacklevel=4)

    def facts(self) -> dict[str, Any]:
        """Facts for `Decoder.describe`."""
        counts = {"packets": self.places, "parity": self.parity, "restored": self.restored, "lost": self.lost}
        return {name: len(numbers) for name, numbers in counts.items() if numbers}


def _nothing_sound() -> CorruptError:
    return CorruptError("no packet of the picture is sound: the file is damaged beyond repair; get it again")


def write(head: Head, streams: Mapping[int, bytes]) -> bytes:
    """The section: packets in the order of their numbers, and at last those for parity.

    So a file of which the end is missing has lost those that say nothing by themselves before any of the picture. To
    bursts their order makes no difference: as many as there are parity packets may be lost, whichever they are.
    """
    parts = {number: packet(head, number, stream) for number, stream in streams.items()}
    if numbers := parity_numbers(head.resilience, len(streams)):
        from codec import erasure

        rows = erasure.parity(_rows(head, streams), numbers)
        parts |= {number: packet(head, number, row) for number, row in rows.items()}
    return b"".join(parts.values())


def packet(head: Head, number: int, stream: bytes) -> bytes:
    """One packet of a section."""
    start = head.to_bytes()
    if head.resilience:
        start += bytes([number]) + varint(len(stream))
    return start + stream + _crc(start + stream)


def _rows(head: Head, streams: Mapping[int, bytes]) -> dict[int, bytes]:
    """Packets without head and number, which parity packets are made of: their checksums tell if they are restored."""
    known = len(head.to_bytes()) + 1
    return {number: packet(head, number, stream)[known:] for number, stream in streams.items()}


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
        """Sound packets of a file, wherever in its section they are, and those that parity packets restore.

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
        found = self._read(section, length)
        sizes = [(-(-header.height // each), -(-header.width // each)) for each in ([side] if side else self.sides)]
        chosen, restored = found.accordant([places(found.head.resilience, *size) for size in sizes])
        known = {number: stream for number, stream in found.streams.items() if number in chosen} | restored
        begun = {n: stream for n, stream in found.beginnings.items() if n in chosen and n not in known}
        cut = len(section) < length
        return Packets(found.head, known, begun, chosen, found.parity, list(restored), found.whole, cut)

    def check(self, container: Container) -> None:
        """Refuse a file of which packets are not sound, as far as that shows without a model.

        Raises:
            CorruptError: it is one.
        """
        self.of(container).check()

    def _read(self, section: bytes, length: int) -> _Found:
        """Remains of a section that was written with so many bytes, of which the last may lack."""
        head = self._head(section, length)
        found = list(self._sound(section, length, head)) if head else []
        if len(section) < length:
            last = _Packet.at(section, found[-1].end if found else 0, length, self.detail)
            if last and last.head == (head or last.head) and last.end > len(section):
                return _Found.of(section, length, last.head, found, last)
        elif head is None:
            raise _nothing_sound()
        return _Found.of(section, length, head or Head(0, 0, bytes(self.detail)), found)

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

    def _starts(self, head: Head | None) -> re.Pattern[bytes]:
        """Heads and numbers that packets with numbers may begin with, with this head or any."""
        if head:
            heads = {head.resilience: re.escape(head.to_bytes())}
        else:
            detail = b"." * self.detail
            heads = {each: b"[\\x%x0-\\x%xf]" % (each, each) + detail for each in range(1, MAX_RESILIENCE + 1)}
        kinds = {each: Head(0, each) for each in heads}
        numbers = {each: re.escape(bytes([*kind.numbers, *kind.parity_numbers])) for each, kind in kinds.items()}
        starts = (start + b"[" + numbers[each] + b"]" for each, start in heads.items())
        return re.compile(b"|".join(starts), re.DOTALL)

    def _sound(
        self, section: bytes, length: int, head: Head | None = None, *, followed: bool = False
    ) -> Iterator[_Packet]:
        """Sound packets with this head or any, wherever in a section they are.

        Args:
            followed: only those that the same head or the section's end follows.
        """
        likely = self._starts(head)
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


class _Found(NamedTuple):
    """Remains of a section, whatever the size of the picture: see `Packets`."""

    head: Head
    streams: Mapping[int, bytes]
    beginnings: Mapping[int, bytes]
    parity: Mapping[int, bytes]
    whole: bool

    @classmethod
    def of(
        cls, section: bytes, length: int, head: Head, sound: Sequence[_Packet], begun: _Packet | None = None
    ) -> _Found:
        """Contents of sound packets, and of the one that the section is cut in."""
        packets = {each.number: each for each in sound}
        contents = {number: section[each.begin : each.stop] for number, each in packets.items()}
        streams = {number: stream for number, stream in contents.items() if number in head.numbers}
        parity = {number: row for number, row in contents.items() if number in head.parity_numbers}
        # All have one length: those of others are places in damage that have a right checksum by chance.
        lengths = dict(Counter(map(len, parity.values())).most_common(1))
        parity = {number: row for number, row in parity.items() if len(row) in lengths}
        beginnings = {}
        if begun and begun.number in head.numbers and begun.number not in streams:
            beginnings = {begun.number: section[begun.begin : begun.stop]}
        whole = sum(each.end - each.start for each in packets.values()) == length
        return cls(head, streams, beginnings, parity, whole)

    def accordant(self, maps: Sequence[dict[int, Place]]) -> tuple[dict[int, Place], dict[int, bytes]]:
        """The first of some maps that is in accord with what is there and what is missing, and what is restored.

        Args:
            maps: positions of all packets, by number, if a position is of one size or another; the last has most.
        """
        maps = list({tuple(each): each for each in maps}.values())  # of many sizes the same packets are there
        likely = [each for each in maps if self.streams.keys() <= each.keys()]
        for each in likely or maps[-1:]:
            if self.whole and each.keys() <= self.streams.keys():
                return each, {}
            restored = _restored(self.head, self.streams, self.parity, each)
            if self.whole or restored is not None:
                return each, restored or {}
        return next((each for each in likely if self.streams.keys() < each.keys()), maps[-1]), {}


def _restored(
    head: Head, streams: Mapping[int, bytes], parity: Mapping[int, bytes], numbers: Collection[int]
) -> dict[int, bytes] | None:
    """Streams of missing packets by number; None if parity packets cannot tell, or are not in accord with others.

    It takes no more memory than parity packets do. Its work needs no bound beside that of the search: for each packet
    that is missing, of which there are at most as many as parity packets, 82, it goes through all rows once, and these
    are parts of the section that do not overlap. That is less for each byte than to decode one takes, whatever a file
    claims; and it is done for each of a few maps at most, and once more for what turns out not to be valid.

    Args:
        numbers: of all packets but those for parity.
    """
    missing = [number for number in numbers if number not in streams]
    rows = _rows(head, {number: streams[number] for number in numbers if number in streams})
    size = len(next(iter(parity.values()), b""))
    if not parity or len(parity) < len(missing) or any(len(row) > size for row in rows.values()):
        return None
    from codec import erasure

    if not missing:
        some = next(iter(parity))
        return {} if erasure.parity(rows, [some])[some] == parity[some] else None
    found = {}
    for number, row in erasure.restored(rows, parity, missing).items():
        section = head.to_bytes() + bytes([number]) + row
        packet = _Packet.at(section, 0, len(section), len(head.detail))
        if not (packet and packet.fits(section) and packet.sound(section)) or any(section[packet.end :]):
            return None
        found[number] = section[packet.begin : packet.stop]
    return found


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
        return section[self.stop : self.end] == _crc(section[self.start : self.stop])


def _crc(data: bytes) -> bytes:
    """CRC-16/IBM-3740 (polynomial 0x1021 from 0xffff on), little-endian."""
    return crc_hqx(data, 0xFFFF).to_bytes(_CRC_BYTES, "little")
