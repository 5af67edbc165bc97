"""Profile msp in packets: what is coded comes back, and what is lost is what the prior expects."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import crc32

import lossy
import numpy as np
import pytest
import reader
from conftest import METADATA, opened, run
from hypothesis import given, settings
from hypothesis import strategies as st
from latents import TINY, latent_coded, latent_of, symbols_of_packets, transform_of
from lossy import check_damage, decode, exact, mended, overwritten, repaired
from numpy.typing import NDArray
from PIL import Image

import codec
import pillow_clric
from codec import (
    CorruptError,
    DamageWarning,
    FormatError,
    Section,
    TruncatedError,
    UnsupportedError,
    blocks,
    pack,
    unpack,
)
from codec.autoencoders.networks.coding_order import PRESETS
from codec.entropy.tables import FRACTIONS
from codec.profiles import packets
from codec.profiles.msp import concealment, latent_coding
from codec.profiles.msp.bitstream import PACKETS
from codec.profiles.msp.concealment import conceal
from codec.profiles.packets import Head

Pixels = NDArray[np.uint8]

pytestmark = pytest.mark.usefixtures("golden_models")

SAMPLES = Path(__file__).parent.parent / "samples"
SIZES = [(1, 1), (1, 50), (17, 3), (40, 300), (130, 100)]


@cache
def photo(height: int, width: int, channels: int = 3) -> Pixels:
    """A part of a photo, (height, width) or with `channels`, and random alpha."""
    with Image.open(SAMPLES / "astronaut.png") as image:
        picture = image.convert("RGB").crop((0, 0, width, height))
    pixels = np.asarray(picture.convert("L") if channels < 3 else picture)
    if channels in (2, 4):
        pixels = np.dstack([pixels, np.random.default_rng(0).integers(1, 256, (height, width), np.uint8)])
    return pixels


def encode(pixels: Pixels, **options: Any) -> bytes:
    return codec.encode(pixels, **{"profile": "msp", "model": "tiny", "device": "cpu", **options})


@cache
def coded(resilience: int, height: int = 260, width: int = 200) -> bytes:
    return encode(photo(height, width), resilience=resilience, quality=80)


@cache
def whole_of(data: bytes) -> tuple[Pixels, NDArray[np.int32]]:
    """Picture and symbols of a file of which nothing is lost."""
    return decode(data), latent_of(data)


def without(data: bytes, lost: Iterable[int], *, fill: bytes | None = b"\xa5") -> bytes:
    return lossy.without(data, PACKETS, lost, fill)


def of_section(section: bytes, length: int | None = None) -> packets.Packets:
    return lossy.of_section(coded(1), PACKETS, section, length)


# What is coded comes back


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_modes_and_sizes(size: tuple[int, int], channels: int) -> None:
    pixels = photo(*size, channels)
    decoded = decode(encode(pixels, quality=90, resilience=2 * channels - 1))
    assert (decoded.shape, decoded.dtype) == (pixels.shape, pixels.dtype)
    if channels in (2, 4):
        assert np.array_equal(decoded[:, :, -1], pixels[:, :, -1])


@pytest.mark.parametrize("resilience", [1, 2, 3, 9])
@pytest.mark.parametrize("preset", PRESETS)
def test_another_reader_reads_the_same_symbols(preset: str, resilience: int) -> None:
    for size in ((30, 17), (160, 176)):  # there are all packets of the second, whatever its resilience
        data = latent_coded(preset, photo(*size), 300, resilience)
        section = unpack(data).sections[Section.PACKETS]
        shape = [-(-side // 16) for side in size]
        other = reader.Latent(section, reader.model_tensors(TINY), *shape, in_packets=True)
        assert np.array_equal(other.symbols, latent_of(data))
        assert other.symbols.any()


def test_pictures_are_those_of_files_in_one_piece() -> None:
    """Which symbols are surely zero depends on packets, so there may be small differences."""
    whole = decode(encode(photo(260, 200), quality=80)).astype(float)
    for resilience in (1, 4, 9):
        assert np.abs(decode(coded(resilience)) - whole).mean() < 1


def test_no_resilience_no_packets() -> None:
    assert encode(photo(64, 80)) == encode(photo(64, 80), resilience=0)
    assert unpack(encode(photo(64, 80))).sections.keys() == {Section.GRIDS}
    assert unpack(coded(1)).sections.keys() == {Section.PACKETS}


def test_readers_that_know_no_packets_say_so() -> None:
    """As they would of any type that they do not know."""
    data = coded(1)
    head = data[: unpack(data).header.size - 4]
    place = 3 + 1 + 1 + 2 + 2 + 8
    assert head[place] == 0x40 | Section.PACKETS
    unknown = head[:place] + bytes([0x40 | 63]) + head[place + 1 :]
    with pytest.raises(UnsupportedError, match="needs a section of type 63, not known to this version: update"):
        codec.read_header(BytesIO(unknown + crc32(unknown).to_bytes(4, "little")))


def test_packets_take_seven_bytes() -> None:
    data = coded(1)
    header = unpack(data).header
    found = PACKETS.of(unpack(data))
    assert header.size == 5 + 2 + 2 + 8 + 3 + 4 + 4
    contents = [*found.streams.values(), *found.parity.values()]
    assert (len(contents), max(map(len, contents))) == (5, len(contents[-1]))
    assert len(contents[-1]) < 128 * 128
    assert len(data) == header.size + sum(7 + (len(each) > 127) + len(each) for each in contents)
    codec.verify(data)


@pytest.mark.parametrize("target", [700, 1200])
def test_target_size(target: int) -> None:
    size = len(encode(photo(260, 200), target_size=target, resilience=2))
    assert 0.9 * target <= size <= target


def test_metadata_and_alpha_are_checked_though_packets_check_themselves() -> None:
    image = Image.fromarray(photo(64, 80, 4))
    data = pillow_clric.encode(image, profile="msp", model="tiny", resilience=1, **METADATA)
    restored = opened(data)
    restored.load()
    assert restored.info["xmp"] == METADATA["xmp"]
    start, length = unpack(data).header.spans[Section.ALPHA]
    place = start + length // 2
    with pytest.raises(CorruptError, match="checksum"):
        decode(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(TruncatedError, match="truncated"):
        decode(data[:place])
    assert mended(data[: start + length + 5], allow_truncated=True).shape == (64, 80, 4)


@pytest.mark.parametrize("effort", [1, 5, 9])
def test_efforts(effort: int) -> None:
    data = encode(photo(64, 80), resilience=3, effort=effort)
    assert codec.describe(data)["packets"] == 16
    assert data == encode(photo(64, 80), resilience=3, effort=effort)


@pytest.mark.parametrize("scale", codec.SCALES)
def test_previews(scale: int) -> None:
    assert mended(without(coded(2), [1]), scale=scale).shape == (-(-260 // scale), -(-200 // scale), 3)


def test_describe() -> None:
    facts = {"preset": "normal", "tune": "fidelity", "quality": 80.0, "packets": 16}
    assert codec.describe(coded(3)) == facts | {"parity": 3}
    assert codec.describe(without(coded(3), [1, 5])) == facts | {"lost": 2}
    assert codec.describe(overwritten(coded(3), PACKETS, [1, 5], b"")) == facts | {"parity": 3, "restored": 2}


def test_small_latents_have_fewer_packets() -> None:
    data = encode(photo(20, 40), resilience=9)
    assert codec.describe(data)["packets"] == 6
    facts = codec.describe(without(data, [0]))
    assert (facts["packets"], facts["lost"]) == (6, 1)


# Packets


@given(
    st.dictionaries(st.integers(0, 15), st.binary(max_size=300)),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 40), st.binary(max_size=60)), max_size=3),
)
def test_damage_costs_the_packets_that_it_hits(
    streams: dict[int, bytes], damages: list[tuple[int, int, bytes]]
) -> None:
    check_damage(of_section, Head(1, 3, b"\x20\1"), streams, damages)


@settings(max_examples=200)
@given(st.binary(max_size=400), st.integers(0, 30))
def test_any_bytes_are_packets_or_refused(section: bytes, missing: int) -> None:
    try:
        found = of_section(section, len(section) + missing)
    except CorruptError:
        return
    assert set(found.streams) <= set(found.places)
    assert len(found.head.detail) == 2


def test_a_packet_may_be_long() -> None:
    head, generator = Head(1, 1, b"\0\1"), np.random.default_rng(0)
    streams = {number: generator.bytes(2**21 + 5) for number in range(4)}
    assert of_section(packets.write(head, streams)).streams == streams
    damaged = bytearray(packets.write(head, streams))
    damaged[100] ^= 1
    found = of_section(bytes(damaged))
    assert (found.streams, found.restored) == (streams, [0])


@settings(max_examples=50)
@given(st.binary(max_size=80), st.integers(1, 10))
def test_any_bytes_are_symbols_or_refused(stream: bytes, spacing: int) -> None:
    prior, shape = transform_of().prior("normal", 100), (5, 7, transform_of().channels)
    symbols, known = latent_coding.decode_beginning(prior, stream, 5, 7, spacing=spacing)
    assert (symbols.shape, known.shape) == (shape, shape[:2])
    try:
        assert latent_coding.decode(prior, stream, 5, 7, spacing=spacing).shape == shape
    except CorruptError:
        return


@pytest.mark.parametrize("fill", [b"\0", b"\xff", None])
@pytest.mark.parametrize(("resilience", "lost"), [(1, [0]), (2, [3, 4]), (3, [1, 7, 9, 15]), (9, range(10, 60))])
def test_lost_packets(resilience: int, lost: Iterable[int], fill: bytes | None) -> None:
    data, lost = coded(resilience), list(lost)
    damaged, (whole, latent) = without(data, lost, fill=fill), whole_of(data)
    picture = mended(damaged)
    symbols, known = symbols_of_packets(unpack(damaged))
    assert known.any()
    assert not known.all()
    assert np.array_equal(latent[known], symbols[known])
    assert not np.array_equal(picture, whole)
    total = len(PACKETS.of(unpack(data)).places)
    with pytest.raises(CorruptError, match=rf"{len(lost)} of {total} packets are lost or damaged: .*--repair"):
        codec.verify(damaged)


@pytest.mark.parametrize("resilience", [1, 4, 9])
def test_lost_packets_are_restored(resilience: int) -> None:
    lossy.check_restored(coded(resilience, 100, 130), PACKETS)


def test_false_parity_packets_restore_nothing() -> None:
    lossy.check_false_parity(coded(3, 100, 130), PACKETS)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("burst", [False, True])
def test_a_picture_whatever_is_lost(share: float, burst: bool) -> None:
    for resilience in (1, 3, 9):
        data, generator = coded(resilience, 100, 130), np.random.default_rng(resilience)
        numbers = list(PACKETS.of(unpack(data)).places)
        count = max(1, round(share * len(numbers)))
        first = generator.integers(len(numbers) - count + 1)
        lost = numbers[first : first + count] if burst else generator.choice(numbers, count, replace=False).tolist()
        damaged = without(data, lost, fill=generator.bytes(1))
        with pytest.warns(DamageWarning, match=f"^{count} of {len(numbers)} packets"):
            image = pillow_clric.decode(damaged)
        assert image.size == (130, 100)
        known = symbols_of_packets(unpack(damaged))[1]
        assert np.array_equal(latent_of(repaired(damaged))[known], whole_of(data)[1][known])


def test_what_is_lost_looks_more_like_the_photo_than_nothing_would() -> None:
    data = encode(photo(260, 200), resilience=4, quality=50, model="transform")
    whole, grey = decode(data).astype(float), mended(data[: unpack(data).header.size])
    errors = [np.square(mended(without(data, range(0, 25, step))) - whole).mean() for step in (10, 5, 2)]
    assert errors == sorted(errors)
    assert errors[-1] < np.square(grey - whole).mean() / 2


def test_a_picture_from_the_header_on() -> None:
    data = coded(2, 100, 130)
    size, whole, near = unpack(data).header.size, decode(data).astype(float), []
    complete = size + sum(map(len, lossy.parts_of(data, PACKETS)))
    for cut in range(size, complete, 11):
        near.append(np.square(mended(data[:cut]) - whole).mean())
        with pytest.raises(TruncatedError):
            decode(data[: min(cut, size - 1)])
    assert near[-1] < near[0] / 10
    assert all(np.array_equal(exact(data[:cut]), whole) for cut in (complete, complete + 1, len(data) - 1))
    with pytest.raises(CorruptError, match="lost"):
        codec.verify(data[:-1])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_beginning_decides_a_beginning(preset: str) -> None:
    prior = transform_of().prior(preset, 100)
    latent = np.random.default_rng(0).laplace(0, 3, (9, 14, transform_of().channels)).astype(np.float32)
    stream, symbols = latent_coding.encode(prior, latent, 2)
    counts = []
    for cut in range(0, len(stream), 40):
        found, known = latent_coding.decode_beginning(prior, stream[:cut], 9, 14, spacing=2)
        assert np.array_equal(found[known], symbols[known])
        counts.append(int(known.sum()))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] > 0.7 * known.size


def test_all_packets_lost() -> None:
    data = coded(3)
    start = unpack(data).header.size
    for rest in (bytes(len(data) - start), bytes(byte ^ 1 for byte in data[start:])):
        with pytest.raises(CorruptError, match="no packet of the picture is sound"):
            decode(data[:start] + rest)


@pytest.mark.parametrize("forgery", lossy.FORGERIES)
def test_packets_that_hold_nothing_valid_are_lost(forgery: str) -> None:
    lossy.check_forgery(coded(2), PACKETS, forgery)


def test_packets_that_hold_nothing_valid_are_restored() -> None:
    lossy.check_forgery_is_restored(coded(4, 100, 130), PACKETS)


def test_stray_bytes_between_packets_are_told() -> None:
    lossy.check_stray_bytes(coded(2), PACKETS)


def test_repair(tmp_path: Path) -> None:
    xmp = {Section.XMP: METADATA["xmp"]}
    data = encode(photo(100, 120, 4), resilience=2, metadata=xmp)
    damaged = without(data, [2, 6])
    picture, whole = mended(damaged), repaired(damaged)
    codec.verify(whole)
    known = symbols_of_packets(unpack(damaged))[1]
    assert np.array_equal(latent_of(whole)[known], latent_of(data)[known])
    assert np.abs(decode(whole).astype(float) - picture)[:, :, :3].mean() < 4
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


def test_what_is_cut_before_its_packets_is_repaired_too() -> None:
    data = coded(2)
    grey = data[: unpack(data).header.size]
    picture, whole = mended(grey), repaired(grey)
    codec.verify(whole)
    assert np.abs(decode(whole).astype(float) - picture).mean() < 4


def test_pillow_warns_and_shows_the_picture() -> None:
    image = opened(without(coded(2), [4]))
    with pytest.warns(pillow_clric.DamageWarning, match="1 of 9"):
        image.load()
    assert image.size == (200, 260)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(coded(2)).load()


def test_heads_that_the_model_does_not_have() -> None:
    file = unpack(coded(1))
    streams = PACKETS.of(file).streams
    for head, error, message in (
        (Head(1, 1, b"\xff\xff"), CorruptError, "position 65535, and its model has"),
        (Head(3, 1, b"\0\0"), UnsupportedError, "preset 3 of profile msp is not known"),
    ):
        with pytest.raises(error, match=message):
            decode(pack(file.header, {Section.PACKETS: packets.write(head, streams)}))


def test_the_second_reader_finds_packets_in_damage() -> None:
    damaged = without(coded(3), [0, 5])
    section = unpack(damaged).sections[Section.PACKETS]
    assert reader.Packets(section, 2, (17, 13)).streams == PACKETS.of(unpack(damaged)).streams


@pytest.mark.parametrize("lost", [range(3), [4, 12, 15], [255, 9, 254]])
def test_the_second_reader_restores_packets(lost: Iterable[int]) -> None:
    damaged = overwritten(coded(3), PACKETS, lost, b"\xa5")
    other = reader.Packets(unpack(damaged).sections[Section.PACKETS], 2, (17, 13))
    assert other.restored.keys() == {number for number in lost if number < 16}
    assert other.streams == PACKETS.of(unpack(coded(3))).streams


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_mutants_are_pictures_or_refused(place: int, change: bytes) -> None:
    data = coded(2, 100, 130)
    place %= len(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamageWarning)
            picture = decode(data[:place] + change + data[place + len(change) :])
    except FormatError:
        return
    assert picture.shape == (100, 130, 3)


# What is expected


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (16, 5), (7, 30)])
def test_known_symbols_are_kept_and_all_others_follow_from_them(preset: str, size: tuple[int, int]) -> None:
    prior, generator = transform_of().prior(preset, 100), np.random.default_rng(0)
    symbols = generator.integers(-9, 10, (*size, transform_of().channels)).astype(np.int32)
    for share in (0.0, 0.3, 0.97, 1.0):
        known = generator.random(size) >= share
        means = conceal(prior, symbols, known)
        assert np.array_equal(means[known], FRACTIONS * symbols[known])
        garbled = np.where(known[:, :, None], symbols, 777)
        assert np.array_equal(conceal(prior, garbled.astype(np.int32), known), means)


def test_memory_is_bounded_by_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are computed at a time, the same is expected."""
    prior, generator = transform_of().prior("normal", 100), np.random.default_rng(0)
    symbols = generator.integers(-9, 10, (31, 12, transform_of().channels)).astype(np.int32)
    known = generator.random((31, 12)) > 0.3
    whole = conceal(prior, symbols, known)
    for module in (blocks, concealment):
        monkeypatch.setattr(module, "BAND", 11)
    assert np.array_equal(conceal(prior, symbols, known), whole)
