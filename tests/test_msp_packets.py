"""Profile msp in packets: what is coded comes back, and what is lost is what the prior expects."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO
from zlib import crc32

import numpy as np
import pytest
import reader
from hypothesis import given, settings
from hypothesis import strategies as st
from latents import TINY, latent_coded, latent_of, transform_of
from lossy import MSP, decode, mended, photo

import codec
from codec import CorruptError, Section, UnsupportedError, blocks, pack, unpack
from codec.autoencoders.networks.coding_order import PRESETS
from codec.entropy.coder import Encoder, code_laplace, continuations
from codec.entropy.tables import FRACTIONS
from codec.profiles import packets
from codec.profiles.msp import concealment, latent_coding
from codec.profiles.msp.bitstream import PACKETS
from codec.profiles.msp.concealment import conceal
from codec.profiles.packets import Head

pytestmark = pytest.mark.usefixtures("golden_models")

encode, coded, without = MSP.encode, MSP.coded, MSP.without


# What is coded comes back


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


@pytest.mark.parametrize("effort", [1, 5, 9])
def test_efforts(effort: int) -> None:
    data = encode(photo(64, 80), resilience=3, effort=effort)
    assert codec.describe(data)["packets"] == 16
    assert data == encode(photo(64, 80), resilience=3, effort=effort)


@pytest.mark.parametrize("scale", codec.SCALES)
def test_previews(scale: int) -> None:
    assert mended(without(coded(2), [1]), scale=scale).shape == (-(-260 // scale), -(-200 // scale), 3)


def test_heads_that_the_model_does_not_have() -> None:
    file = unpack(coded(1))
    streams = PACKETS.of(file).streams
    for head, error, message in (
        (Head(1, 1, b"\xff\xff"), CorruptError, "position 65535, and its model has"),
        (Head(3, 1, b"\0\0"), UnsupportedError, "preset 3 of profile msp is not known"),
    ):
        with pytest.raises(error, match=message):
            decode(pack(file.header, {Section.PACKETS: packets.write(head, streams)}))


# Streams


@settings(max_examples=50)
@given(st.binary(max_size=80), st.integers(1, 10))
def test_any_bytes_are_symbols_or_refused(stream: bytes, spacing: int) -> None:
    prior, shape = transform_of().prior("normal", 100), (5, 7, transform_of().channels)
    with suppress(CorruptError):
        symbols, known = latent_coding.decode_beginning(prior, stream, 5, 7, spacing=spacing)
        assert (symbols.shape, known.shape) == (shape, shape[:2])
    with suppress(CorruptError):
        assert latent_coding.decode(prior, stream, 5, 7, spacing=spacing).shape == shape


def test_what_is_lost_looks_more_like_the_photo_than_nothing_would() -> None:
    data = encode(photo(260, 200), resilience=4, quality=50, model="transform")
    whole, grey = decode(data).astype(float), mended(data[: unpack(data).header.size])
    errors = [np.square(mended(without(data, range(0, 25, step))) - whole).mean() for step in (10, 5, 2)]
    assert errors == sorted(errors)
    assert errors[-1] < np.square(grey - whole).mean() / 2


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


def test_escapes_are_decided_only_after_all_else_of_their_run() -> None:
    """They follow it, so where it is not decided their places are not, and two decoders may agree on them by chance."""
    prior, generator = transform_of().prior("normal", 100), np.random.default_rng(0)
    mean, scale = np.zeros(6, np.int64), np.full(6, 20)
    for _ in range(1500):
        values = generator.integers(-1, 2, 6).astype(np.int32)
        values[[1, 3]] = generator.integers(8, 40, 2)
        encoder = Encoder()
        code_laplace(encoder, values, mean, scale)
        stream = encoder.finish()
        for cut in range(len(stream)):
            coding = latent_coding.LatentCoding(continuations(stream[:cut]), prior, 1, 1)
            found = coding._run(None, mean, scale)
            decided = np.argmax(found != values) if (found != values).any() else 6
            assert not found[decided:].any()


@pytest.mark.parametrize("truncated", [False, True])
def test_symbols_beyond_all_limits_are_damage(truncated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    prior, shape = transform_of().prior("normal", 100), (3, 4, transform_of().channels)
    latent = np.random.default_rng(0).laplace(0, 3, shape).astype(np.float32)
    latent[0, 0, 0] = 30000
    monkeypatch.setattr(latent_coding, "LIMIT", 40000)
    stream, symbols = latent_coding.encode(prior, latent)
    assert symbols.max() == 30000
    monkeypatch.undo()
    with pytest.raises(CorruptError, match="out of range"):
        latent_coding.decode(prior, stream, *shape[:2], truncated=truncated)


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
