"""Packets of a file, wherever in a damaged section they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from codec.container import Container, Section
from codec.profiles.options import Whole, option
from codec.profiles.packets.contents import Packets, nothing_sound
from codec.profiles.packets.one_packet import MAX_RESILIENCE, Head, Packet, Place, places
from codec.profiles.packets.parity import restore

_WORK = 2**29  # bytes that checksums are computed of in a search: more only if a section was made to take long
_STEP = 64  # of these take as long as to look whether there is a packet


def resilience_option() -> Any:
    """Field of how many packets a file has."""
    return option(
        0, Whole(0, MAX_RESILIENCE),
        "More makes files of more packets: larger ones, that bear more damage and lose less.",
    )  # fmt: skip


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
            last = Packet.at(section, found[-1].end if found else 0, length, self.detail)
            if last and last.head == (head or last.head) and last.end > len(section):
                return _Found.of(section, length, last.head, found, last)
        elif head is None:
            raise nothing_sound()
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
    ) -> Iterator[Packet]:
        """Sound packets with this head or any, wherever in a section they are.

        Args:
            followed: only those that the same head or the section's end follows.
        """
        likely = self._starts(head)
        place, work = 0, _WORK
        while place < len(section) and work > 0:
            packet = Packet.at(section, place, length, self.detail)
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
        cls, section: bytes, length: int, head: Head, sound: Sequence[Packet], begun: Packet | None = None
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
            restored = restore(self.head, self.streams, self.parity, each)
            if self.whole or restored is not None:
                return each, restored or {}
        return next((each for each in likely if self.streams.keys() < each.keys()), maps[-1]), {}
