"""Files in packets of which some are lost, of either profile that has them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import codec
import pillow_clric
from codec import Container, CorruptError, DamageWarning, pack, unpack
from codec.profiles import packets
from codec.profiles.packets import Head, Layout, Packets


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


def without(data: bytes, layout: Layout, lost: Iterable[int], fill: bytes | None = b"\xa5") -> bytes:
    """The file with some of its packets overwritten, or without them, and all those for parity: they restore none."""
    return overwritten(data, layout, [*lost, *layout.of(unpack(data)).parity], fill)


def check_restored(data: bytes, layout: Layout) -> None:
    """Whichever packets are lost, they are restored if there are no more than parity packets; one more is too much."""
    whole, numbers, found = exact(data), numbers_of(data, layout), layout.of(unpack(data))
    generator, count = np.random.default_rng(0), len(found.parity)
    orders = generator.permutation(numbers), np.roll(numbers, generator.integers(len(numbers))), np.array(numbers)
    for order, fill in zip(orders, (b"\0", b"\xff", None), strict=True):
        lost = order[:count].tolist()
        damaged, gone = overwritten(data, layout, lost, fill), [number for number in lost if number in found.streams]
        assert np.array_equal(exact(damaged), whole)
        assert codec.repair(damaged, device="cpu") == data
        facts = codec.describe(damaged, device="cpu")
        assert facts.get("restored", 0) == len(gone)
        assert facts.get("parity", 0) == count - (len(lost) - len(gone))
        told = f"{len(gone)} of {len(found.streams)} packets are lost or damaged, and can be restored exactly"
        with pytest.raises(CorruptError, match=f"^{told if gone else 'only parity packets'}.*--repair"):
            codec.verify(damaged)
        beyond = overwritten(data, layout, order[: count + 1].tolist(), fill)
        assert mended(beyond).shape == whole.shape
        lost = [number for number in order[: count + 1] if number in found.streams]
        assert codec.describe(beyond, device="cpu")["lost"] == len(lost)


def check_false_parity(data: bytes, layout: Layout) -> None:
    """Parity packets of 16 others that are wrong, with right checksums, restore nothing; right ones beside them do."""
    file = unpack(data)
    found, falsify = layout.of(file), (lambda row: row[:-1], lambda row: row + b"\1", lambda row: bytes(len(row)))
    left = {number: stream for number, stream in found.streams.items() if number not in (2, 5)}

    def made(parity: Mapping[int, bytes]) -> bytes:
        section = b"".join(packets.packet(found.head, *each) for each in {**left, **parity}.items())
        return pack(file.header, file.sections | {layout.section: section})

    nothing, numbers = mended(made({})), list(found.parity)
    for false in falsify:
        parity = {number: false(row) for number, row in found.parity.items()}
        assert np.array_equal(mended(made(parity)), nothing)
    for length in (0, 5, 10**6):
        assert np.array_equal(exact(made({**found.parity, numbers[0]: bytes(length)})), exact(data))


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
    codec.verify(repaired(made))
    none = forged(data, layout, {number: FORGERIES["long"](stream) for number, stream in streams.items()})
    with pytest.raises(CorruptError, match="no packet of the picture is sound"):
        decode(none)
    assert mended(none[:-1]).shape == picture.shape  # what is missing may be sound


def check_forgery_is_restored(data: bytes, layout: Layout) -> None:
    """Packets that hold nothing valid are restored as lost ones are, if parity packets say what they held."""
    file, whole = unpack(data), exact(data)
    found = layout.of(file)
    false = list(found.streams)[1 : len(found.parity)]
    contents = {n: s + b"123456789" if n in false else s for n, s in {**found.streams, **found.parity}.items()}
    del contents[0]
    section = b"".join(packets.packet(found.head, *each) for each in contents.items())
    made = pack(file.header, file.sections | {layout.section: section})
    assert np.array_equal(exact(made), whole)
    assert codec.describe(made, device="cpu")["restored"] == 1 + len(false)
    assert codec.repair(made, device="cpu") == data


def check_stray_bytes(data: bytes, layout: Layout) -> None:
    """Bytes that are no packet are told from packets that are lost, and a repaired file has none."""
    file = unpack(data)
    made = pack(file.header, file.sections | {layout.section: file.sections[layout.section] + b"1234"})
    with pytest.raises(CorruptError, match=r"^there are bytes that belong to no packet.*--repair"):
        codec.verify(made)
    assert pillow_clric.repair(made) == data


def of_section(like: bytes, layout: Layout, section: bytes, length: int | None = None) -> Packets:
    """Packets of a section that was written with so many bytes, in a file like another one."""
    body = bytes(len(section) if length is None else length)
    whole = unpack(pack(unpack(like).header, {layout.section: body}))
    return layout.of(Container(whole.header, {layout.section: section}))


def check_damage(
    read: Callable[[bytes], Packets], head: Head, streams: Mapping[int, bytes],
    damages: Sequence[tuple[int, int, bytes]],
) -> None:  # fmt: skip
    """Whatever is overwritten, cut out or put in, it costs the packets that it hits, if any, and no others."""
    parts = {number: packets.packet(head, number, stream) for number, stream in streams.items()}
    section = packets.write(head, streams)
    for place, count, instead in damages:
        section = section[:place] + instead + section[place + count :]
    try:
        found = read(section)
    except CorruptError:
        assert not any(part in section for part in parts.values())
        return
    whole = {number: streams[number] for number, part in parts.items() if part in section}
    assert whole.items() <= found.streams.items() <= streams.items()
