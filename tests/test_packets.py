"""Files in packets, of each profile that has them: what is lost costs itself only, is restored, or is likely."""

from __future__ import annotations

import json
import warnings
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reader
from conftest import METADATA, opened, run
from hypothesis import given, settings
from hypothesis import strategies as st
from latents import contents_of, latent_of
from lossy import CASES, MSP, VQ, Case, decode, exact, mended, numbers_of, parts_of, photo, repaired
from numpy.typing import NDArray
from PIL import Image

import codec
import pillow_clric
from codec import CorruptError, DamageWarning, FormatError, Section, TruncatedError, unpack
from codec.profiles import packets
from codec.profiles.packets import Head

Pixels = NDArray[np.uint8]

pytestmark = pytest.mark.usefixtures("golden_models")

MODES = ["L", "LA", "RGB", "RGBA"]
SIZES = [(1, 1), (1, 50), (17, 3), (40, 300)]
SMALL = (100, 130)
FORGERIES: Mapping[str, Callable[[bytes], bytes]] = {
    "cut": lambda stream: stream[: len(stream) // 2],
    "random": lambda stream: np.random.default_rng(list(stream)).bytes(len(stream)),
    "long": lambda stream: stream + b"123456789",
}


def name_of(value: object) -> str | None:
    return value.profile if isinstance(value, Case) else None


each_case = pytest.mark.parametrize("case", CASES, ids=name_of)


@cache
def whole_of(data: bytes) -> tuple[Pixels, NDArray[np.int32]]:
    """Picture and symbols, or indices, of a file of which nothing is lost."""
    return decode(data), latent_of(data)


def lost_from(numbers: Sequence[int], count: int, burst: bool, generator: np.random.Generator) -> list[int]:
    """Some numbers that follow each other, or any."""
    first = int(generator.integers(len(numbers) - count + 1))
    chosen = numbers[first : first + count] if burst else generator.choice(numbers, count, replace=False).tolist()
    return list(chosen)


# What is coded comes back


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("case", "size"), [*product(CASES, SIZES), (VQ, (300, 260)), (MSP, (130, 100))], ids=name_of
)  # fmt: skip
def test_modes_and_sizes(case: Case, size: tuple[int, int], mode: str) -> None:
    pixels = photo(*size, mode)
    decoded = decode(case.encode(pixels, quality=90, resilience=case.resiliences[MODES.index(mode)]))
    assert (decoded.shape, decoded.dtype) == (pixels.shape, pixels.dtype)
    if mode.endswith("A"):
        assert np.array_equal(decoded[:, :, -1], pixels[:, :, -1])


@pytest.mark.parametrize(
    ("case", "resilience", "target"),
    [(VQ, 0, 120), (VQ, 0, 195), (VQ, 0, 240), (MSP, 2, 700), (MSP, 2, 1200)],
    ids=name_of,
)
def test_target_size(case: Case, resilience: int, target: int) -> None:
    size = len(case.encode(photo(*case.size), target_size=target, resilience=resilience))
    assert 0.9 * target <= size <= target


@each_case
def test_metadata_and_alpha_are_checked_though_packets_check_themselves(case: Case) -> None:
    image = Image.fromarray(photo(64, 80, "RGBA"))
    options: dict[str, Any] = {"profile": case.profile, "model": case.model, "resilience": case.resiliences[0]}
    data = pillow_clric.encode(image, **options, **METADATA)
    restored = opened(data)
    restored.load()
    assert restored.info["exif"].endswith(METADATA["exif"].removeprefix(b"Exif\0\0"))
    assert restored.info["xmp"] == METADATA["xmp"]
    start, length = unpack(data).header.spans[Section.ALPHA]
    place = start + length // 2
    with pytest.raises(CorruptError, match="checksum"):
        decode(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(TruncatedError, match="truncated"):
        decode(data[:place])
    assert mended(data[: start + length + 5], allow_truncated=True).shape == (64, 80, 4)


@each_case
def test_describe(case: Case) -> None:
    data, facts = case.coded(3), case.facts | {"packets": 16}
    assert codec.describe(data) == facts | {"parity": 3}
    assert codec.describe(case.without(data, [1, 5])) == facts | {"lost": 2}
    assert codec.describe(case.overwritten(data, [1, 5], b"")) == facts | {"parity": 3, "restored": 2}


@each_case
def test_small_pictures_have_fewer_packets(case: Case) -> None:
    assert len(packets.places(9, 2, 3)) == 6
    data = case.encode(photo(20, 40), resilience=9)
    assert codec.describe(data)["packets"] == 6
    facts = codec.describe(case.without(data, [0]))
    assert (facts["packets"], facts["lost"]) == (6, 1)


# Packets of a section


@pytest.mark.parametrize("resilience", range(10))
def test_packets_cover_a_map_once_and_neighbours_are_in_others(resilience: int) -> None:
    count = np.zeros((20, 30), int)
    number = np.zeros((20, 30), int)
    for p, place in packets.places(resilience, 20, 30).items():
        count[place] += 1
        number[place] = p
    assert (count == 1).all()
    if resilience:
        assert (number[1:] != number[:-1]).all()
        assert (number[:, 1:] != number[:, :-1]).all()


def test_bursts_leave_scattered_holes() -> None:
    number = np.zeros((50, 50), int)
    for p, place in packets.places(4, 50, 50).items():
        number[place] = p
    lost = (number >= 7) & (number < 12)  # a fifth
    assert not (lost[1:] & lost[:-1]).any() or not (lost[:, 1:] & lost[:, :-1]).any()


@each_case
@given(
    streams=st.dictionaries(st.integers(0, 15), st.binary(max_size=300)),
    damages=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 40), st.binary(max_size=60)), max_size=3),
)
def test_damage_costs_the_packets_that_it_hits(
    case: Case, streams: dict[int, bytes], damages: list[tuple[int, int, bytes]]
) -> None:
    """Whatever is overwritten, cut out or put in, if it hits any, and no others."""
    parts = {number: packets.packet(case.head, number, stream) for number, stream in streams.items()}
    section = packets.write(case.head, streams)
    for place, count, instead in damages:
        section = section[:place] + instead + section[place + count :]
    try:
        found = case.of_section(section)
    except CorruptError:
        assert not any(part in section for part in parts.values())
        return
    whole = {number: streams[number] for number, part in parts.items() if part in section}
    assert whole.items() <= found.streams.items() <= streams.items()


@each_case
@settings(max_examples=200)
@given(section=st.binary(max_size=400), missing=st.integers(0, 30))
def test_any_bytes_are_packets_or_refused(case: Case, section: bytes, missing: int) -> None:
    try:
        found = case.of_section(section, len(section) + missing)
    except CorruptError:
        return
    assert set(found.streams) <= set(found.places)
    assert len(found.head.detail) == len(case.head.detail)


@each_case
@pytest.mark.parametrize("resilience", [1, 2, 9])
def test_much_damage_costs_no_more_than_the_packets_that_it_hits(resilience: int, case: Case) -> None:
    """However much there is that may be packets, and by chance even is."""
    head, generator = Head(5, resilience, case.head.detail), np.random.default_rng(0)
    count = (1 + resilience) ** 2
    streams = {number: generator.bytes(60000 // count) for number in range(count)}
    parts = [packets.packet(head, number, stream) for number, stream in streams.items()]
    hit = range(count // 2)
    damaged = [bytes([part[0] ^ 0x80]) + part[1:] if number in hit else part for number, part in enumerate(parts)]
    chance = packets.packet(Head(6, 3, case.head.detail), 1, b"by chance")
    found = case.of_section(chance + b"".join(damaged))
    assert found.head == head
    assert found.streams == {number: stream for number, stream in streams.items() if number not in hit}


@each_case
def test_only_the_packet_in_which_a_file_is_cut_begins(case: Case) -> None:
    head = Head(2, 1, case.head.detail)
    parts = [packets.packet(head, number, bytes([number]) * 50) for number in range(4)]
    whole = b"".join(parts)
    found = case.of_section(whole[:-9], len(whole))
    assert {number: found.streams[number] for number in range(3)} == {n: bytes([n]) * 50 for n in range(3)}
    assert found.beginnings == {3: bytes([3]) * 43}
    damaged = b"".join([*parts[:2], parts[2][:20] + b"x" + parts[2][21:], parts[3]])
    assert not case.of_section(damaged[:-9], len(whole)).beginnings


@each_case
def test_a_length_has_no_needless_zeros(case: Case) -> None:
    head = Head(2, 1, case.head.detail)
    start = head.to_bytes() + bytes([0, 0x83, 0x00]) + b"abc"
    padded = start + crc_hqx(start, 0xFFFF).to_bytes(2, "little")
    found = case.of_section(padded + packets.packet(head, 1, b"abc"))
    assert found.streams == {1: b"abc"}


def test_what_is_made_to_look_like_packets_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    section, work = bytes([0x97, 1, 0xFF, 0xFF, 0x02]) * 40000, 0

    def counted(data: bytes) -> bytes:
        nonlocal work
        work += len(data)
        return b""

    monkeypatch.setattr("codec.profiles.packets.one_packet.crc", counted)
    with pytest.raises(CorruptError, match="beyond repair"):
        VQ.of_section(section)
    assert 2**28 < work < 2**30


def test_a_packet_may_be_long() -> None:
    head, generator = Head(1, 1, b"\0\1"), np.random.default_rng(0)
    streams = {number: generator.bytes(2**21 + 5) for number in range(4)}
    assert MSP.of_section(packets.write(head, streams)).streams == streams
    damaged = bytearray(packets.write(head, streams))
    damaged[100] ^= 1
    found = MSP.of_section(bytes(damaged))
    assert (found.streams, found.restored) == (streams, [0])


# Files of which packets are lost


@each_case
@pytest.mark.parametrize("fill", [b"\0", b"\xff", None])
@pytest.mark.parametrize(("resilience", "lost"), [(1, [0]), (2, [3, 4]), (3, [1, 7, 9, 15]), (9, range(10, 60))])
def test_lost_packets(resilience: int, lost: Iterable[int], fill: bytes | None, case: Case) -> None:
    data, lost = case.coded(resilience), list(lost)
    damaged, (whole, latent) = case.without(data, lost, fill), whole_of(data)
    picture = mended(damaged)
    found, known = contents_of(unpack(damaged))
    assert known.any()
    assert not known.all()
    assert np.array_equal(latent[known], found[known])
    assert not np.array_equal(picture, whole)
    total = len(case.packets(data).places)
    with pytest.raises(CorruptError, match=rf"{len(lost)} of {total} packets are lost or damaged: .*--repair"):
        codec.verify(damaged)


@each_case
@pytest.mark.parametrize("resilience", [1, 4, 9])
def test_lost_packets_are_restored(resilience: int, case: Case) -> None:
    """Whichever are lost, if there are no more than parity packets; one more is too much."""
    data = case.coded(resilience, SMALL)
    whole, numbers, found = exact(data), numbers_of(data, case.layout), case.packets(data)
    generator, count = np.random.default_rng(0), len(found.parity)
    orders = generator.permutation(numbers), np.roll(numbers, generator.integers(len(numbers))), np.array(numbers)
    for order, fill in zip(orders, (b"\0", b"\xff", None), strict=True):
        lost = order[:count].tolist()
        damaged, gone = case.overwritten(data, lost, fill), [number for number in lost if number in found.streams]
        assert np.array_equal(exact(damaged), whole)
        assert codec.repair(damaged, device="cpu") == data
        facts = codec.describe(damaged, device="cpu")
        assert facts.get("restored", 0) == len(gone)
        assert facts.get("parity", 0) == count - (len(lost) - len(gone))
        told = f"{len(gone)} of {len(found.streams)} packets are lost or damaged, and can be restored exactly"
        with pytest.raises(CorruptError, match=f"^{told if gone else 'only parity packets'}.*--repair"):
            codec.verify(damaged)
        beyond = case.overwritten(data, order[: count + 1].tolist(), fill)
        assert mended(beyond).shape == whole.shape
        lost = [number for number in order[: count + 1] if number in found.streams]
        assert codec.describe(beyond, device="cpu")["lost"] == len(lost)


@each_case
def test_false_parity_packets_restore_nothing(case: Case) -> None:
    """Parity packets of 16 others that are wrong, with right checksums; right ones beside them do."""
    data = case.coded(3, SMALL)
    found, falsify = case.packets(data), (lambda row: row[:-1], lambda row: row + b"\1", lambda row: bytes(len(row)))
    left = {number: stream for number, stream in found.streams.items() if number not in (2, 5)}

    def made(parity: Mapping[int, bytes]) -> bytes:
        parts = (packets.packet(found.head, *each) for each in {**left, **parity}.items())
        return case.replaced(data, b"".join(parts))

    nothing, whole, numbers = mended(made({})), exact(data), list(found.parity)
    for false in falsify:
        parity = {number: false(row) for number, row in found.parity.items()}
        assert np.array_equal(mended(made(parity)), nothing)
    for length in (0, 5, 10**6):
        assert np.array_equal(exact(made({**found.parity, numbers[0]: bytes(length)})), whole)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("burst", [False, True])
@pytest.mark.parametrize(("case", "draws"), [(VQ, 3), (MSP, 1)], ids=name_of)
def test_a_picture_whatever_is_lost(case: Case, draws: int, burst: bool, share: float) -> None:
    for resilience, seed in product((1, 3, 9), range(draws)):
        data, generator = case.coded(resilience, SMALL), np.random.default_rng(seed)
        numbers = list(case.packets(data).places)
        count = max(1, round(share * len(numbers)))
        damaged = case.without(data, lost_from(numbers, count, burst, generator), generator.bytes(1))
        with pytest.warns(DamageWarning, match=f"^{count} of {len(numbers)} packets"):
            image = pillow_clric.decode(damaged)
        assert image.size == (130, 100)
        known = contents_of(unpack(damaged))[1]
        assert np.array_equal(latent_of(repaired(damaged))[known], whole_of(data)[1][known])


@pytest.mark.parametrize(
    ("case", "resilience", "step", "nearer"), [(VQ, 0, 1, 2), (VQ, 2, 1, 2), (MSP, 2, 11, 10)], ids=name_of
)
def test_a_picture_from_the_header_on(case: Case, resilience: int, step: int, nearer: int) -> None:
    """And the whole one from the last packet on that is not for parity."""
    data = case.coded(resilience, SMALL)
    size, whole, near = unpack(data).header.size, decode(data).astype(float), []
    complete = size + sum(map(len, parts_of(data, case.layout)))
    for cut in range(size, complete, step):
        near.append(np.square(mended(data[:cut]) - whole).mean())
        with pytest.raises(TruncatedError):
            decode(data[: min(cut, size - 1)])
    assert near[-1] < near[0] / nearer
    cuts = [*range(complete, len(data), 7 * step), complete + 1, max(complete, len(data) - 1)]
    assert all(np.array_equal(exact(data[:cut]), whole) for cut in cuts)
    with pytest.raises(CorruptError, match="lost"):
        codec.verify(data[:-1])


@each_case
def test_all_packets_lost(case: Case) -> None:
    for resilience in (case.resiliences[0], 3):
        data = case.coded(resilience)
        start = unpack(data).header.size
        for rest in (bytes(len(data) - start), bytes(byte ^ 1 for byte in data[start:])):
            with pytest.raises(CorruptError, match="no packet of the picture is sound"):
                decode(data[:start] + rest)


@each_case
@pytest.mark.parametrize("forgery", FORGERIES)
def test_packets_that_hold_nothing_valid_are_lost(forgery: str, case: Case) -> None:
    """Though their checksums are right. By chance, half a stream and random bytes may be valid; not all of these."""
    data = case.coded(2)
    found, numbers = case.packets(data), range(1, 9)

    def forged(streams: Mapping[int, bytes]) -> bytes:
        return case.replaced(data, packets.write(found.head, {**found.streams, **streams}))

    made = forged({number: FORGERIES[forgery](found.streams[number]) for number in numbers})
    lost = codec.describe(made, device="cpu")["lost"]
    assert 1 <= lost <= len(numbers)
    with pytest.warns(DamageWarning, match=f"^{lost} of 9 packets are lost or damaged"):
        picture = decode(made)
    assert not np.array_equal(picture, whole_of(data)[0])
    codec.verify(made)  # only a model could tell
    if forgery == "long":
        assert lost == len(numbers)
        assert np.array_equal(picture, mended(case.overwritten(data, numbers)))
    codec.verify(repaired(made))
    none = forged({number: FORGERIES["long"](stream) for number, stream in found.streams.items()})
    with pytest.raises(CorruptError, match="no packet of the picture is sound"):
        decode(none)
    assert mended(none[:-1]).shape == picture.shape  # what is missing may be sound


@each_case
def test_packets_that_hold_nothing_valid_are_restored(case: Case) -> None:
    """As lost ones are, if parity packets say what they held."""
    data = case.coded(4, SMALL)
    whole, found = exact(data), case.packets(data)
    false = list(found.streams)[1 : len(found.parity)]
    contents = {n: s + b"123456789" if n in false else s for n, s in {**found.streams, **found.parity}.items()}
    del contents[0]
    made = case.replaced(data, b"".join(packets.packet(found.head, *each) for each in contents.items()))
    assert np.array_equal(exact(made), whole)
    assert codec.describe(made, device="cpu")["restored"] == 1 + len(false)
    assert codec.repair(made, device="cpu") == data


@each_case
def test_stray_bytes_between_packets_are_told(case: Case) -> None:
    """And told from packets that are lost; a repaired file has none."""
    data = case.coded(2)
    made = case.replaced(data, case.section(data) + b"1234")
    with pytest.raises(CorruptError, match=r"^there are bytes that belong to no packet.*--repair"):
        codec.verify(made)
    assert pillow_clric.repair(made) == data


@each_case
def test_repair(case: Case, tmp_path: Path) -> None:
    data = case.encode(photo(100, 120, "RGBA"), resilience=2, metadata={Section.XMP: METADATA["xmp"]})
    damaged = case.without(data, [2, 6])
    picture, whole = mended(damaged), repaired(damaged)
    codec.verify(whole)
    (left, known), (found, filled) = contents_of(unpack(damaged)), contents_of(unpack(whole))
    assert np.array_equal(found[known], left[known])
    assert np.array_equal(found[known], latent_of(data)[known])
    assert filled.all()
    shown = decode(whole).astype(float)
    assert shown.shape == picture.shape
    assert np.abs(shown - picture)[:, :, :3].mean() < 4
    assert unpack(whole).sections[Section.XMP] == METADATA["xmp"]
    assert codec.repair(data) == data
    source, target = tmp_path / "damaged.clric", tmp_path / "whole.clric"
    source.write_bytes(damaged)
    assert run("verify", source).exit_code == 1
    assert '"lost": 2' in run("info", "--detail", "--json", source).stdout
    done = run("--repair", source, "-o", target)
    assert done.exit_code == 0
    assert "2 of 9 packets are lost or damaged" in done.stderr
    assert target.read_bytes() == whole
    assert run("verify", target).exit_code == 0
    assert "likely contents" in run(source, "-o", tmp_path / "made.png").stderr


@each_case
def test_what_is_cut_before_its_packets_is_repaired_too(case: Case) -> None:
    data = case.coded(2)
    grey = data[: unpack(data).header.size]
    picture, whole = mended(grey), repaired(grey)
    codec.verify(whole)
    assert np.abs(decode(whole).astype(float) - picture).mean() < 4


@each_case
def test_what_is_restored_is_as_if_nothing_had_been_lost(case: Case, tmp_path: Path) -> None:
    """For those that look at it; `verify` tells of the damage, and a repair makes it undone."""
    data = case.coded(4, SMALL)
    source, target = tmp_path / "damaged.clric", tmp_path / "whole.clric"
    source.write_bytes(case.overwritten(data, [3, 4, 17, 250], b"\0"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(np.asarray(opened(source.read_bytes())), decode(data))
    told = run("verify", source)
    assert told.exit_code == 1
    assert "3 of 25 packets are lost or damaged, and can be restored exactly" in told.stderr
    facts = json.loads(run("info", "--detail", "--json", source).stdout)["coding"]
    assert facts == case.facts | {"packets": 25, "parity": 6, "restored": 3}
    done = run("--repair", source, "-o", target)
    assert done.exit_code == 0
    assert "lost" not in done.stderr
    assert target.read_bytes() == data


def test_what_cannot_be_repaired(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be repaired"):
        codec.repair((Path(__file__).parent / "golden" / "msp-photo.clric").read_bytes())
    image = tmp_path / "photo.png"
    Image.fromarray(photo(20, 20)).save(image)
    refused = run("--repair", image, "-o", tmp_path / "x.clric")
    assert refused.exit_code == 2
    assert "no .clric file: there is nothing to repair" in refused.stderr
    source = tmp_path / "whole.clric"
    source.write_bytes(VQ.coded(0))
    assert "whole.clric would be written over: name another folder as output" in run("--repair", source).stderr
    assert "must be named .clric" in run("--repair", source, "-o", tmp_path / "x.png").stderr


@each_case
def test_pillow_warns_and_shows_the_picture(case: Case) -> None:
    image = opened(case.without(case.coded(2), [4]))
    with pytest.warns(pillow_clric.DamageWarning, match="1 of 9"):
        image.load()
    assert image.size == case.size[::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(case.coded(2)).load()


@pytest.mark.parametrize(("case", "size"), [(VQ, VQ.size), (MSP, SMALL)], ids=name_of)
@settings(max_examples=40)
@given(place=st.integers(0, 10**6), change=st.binary(min_size=1, max_size=4))
def test_mutants_are_pictures_or_refused(case: Case, size: tuple[int, int], place: int, change: bytes) -> None:
    data = case.coded(2, size)
    place %= len(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamageWarning)
            picture = decode(data[:place] + change + data[place + len(change) :])
    except FormatError:
        return
    assert picture.shape == (*size, 3)


# The second reader


def read_again(case: Case, section: bytes) -> reader.Packets:
    """Packets of the photo, as the second reader finds them."""
    height, width = (-(-side // 16) for side in case.size)
    return reader.Packets(section, len(case.head.detail), (height, width))


@each_case
def test_the_second_reader_finds_packets_in_damage(case: Case) -> None:
    damaged = case.without(case.coded(3), [0, 5])
    section, streams = case.section(damaged), case.packets(damaged).streams
    assert read_again(case, section).streams == streams
    by_chance = packets.packet(Head(1, 2, case.head.detail), 1, b"by chance")
    assert read_again(case, by_chance + section).streams == streams


@pytest.mark.parametrize(
    ("case", "resilience", "lost"),
    [(VQ, 4, [24, 0, 255, 7, 251]), (MSP, 3, range(3)), (MSP, 3, [4, 12, 15]), (MSP, 3, [255, 9, 254])],
    ids=name_of,
)
def test_the_second_reader_restores_packets(case: Case, resilience: int, lost: Iterable[int]) -> None:
    data = case.coded(resilience)
    other = read_again(case, case.section(case.overwritten(data, lost)))
    assert other.restored.keys() == {number for number in lost if number < (resilience + 1) ** 2}
    assert other.streams == case.packets(data).streams
