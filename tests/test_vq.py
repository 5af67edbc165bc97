"""Profile vq, with a tiny model of random weights: what is coded comes back, and what is lost is filled in."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import lossy
import numpy as np
import pytest
import reader
import torch
from conftest import METADATA, opened, run
from hypothesis import given, settings
from hypothesis import strategies as st
from latents import TINY_VQ, indices_of
from lossy import check_damage, decode, exact, mended, overwritten, repaired
from numpy.typing import NDArray
from PIL import Image

import codec
import pillow_clric
from codec import CorruptError, DamageWarning, FormatError, Section, TruncatedError, pack, unpack
from codec.autoencoders import model as files
from codec.autoencoders import store, vector_quantised
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.networks.index_prior import IndexPrior
from codec.autoencoders.networks.index_transformer import WINDOW, IndexTransformer
from codec.autoencoders.networks.integer_index_prior import IntegerIndexPrior
from codec.autoencoders.networks.quantisation import quantised_indices
from codec.profiles import packets
from codec.profiles.packets import Head
from codec.profiles.vq import index_coding
from codec.profiles.vq.profile import PACKETS

Pixels = NDArray[np.uint8]

pytestmark = pytest.mark.usefixtures("golden_models")

SAMPLES = Path(__file__).parent.parent / "samples"
STARTS = (0, 4, 20, 60)
SIZES = [(1, 1), (1, 50), (17, 3), (40, 300), (300, 260)]


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
    return codec.encode(pixels, **{"profile": "vq", "model": TINY_VQ, "device": "cpu", **options})


@cache
def coded(resilience: int, height: int = 300, width: int = 260) -> bytes:
    return encode(photo(height, width), resilience=resilience, quality=100)


@cache
def integer_prior() -> IntegerIndexPrior:
    torch.manual_seed(0)
    prior = IndexPrior(STARTS, 8)
    for parameter in prior.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    made = IntegerIndexPrior(STARTS, 8)
    return made.load(quantised_indices(prior))


def without(data: bytes, lost: Iterable[int], *, fill: bytes | None = b"\xa5") -> bytes:
    return lossy.without(data, PACKETS, lost, fill)


def of_section(section: bytes, length: int | None = None) -> packets.Packets:
    return lossy.of_section(coded(0), PACKETS, section, length)


# What is coded comes back


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_modes_and_sizes(size: tuple[int, int], channels: int) -> None:
    pixels = photo(*size, channels)
    decoded = decode(encode(pixels, quality=90, resilience=channels - 1))
    assert (decoded.shape, decoded.dtype) == (pixels.shape, pixels.dtype)
    if channels in (2, 4):
        assert np.array_equal(decoded[:, :, -1], pixels[:, :, -1])


def test_pictures_are_like_the_photo() -> None:
    pixels = photo(300, 260)
    flat = np.broadcast_to(pixels.mean((0, 1)), pixels.shape)
    errors = [np.square(decode(encode(pixels, quality=q)) - pixels.astype(float)).mean() for q in (33, 100)]
    assert errors[1] < errors[0] < 0.6 * np.square(flat - pixels).mean()


def test_a_header_takes_24_bytes_and_a_packet_three_more() -> None:
    data = coded(0)
    header = unpack(data).header
    assert header.size == 24
    found = PACKETS.of(unpack(data))
    assert len(data) == 24 + 3 + len(found.streams[0])
    codec.verify(data)


def test_sizes_rise_with_quality() -> None:
    sizes = [len(encode(photo(300, 260), quality=quality)) for quality in (0, 10, 33, 50.5, 66, 80, 100)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 5


def test_sizes_grow_without_steps_from_codebook_to_codebook() -> None:
    """By no more than three words of a stream for five steps of quality, in a model that was trained."""
    sizes = [len(encode(photo(256, 256), model="vq", quality=quality)) for quality in range(0, 101, 5)]
    steps = np.diff(sizes)
    assert steps.min() >= -4
    assert steps.max() <= 12
    assert sizes[-1] > 2.5 * sizes[0]


@pytest.mark.parametrize("part", [0.4, 0.55, 0.7, 0.85])
def test_any_size_is_met(part: float) -> None:
    target = round(part * len(encode(photo(256, 256), model="vq", quality=100)))
    assert target - 8 <= len(encode(photo(256, 256), model="vq", target_size=target)) <= target


@pytest.mark.parametrize("target", [120, 195, 240])
def test_target_size(target: int) -> None:
    size = len(encode(photo(300, 260), target_size=target))
    assert 0.9 * target <= size <= target


def test_metadata_and_alpha_are_checked_though_packets_check_themselves() -> None:
    image = Image.fromarray(photo(64, 80, 4))
    data = pillow_clric.encode(image, profile="vq", model=TINY_VQ, **METADATA)
    restored = opened(data)
    restored.load()
    assert restored.info["exif"].endswith(METADATA["exif"].removeprefix(b"Exif\0\0"))
    assert restored.info["xmp"] == METADATA["xmp"]
    start, length = unpack(data).header.spans[Section.ALPHA]
    damaged = data[: start + length // 2] + bytes([data[start + length // 2] ^ 1]) + data[start + length // 2 + 1 :]
    with pytest.raises(CorruptError, match="checksum"):
        decode(damaged)
    with pytest.raises(TruncatedError, match="truncated"):
        decode(data[: start + length // 2])


@pytest.mark.parametrize("scale", codec.SCALES)
def test_previews_are_means(scale: int) -> None:
    small, whole = decode(coded(0), scale=scale).astype(float), decode(coded(0)).astype(float)
    height, width = (side // scale for side in whole.shape[:2])
    parts = whole[: height * scale, : width * scale].reshape(height, scale, width, scale, 3).mean((1, 3))
    inside = (parts > 10) & (parts < 245)  # where clipping changes nothing
    assert np.abs(parts - small[:height, :width])[inside].mean() < 2


def test_files_depend_on_no_number_of_threads() -> None:
    threads, found = torch.get_num_threads(), set()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.add(encode(photo(300, 260), resilience=2))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


def test_effort_makes_no_difference() -> None:
    assert encode(photo(64, 80), effort=1) == encode(photo(64, 80), effort=9)


def test_describe() -> None:
    assert codec.describe(coded(3)) == {"codebook": 40, "packets": 16, "parity": 3}
    assert codec.describe(without(coded(3), [1, 5])) == {"codebook": 40, "packets": 16, "lost": 2}
    restored = codec.describe(overwritten(coded(3), PACKETS, [1, 5], b""))
    assert restored == {"codebook": 40, "packets": 16, "parity": 3, "restored": 2}


# Indices


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (16, 17), (33, 40)])
@pytest.mark.parametrize("spacing", [1, 3, 10])
def test_indices_come_back(size: tuple[int, int], spacing: int) -> None:
    prior, generator = integer_prior(), np.random.default_rng(0)
    for book in range(3):
        costs = generator.random((*size, STARTS[book + 1] - STARTS[book])).astype(np.float32)
        stream, indices = index_coding.encode(prior, book, spacing, costs, trade=0.0)
        assert np.array_equal(indices, costs.argmin(-1))
        assert np.array_equal(index_coding.decode(prior, book, spacing, stream, *size), indices)


def test_integers_are_those_of_the_trained_prior() -> None:
    """Indices cost what training estimates."""
    torch.manual_seed(1)
    floats = IndexPrior(STARTS, 8)
    for parameter in floats.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    integers = IntegerIndexPrior(STARTS, 8)
    integers.load(quantised_indices(floats))
    costs = np.random.default_rng(0).random((48, 64, 40)).astype(np.float32)
    stream, indices = index_coding.encode(integers, 2, 1, costs, trade=0.0)
    with torch.no_grad():
        bits = floats(torch.from_numpy(indices)[None].long() + STARTS[2], torch.tensor([2])).sum() / np.log(2)
    assert 8 * len(stream) == pytest.approx(float(bits), rel=0.02)


def test_a_bit_may_cost() -> None:
    prior, costs = integer_prior(), np.random.default_rng(0).random((20, 30, 40)).astype(np.float32)
    found = [index_coding.encode(prior, 2, 1, costs, trade) for trade in (0.0, 0.05, 0.2)]
    assert len(found[0][0]) > len(found[1][0]) > len(found[2][0])
    spent = [np.take_along_axis(costs, indices[:, :, None], 2).sum() for _, indices in found]
    assert spent[0] < spent[1] < spent[2]


def test_a_beginning_decides_a_beginning() -> None:
    prior, costs = integer_prior(), np.random.default_rng(0).random((20, 30, 40)).astype(np.float32)
    stream, indices = index_coding.encode(prior, 2, 1, costs, trade=0.0)
    known = []
    for cut in range(0, len(stream), 9):
        found = index_coding.decode(prior, 2, 1, stream[:cut], *indices.shape, truncated=True)
        assert np.array_equal(found[found >= 0], indices[found >= 0])
        known.append(int((found >= 0).sum()))
    assert known == sorted(known)
    assert known[-1] > 0.9 * indices.size


@settings(max_examples=50)
@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_are_indices_or_refused(stream: bytes, truncated: bool) -> None:
    try:
        found = index_coding.decode(integer_prior(), 2, 1, stream, 5, 7, truncated=truncated)
    except CorruptError:
        return
    assert found.shape == (5, 7)
    assert -1 <= found.min() <= found.max() < 40


# Packets


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


def test_small_maps_have_fewer_packets() -> None:
    assert len(packets.places(9, 2, 3)) == 6
    assert codec.describe(encode(photo(20, 40), resilience=9))["packets"] == 6


@given(
    st.dictionaries(st.integers(0, 15), st.binary(max_size=300)),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 40), st.binary(max_size=60)), max_size=3),
)
def test_damage_costs_the_packets_that_it_hits(
    streams: dict[int, bytes], damages: list[tuple[int, int, bytes]]
) -> None:
    check_damage(of_section, Head(7, 3), streams, damages)


@settings(max_examples=200)
@given(st.binary(max_size=400), st.integers(0, 30))
def test_any_bytes_are_packets_or_refused(section: bytes, missing: int) -> None:
    try:
        found = of_section(section, len(section) + missing)
    except CorruptError:
        return
    assert set(found.streams) <= set(found.places)


@pytest.mark.parametrize("resilience", [1, 2, 9])
def test_much_damage_costs_no_more_than_the_packets_that_it_hits(resilience: int) -> None:
    """However much there is that may be packets, and by chance even is."""
    head, generator = Head(5, resilience), np.random.default_rng(0)
    count = (1 + resilience) ** 2
    streams = {number: generator.bytes(60000 // count) for number in range(count)}
    parts = [packets.packet(head, number, stream) for number, stream in streams.items()]
    hit = range(count // 2)
    damaged = [bytes([part[0] ^ 0x80]) + part[1:] if number in hit else part for number, part in enumerate(parts)]
    chance = packets.packet(Head(6, 3), 1, b"by chance")
    found = of_section(chance + b"".join(damaged))
    assert found.head == head
    assert found.streams == {number: stream for number, stream in streams.items() if number not in hit}


def test_only_the_packet_in_which_a_file_is_cut_begins() -> None:
    head = Head(2, 1)
    parts = [packets.packet(head, number, bytes([number]) * 50) for number in range(4)]
    whole = b"".join(parts)
    found = of_section(whole[:-9], len(whole))
    assert {number: found.streams[number] for number in range(3)} == {n: bytes([n]) * 50 for n in range(3)}
    assert found.beginnings == {3: bytes([3]) * 43}
    damaged = b"".join([*parts[:2], parts[2][:20] + b"x" + parts[2][21:], parts[3]])
    assert not of_section(damaged[:-9], len(whole)).beginnings


def test_what_is_made_to_look_like_packets_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    section, work = bytes([0x97, 1, 0xFF, 0xFF, 0x02]) * 40000, 0

    def counted(data: bytes) -> bytes:
        nonlocal work
        work += len(data)
        return b""

    monkeypatch.setattr(packets, "_crc", counted)
    with pytest.raises(CorruptError, match="beyond repair"):
        of_section(section)
    assert 2**28 < work < 2**30


@pytest.mark.parametrize("fill", [b"\0", b"\xff", None])
@pytest.mark.parametrize(("resilience", "lost"), [(1, [0]), (2, [3, 4]), (3, [1, 7, 9, 15]), (9, range(10, 60))])
def test_lost_packets(resilience: int, lost: Iterable[int], fill: bytes | None) -> None:
    data, lost = coded(resilience), list(lost)
    damaged = without(data, lost, fill=fill)
    picture = mended(damaged)
    known = indices_of(unpack(damaged)) >= 0
    assert known.any()
    assert np.array_equal(indices_of(unpack(data))[known], indices_of(unpack(damaged))[known])
    assert not np.array_equal(picture, decode(data))
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
    for resilience, seed in product((1, 3, 9), range(3)):
        data, generator = coded(resilience, 100, 130), np.random.default_rng(seed)
        numbers = list(PACKETS.of(unpack(data)).places)
        count = max(1, round(share * len(numbers)))
        first = generator.integers(len(numbers) - count + 1)
        lost = numbers[first : first + count] if burst else generator.choice(numbers, count, replace=False).tolist()
        damaged = without(data, lost, fill=generator.bytes(1))
        with pytest.warns(DamageWarning, match=f"^{count} of {len(numbers)} packets"):
            image = pillow_clric.decode(damaged)
        assert image.size == (130, 100)
        known = indices_of(unpack(damaged)) >= 0
        assert np.array_equal(indices_of(unpack(repaired(damaged)))[known], indices_of(unpack(data))[known])


def test_a_picture_from_the_header_on() -> None:
    for resilience in (0, 2):
        data = coded(resilience, 100, 130)
        size, whole, near = unpack(data).header.size, decode(data).astype(float), []
        complete = size + sum(map(len, lossy.parts_of(data, PACKETS)))
        for cut in range(size, complete):
            near.append(np.square(mended(data[:cut]) - whole).mean())
            with pytest.raises(TruncatedError):
                decode(data[: min(cut, size - 1)])
        assert all(np.array_equal(exact(data[:cut]), whole) for cut in range(complete, len(data), 7))
        assert near[-1] < near[0] / 2
        with pytest.raises(CorruptError, match="lost"):
            codec.verify(data[:-1])


def test_all_packets_lost() -> None:
    for resilience in (0, 3):
        data = coded(resilience)
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
    data = codec.encode(
        photo(100, 120, 4), profile="vq", model=TINY_VQ, resilience=2, metadata={Section.XMP: METADATA["xmp"]}
    )
    damaged = without(data, [2, 6])
    picture, whole = mended(damaged), repaired(damaged)
    codec.verify(whole)
    known, found = indices_of(unpack(damaged)), indices_of(unpack(whole))
    assert np.array_equal(found[known >= 0], known[known >= 0])
    assert found.min() >= 0
    assert decode(whole).shape == picture.shape
    assert unpack(whole).sections[Section.XMP] == METADATA["xmp"]
    assert codec.repair(data) == data
    source, target = tmp_path / "damaged.clric", tmp_path / "whole.clric"
    source.write_bytes(damaged)
    assert run("verify", source).exit_code == 1
    done = run("--repair", source, "-o", target)
    assert done.exit_code == 0
    assert "2 of 9 packets are lost or damaged" in done.stderr
    assert target.read_bytes() == whole
    assert run("verify", target).exit_code == 0
    assert "likely contents" in run(source, "-o", tmp_path / "made.png").stderr


def test_what_is_restored_is_as_if_nothing_had_been_lost(tmp_path: Path) -> None:
    """For those that look at it; `verify` tells of the damage, and a repair makes it undone."""
    data = coded(4, 100, 130)
    source, target = tmp_path / "damaged.clric", tmp_path / "whole.clric"
    source.write_bytes(overwritten(data, PACKETS, [3, 4, 17, 250], b"\0"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(np.asarray(opened(source.read_bytes())), decode(data))
    told = run("verify", source)
    assert told.exit_code == 1
    assert "3 of 25 packets are lost or damaged, and can be restored exactly" in told.stderr
    facts = json.loads(run("info", "--detail", "--json", source).stdout)["coding"]
    assert facts == {"codebook": 40, "packets": 25, "parity": 6, "restored": 3}
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
    source.write_bytes(coded(0))
    assert "whole.clric would be written over: name another folder as output" in run("--repair", source).stderr
    assert "must be named .clric" in run("--repair", source, "-o", tmp_path / "x.png").stderr


def test_pillow_warns_and_shows_the_picture() -> None:
    image = opened(without(coded(2), [4]))
    with pytest.warns(pillow_clric.DamageWarning, match="1 of 9"):
        image.load()
    assert image.size == (260, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(coded(2)).load()


def test_codebooks_that_the_model_does_not_have() -> None:
    container = unpack(coded(0))
    section = packets.write(Head(5, 0), PACKETS.of(container).streams)
    with pytest.raises(CorruptError, match=r"codebook 5, and its model has 0 to 2: .* get it again"):
        decode(pack(container.header, {Section.GRIDS: section}))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_mutants_are_pictures_or_refused(place: int, change: bytes) -> None:
    data = coded(2)
    place %= len(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamageWarning)
            picture = decode(data[:place] + change + data[place + len(change) :])
    except FormatError:
        return
    assert picture.shape == (300, 260, 3)


# What fills in


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (16, 16), (37, 50)])
def test_all_unknown_indices_are_filled_in_and_others_kept(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    transformer = IndexTransformer(STARTS, 12, 1, 2).eval()
    generator = np.random.default_rng(0)
    indices = generator.integers(0, 16, size, np.int32)
    for share in (0.0, 0.3, 1.0):
        lost = generator.random(size) < share
        found = transformer.mend(np.where(lost, np.int32(-1), indices), 1)
        assert np.array_equal(found[~lost], indices[~lost])
        assert 0 <= found.min() <= found.max() < 16


def test_what_is_expected_lies_among_the_entries_and_only_where_nothing_is_known() -> None:
    torch.manual_seed(0)
    transformer, vectors = IndexTransformer(STARTS, 12, 1, 2).eval(), torch.randn(16, 5)
    indices = np.random.default_rng(0).integers(-1, 16, (37, 50), np.int32)
    found, lost = transformer.expected(indices, 1, vectors), torch.from_numpy(indices == -1)
    assert not found[~lost].any()
    assert (found[lost] > vectors.min(0).values).all()
    assert (found[lost] < vectors.max(0).values).all()


def test_a_window_sees_all_of_it() -> None:
    torch.manual_seed(0)
    transformer = IndexTransformer(STARTS, 12, 1, 2).eval()
    places = torch.randint(4, 20, (1, WINDOW, WINDOW))
    other = places.clone()
    other[0, -1, -1] = (places[0, -1, -1] - 4 + 1) % 16 + 4
    book = torch.tensor([1])
    with torch.no_grad():
        assert not torch.equal(transformer(places, book)[0, 0, 0], transformer(other, book)[0, 0, 0])


# Models


def test_models_of_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="profile vq needs one of kind"):
        encode(photo(20, 20), model="transform")
    model = files.read(TINY_VQ)
    for change in ({"sizes": [16, 4]}, {"sizes": [4]}, {"dimensions": 0}):
        config = {**model.config, "autoencoder": {**model.config["autoencoder"], **change}}
        wrong = files.Model("wrong", "vq", config, (), (), model.tensors)
        with pytest.raises(ModelFileError, match="makes no sense"):
            files.check(wrong, "it")
    tensors = {**model.tensors, "prior.code": torch.full_like(model.tensors["prior.code"].short(), 300)}
    files.write(files.Model("wrong", "vq", model.config, (), (), tensors), tmp_path / "wrong.safetensors")
    with pytest.raises(ModelFileError, match="code must be within"):
        encode(photo(20, 20), model=tmp_path / "wrong.safetensors")


def test_the_second_reader_finds_packets_in_damage() -> None:
    damaged = without(coded(3), [0, 5])
    container = unpack(damaged)
    section = container.sections[Section.GRIDS]
    assert reader.Packets(section, 0, (19, 17)).streams == PACKETS.of(container).streams
    by_chance = packets.packet(Head(1, 2), 1, b"by chance")
    assert reader.Packets(by_chance + section, 0, (19, 17)).streams == PACKETS.of(container).streams


def test_the_second_reader_restores_packets() -> None:
    damaged = overwritten(coded(4), PACKETS, [24, 0, 255, 7, 251], b"\xa5")
    other = reader.Packets(unpack(damaged).sections[Section.GRIDS], 0, (19, 17))
    assert other.restored.keys() == {0, 7, 24}
    assert other.streams == PACKETS.of(unpack(coded(4))).streams


def test_batches_and_streams() -> None:
    pictures = [photo(40, 300), photo(64, 80)]
    data = codec.encode_batch(pictures, profile="vq", model=TINY_VQ, device="cpu")
    assert [decode(d).shape for d in data] == [p.shape for p in pictures]
    with Image.open(BytesIO(data[0])) as image:
        assert image.format == "CLRIC"
    assert pillow_clric.info(data[0]).profile == "vq"
    assert vector_quantised.on_device(store.load(TINY_VQ), torch.device("cpu")).sizes == (4, 16, 40)
