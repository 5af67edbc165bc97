"""Files in packets of which some are lost, of either profile that has them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from latents import TINY_VQ
from numpy.typing import NDArray

import codec
from codec import Container, DamageWarning, pack, unpack
from codec.profiles import packets
from codec.profiles.msp import bitstream
from codec.profiles.packets import Head, Layout, Packets
from codec.profiles.vq.profile import PACKETS

Size = tuple[int, int]
photo = partial(pictures.photo, "astronaut.png")


def decode(data: bytes, **options: Any) -> NDArray[np.uint8]:
    return codec.decode(data, device="cpu", **options)


def mended(data: bytes, **options: Any) -> NDArray[np.uint8]:
    with pytest.warns(DamageWarning, match="packets are lost or damaged"):
        return decode(data, **options)


def repaired(data: bytes) -> bytes:
    """A whole file of one of which too much is lost to be restored, which is told."""
    with pytest.warns(DamageWarning, match="packets are lost or damaged"):
        return codec.repair(data, device="cpu")


def exact(data: bytes) -> NDArray[np.uint8]:
    """The picture of a file, which is as good as a whole one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DamageWarning)
        return decode(data)


def parts_of(data: bytes, layout: Layout) -> list[bytes]:
    """Packets of a whole file but for those for parity."""
    found = layout.of(unpack(data))
    return [packets.packet(found.head, *each) for each in found.streams.items()]


def numbers_of(data: bytes, layout: Layout) -> list[int]:
    """Numbers of all packets of a file, those for parity at last."""
    found = layout.of(unpack(data))
    return [*found.streams, *found.parity]


def overwritten(data: bytes, layout: Layout, lost: Iterable[int], fill: bytes | None) -> bytes:
    """The file with some of its packets overwritten, or without them."""
    file = unpack(data)
    found, section = layout.of(file), file.sections[layout.section]
    contents = {**found.streams, **found.parity}
    for number in lost:
        part = packets.packet(found.head, number, contents[number])
        section = section.replace(part, b"" if fill is None else fill * len(part))
    return data[: file.header.spans[layout.section][0]] + section


@dataclass(frozen=True, eq=False)
class Case:
    """A profile whose files can be in packets, with a tiny model of random weights, and a photo that it codes.

    Attributes:
        profile: its name.
        model: name or path.
        layout: of its packets.
        resiliences: some of files in packets, the least at first.
        size: height and width of the photo.
        quality: that of its files.
        facts: of these, but for those of packets.
        head: of packets of this profile, of which there are 16.
    """

    profile: str
    model: str | Path
    layout: Layout
    resiliences: tuple[int, int, int, int]
    size: Size
    quality: int
    facts: dict[str, Any]
    head: Head

    def encode(self, pixels: NDArray[np.uint8], **options: Any) -> bytes:
        return codec.encode(pixels, **{"profile": self.profile, "model": self.model, "device": "cpu", **options})

    def coded(self, resilience: int, size: Size | None = None) -> bytes:
        """The photo, or a part of it."""
        return _coded(self, resilience, size or self.size)

    def packets(self, data: bytes) -> Packets:
        return self.layout.of(unpack(data))

    def section(self, data: bytes) -> bytes:
        """The section of a file that holds packets."""
        return unpack(data).sections[self.layout.section]

    def overwritten(self, data: bytes, lost: Iterable[int], fill: bytes | None = b"\xa5") -> bytes:
        """The file with some of its packets overwritten, or without them."""
        return overwritten(data, self.layout, lost, fill)

    def without(self, data: bytes, lost: Iterable[int], fill: bytes | None = b"\xa5") -> bytes:
        """The same, and with all packets for parity, so that they restore none."""
        return self.overwritten(data, [*lost, *self.packets(data).parity], fill)

    def replaced(self, data: bytes, section: bytes) -> bytes:
        """The file with another section in the place of the one that holds packets, and checksums that are right."""
        file = unpack(data)
        return pack(file.header, file.sections | {self.layout.section: section})

    def of_section(self, section: bytes, length: int | None = None) -> Packets:
        """Packets of a section that was written with so many bytes, in a file of the photo."""
        body = bytes(len(section) if length is None else length)
        whole = unpack(pack(unpack(self.coded(self.resiliences[0])).header, {self.layout.section: body}))
        return self.layout.of(Container(whole.header, {self.layout.section: section}))


@cache
def _coded(case: Case, resilience: int, size: Size) -> bytes:
    return case.encode(photo(*size), resilience=resilience, quality=case.quality)


VQ = Case("vq", TINY_VQ, PACKETS, (0, 1, 2, 3), (300, 260), 100, {"codebook": 40}, Head(7, 3))
MSP = Case(
    "msp", "tiny", bitstream.PACKETS, (1, 3, 5, 7), (260, 200), 80,
    {"preset": "normal", "tune": "fidelity", "quality": 80.0}, Head(1, 3, b"\x20\1"),
)  # fmt: skip
CASES = (VQ, MSP)
