"""Packets of a section: those that it has, what they hold, and what of them is lost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from codec.container import CorruptError, DamageWarning
from codec.profiles.packets.one_packet import Head, Place, packet, parity_numbers
from codec.profiles.packets.parity import parity_packets, restore

Contents = TypeVar("Contents")


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
            streams = restore(self.head, sound, self.parity, self.places) or {}
            more = dict(valid(streams))
            contents, restored = contents | more, restored | more.keys()
            sound |= {number: streams[number] for number in more}
        if not (sound or self.cut):
            raise nothing_sound()
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


def nothing_sound() -> CorruptError:
    return CorruptError("no packet of the picture is sound: the file is damaged beyond repair; get it again")


def write(head: Head, streams: Mapping[int, bytes]) -> bytes:
    """The section: packets in the order of their numbers, and at last those for parity.

    So a file of which the end is missing has lost those that say nothing by themselves before any of the picture. To
    bursts their order makes no difference: as many as there are parity packets may be lost, whichever they are.
    """
    parts = {number: packet(head, number, stream) for number, stream in streams.items()}
    parts |= parity_packets(head, streams)
    return b"".join(parts.values())
