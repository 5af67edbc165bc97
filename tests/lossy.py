"""Files in packets of which some are lost, of either profile that has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import codec
from codec import Container, CorruptError, DamageWarning, pack, unpack
from codec.profiles import packets
from codec.profiles.packets import Head, Layout, Packets


def decode(data: bytes, **options: Any) -> NDArray[np.uint8]:
    return codec.decode(data, device="cpu", **options)


def mended(data: bytes, **options: Any) -> NDArray[np.uint8]:
    with pytest.warns(DamageWarning, match="packets are lost or damaged"):
        return decode(data, **options)


def overwritten(data: bytes, layout: Layout, lost: Iterable[int], fill: bytes | None) -> bytes:
    """The file with some of its packets overwritten, or without them."""
    file = unpack(data)
    found, section = layout.of(file), file.sections[layout.section]
    for number in lost:
        part = packets.write(found.head, {number: found.streams[number]})
        section = section.replace(part, b"" if fill is None else fill * len(part))
    return data[: file.header.spans[layout.section][0]] + section


def forged(data: bytes, layout: Layout, streams: Mapping[int, bytes]) -> bytes:
    """The file with other streams in some of its packets, and checksums that are right."""
    file = unpack(data)
    found = layout.of(file)
    return pack(file.header, file.sections | {layout.section: packets.write(found.head, {**found.streams, **streams})})


FORGERIES: Mapping[str, Callable[[bytes], bytes]] = {
    "cut": lambda stream: stream[: len(stream) // 2],
    "random": lambda stream: np.random.default_rng(list(stream)).bytes(len(stream)),
    "long": lambda stream: stream + b"123456789",
}


def check_forgery(data: bytes, layout: Layout, forgery: str) -> None:
    """Packets of a file in nine that hold nothing valid are as lost ones, though their checksums are right.

    By chance, half a stream and random bytes may be valid; all of these are not.
    """
    streams, numbers = layout.of(unpack(data)).streams, range(1, 9)
    made = forged(data, layout, {number: FORGERIES[forgery](streams[number]) for number in numbers})
    lost = codec.describe(made, device="cpu")["lost"]
    assert 1 <= lost <= len(numbers)
    with pytest.warns(DamageWarning, match=f"^{lost} of 9 packets are lost or damaged"):
        picture = decode(made)
    assert not np.array_equal(picture, decode(data))
    codec.verify(made)  # only a model could tell
    if forgery == "long":
        assert lost == len(numbers)
        assert np.array_equal(picture, mended(overwritten(data, layout, numbers, b"\xa5")))
    codec.verify(codec.repair(made, device="cpu"))
    none = forged(data, layout, {number: FORGERIES["long"](stream) for number, stream in streams.items()})
    with pytest.raises(CorruptError, match="no packet of the picture is sound"):
        decode(none)
    assert mended(none[:-1]).shape == picture.shape  # what is missing may be sound


def of_section(like: bytes, layout: Layout, section: bytes, length: int | None = None) -> Packets:
    """Packets of a section that was written with so many bytes, in a file like another one."""
    body = bytes(len(section) if length is None else length)
    whole = unpack(pack(unpack(like).header, {layout.section: body}))
    return layout.of(Container(whole.header, {layout.section: section}))


def check_damage(
    read: Callable[[bytes], Packets], head: Head, streams: Mapping[int, bytes],
    damages: Sequence[tuple[int, int, bytes]],
) -> None:  # fmt: skip
    """Whatever is overwritten, cut out or put in, it costs the packets that it hits, and no others."""
    parts = {number: packets.write(head, {number: stream}) for number, stream in streams.items()}
    section = b"".join(parts.values())
    for place, count, instead in damages:
        section = section[:place] + instead + section[place + count :]
    try:
        found = read(section)
    except CorruptError:
        assert not any(part in section for part in parts.values())
        return
    whole = {number: streams[number] for number, part in parts.items() if part in section}
    assert all(found.streams.get(number) == stream for number, stream in whole.items())
