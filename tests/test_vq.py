"""Profile vq, with a tiny model of random weights: what is coded comes back, and what is lost is filled in."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latents import TINY_VQ
from lossy import VQ, decode, photo
from numpy.typing import NDArray
from PIL import Image

import codec
import pillow_clric
from codec import CorruptError, Section, pack, unpack
from codec.autoencoders import model_file, store, vector_quantised
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.networks.index_transformer import WINDOW, IndexTransformer
from codec.autoencoders.networks.integer_index_prior import IntegerIndexPrior
from codec.profiles import packets
from codec.profiles.packets import Head
from codec.profiles.vq import index_coding
from codec.profiles.vq.profile import PACKETS
from codec.training.index_prior import IndexPrior
from codec.training.quantisation import quantised_indices

Pixels = NDArray[np.uint8]

pytestmark = pytest.mark.usefixtures("golden_models")

STARTS = (0, 4, 20, 60)
encode, coded = VQ.encode, VQ.coded


@cache
def integer_prior() -> IntegerIndexPrior:
    torch.manual_seed(0)
    prior = IndexPrior(STARTS, 8)
    for parameter in prior.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    made = IntegerIndexPrior(STARTS, 8)
    return made.load(quantised_indices(prior))


# What is coded comes back


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


def test_codebooks_that_the_model_does_not_have() -> None:
    container = unpack(coded(0))
    section = packets.write(Head(5, 0), PACKETS.of(container).streams)
    with pytest.raises(CorruptError, match=r"codebook 5, and its model has 0 to 2: .* get it again"):
        decode(pack(container.header, {Section.GRIDS: section}))


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
    model = model_file.read(TINY_VQ)
    for change in ({"sizes": [16, 4]}, {"sizes": [4]}, {"dimensions": 0}):
        config = {**model.config, "autoencoder": {**model.config["autoencoder"], **change}}
        wrong = model_file.Model("wrong", "vq", config, (), (), model.tensors)
        with pytest.raises(ModelFileError, match="makes no sense"):
            model_file.check(wrong, "it")
    tensors = {**model.tensors, "prior.code": torch.full_like(model.tensors["prior.code"].short(), 300)}
    model_file.write(model_file.Model("wrong", "vq", model.config, (), (), tensors), tmp_path / "wrong.safetensors")
    with pytest.raises(ModelFileError, match="code must be within"):
        encode(photo(20, 20), model=tmp_path / "wrong.safetensors")


def test_batches_and_streams() -> None:
    pictures = [photo(40, 300), photo(64, 80)]
    data = codec.encode_batch(pictures, profile="vq", model=TINY_VQ, device="cpu")
    assert [decode(d).shape for d in data] == [p.shape for p in pictures]
    with Image.open(BytesIO(data[0])) as image:
        assert image.format == "CLRIC"
    assert pillow_clric.info(data[0]).profile == "vq"
    assert vector_quantised.on_device(store.load(TINY_VQ), torch.device("cpu")).sizes == (4, 16, 40)
