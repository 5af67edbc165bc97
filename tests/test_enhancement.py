"""The enhancement layer of profile msp, with a tiny model whose prior is random: pictures get as good as asked for."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import reader
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latents import TINY, TINY_ENHANCED, enhancement_of
from numpy.typing import NDArray
from pictures import psnr

import codec
import pillow_clric
from codec import CorruptError, FormatError, Section, TruncatedError, pack, unpack
from codec.autoencoders import model_file, store
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.learned_transform import on_device
from codec.autoencoders.networks.enhancement import Config, basis
from codec.autoencoders.networks.transform_config import PATCH, PIXELS
from codec.profiles.msp import latent_coding

Pixels = NDArray[np.uint8]

pytestmark = pytest.mark.usefixtures("golden_models")

photo = partial(pictures.photo, "astronaut.png", top=60, left=180)


def encode(pixels: Pixels, **options: Any) -> bytes:
    return codec.encode(pixels, **{"profile": "msp", "model": "tinyenhanced", "effort": 1, "device": "cpu", **options})


def decode(data: bytes, **options: Any) -> Pixels:
    return codec.decode(data, device="cpu", **options)


@pytest.mark.usefixtures("full_precision")
def test_quality_goes_on_where_the_latent_ends() -> None:
    picture = photo(60, 75)
    found = [encode(picture, quality=quality) for quality in (60, 75, 85, 93, 100)]
    assert [Section.ENHANCEMENT in unpack(data).sections for data in found] == [False, True, True, True, True]
    assert sorted(map(len, found)) == list(map(len, found))
    scores = [psnr(decode(data), picture) for data in found]
    assert sorted(scores) == scores
    assert scores[-1] > 33 > 28 > psnr(decode(encode(picture, quality=100, model="tiny")), picture)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (17, 3), (40, 33)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_sizes_and_modes(size: tuple[int, int], mode: str) -> None:
    picture = photo(*size, mode)
    decoded = decode(encode(picture, quality=100))
    assert decoded.shape == picture.shape
    assert psnr(decoded, picture) > 33


def test_latent_is_that_of_the_greatest_lambda() -> None:
    """So a file of a better quality differs in its layer alone."""
    good, better = (unpack(encode(photo(40, 50), quality=quality)).sections for quality in (85, 95))
    assert good[Section.GRIDS] == better[Section.GRIDS]
    assert good[Section.ENHANCEMENT] != better[Section.ENHANCEMENT]


def test_smaller_pictures_are_means() -> None:
    picture = photo(48, 64)
    data = encode(picture, quality=100)
    for scale in (2, 4, 8):
        means = picture.reshape(48 // scale, scale, 64 // scale, scale, 3).mean((1, 3))
        assert np.abs(decode(data, scale=scale) - means).mean() < 1.6


def test_size_that_is_asked_for() -> None:
    picture = photo(60, 75)
    for size in (3000, 6000):
        data = encode(picture, target_size=size)
        assert 0.97 * size < len(data) <= size
        assert Section.ENHANCEMENT in unpack(data).sections


def test_sizes_between_files_with_and_without_it_are_met() -> None:
    picture = pictures.photo("rocket.jpg", 128, 192, top=200)
    coded = partial(encode, picture, model="transform")
    without, with_it = (coded(quality=quality) for quality in (67.4, 67.6))
    assert [Section.ENHANCEMENT in unpack(data).sections for data in (without, with_it)] == [False, True]
    assert len(with_it) > 1.2 * len(without)
    size = (len(without) + len(with_it)) // 2
    data = coded(target_size=size)
    assert 0.99 * size < len(data) <= size
    assert psnr(decode(data), picture) > psnr(decode(without), picture)


def test_files_without_it_have_the_bytes_that_its_entry_would_take() -> None:
    picture = photo(60, 75)
    sizes = [len(encode(picture, quality=quality)) for quality in (10, 20, 60, 65)]
    assert any(len(encode(picture, target_size=size)) == size for size in sizes)


def test_important_part_is_nearer() -> None:
    picture, importance = photo(64, 64), np.zeros((64, 64), np.uint8)
    importance[:, :32] = 255
    plain, weighted = (
        decode(encode(picture, target_size=4500, **options)) for options in ({}, {"importance": importance})
    )
    assert psnr(weighted[:, :24], picture[:, :24]) > psnr(plain[:, :24], picture[:, :24]) + 1
    assert psnr(weighted[:, 40:], picture[:, 40:]) < psnr(plain[:, 40:], picture[:, 40:])


@pytest.mark.usefixtures("full_precision")
def test_overfitting_before_it() -> None:
    picture = photo(64, 64)
    data = encode(picture, quality=90, effort=4)
    assert Section.ENHANCEMENT in unpack(data).sections
    assert psnr(decode(data), picture) > 25


def test_packets_have_none() -> None:
    data = encode(photo(64, 80), quality=100, resilience=2)
    assert set(unpack(data).sections) == {Section.PACKETS}


def test_every_beginning_is_a_picture() -> None:
    picture = photo(24, 40)
    data = encode(picture, quality=95)
    start, _ = unpack(data).header.spans[Section.ENHANCEMENT]
    ends = [start - 1, start, start + 1, start + 2, *range(start + 3, len(data), 199), len(data) - 1]
    scores = [psnr(decode(data[:end], allow_truncated=True), picture) for end in ends]
    assert len({round(score, 3) for score in scores[1:3]}) == 1
    assert scores[1] + 5 < scores[-1] <= psnr(decode(data), picture) + 0.1


def test_a_latent_that_is_there_as_a_whole_is_decoded_as_in_a_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(photo(24, 40), quality=95)
    container = unpack(data)
    alone = pack(container.header, {Section.GRIDS: container.sections[Section.GRIDS]})
    start, _ = container.header.spans[Section.ENHANCEMENT]
    monkeypatch.setattr(latent_coding, "decode_beginning", None)
    assert np.array_equal(decode(data[:start], allow_truncated=True), decode(alone))


def test_what_is_told_of_it() -> None:
    data = encode(photo(40, 50), quality=91)
    told = codec.describe(data, device="cpu")
    assert told["quality"] == pytest.approx(91, abs=0.1)
    assert told["scales"]["enhancement"] == len(unpack(data).sections[Section.ENHANCEMENT]) - 2
    assert pillow_clric.info(BytesIO(data)).sections["enhancement"] == told["scales"]["enhancement"] + 2


def test_damage() -> None:
    container = unpack(encode(photo(24, 40), quality=95))
    position, rest = container.sections[Section.ENHANCEMENT][:2], container.sections[Section.ENHANCEMENT][2:]

    def changed(section: bytes, header: codec.Header = container.header) -> bytes:
        return pack(header, {**container.sections, Section.ENHANCEMENT: section})

    for section in (b"", position[:1]):
        for read in (decode, codec.verify):
            with pytest.raises(TruncatedError, match="truncated before its enhancement layer begins"):
                read(changed(section))
    with pytest.raises(CorruptError, match="enhancement layer at position 257, and its model has 0 to 256"):
        decode(changed((257).to_bytes(2, "little") + rest))
    with pytest.raises(CorruptError, match="does not end where its stream does"):
        decode(changed(position + rest + bytes(40)))
    header = replace(container.header, model=store.load(TINY).prefix)
    with pytest.raises(CorruptError, match=r"enhancement layer at position .*, and its model has none"):
        decode(changed(position + rest, header))


@cache
def small() -> codec.Container:
    return unpack(encode(photo(16, 24), quality=95))


@settings(max_examples=40)
@given(st.integers(0, 260), st.binary(max_size=300), st.integers(0, 300))
def test_whatever_the_section_holds(position: int, stream: bytes, kept: int) -> None:
    container = small()
    own = container.sections[Section.ENHANCEMENT][2:]
    section = position.to_bytes(2, "little") + own[:kept] + stream
    data = pack(container.header, {**container.sections, Section.ENHANCEMENT: section})
    with suppress(FormatError):
        assert decode(data).shape == (16, 24, 3)
    with suppress(CorruptError):
        assert decode(data[: len(data) - 1 - len(stream) // 2], allow_truncated=True).shape == (16, 24, 3)


def test_another_reader_makes_the_same_picture() -> None:
    """Of the symbols, by the formulas of the specification."""
    picture = photo(30, 41)
    data = encode(picture, quality=94)
    tensors, sections = reader.model_tensors(TINY_ENHANCED), unpack(data).sections
    layer = reader.Latent(sections[Section.ENHANCEMENT], tensors, 4, 6, enhancement=True)
    assert np.array_equal(layer.symbols, enhancement_of(data))
    gains = np.exp(layer.between(tensors["enhancement.gains.log"]) / 1024)
    difference = reader.difference(layer.symbols / gains)[:30, :41]
    transform = on_device(store.load(TINY_ENHANCED), "cpu")
    latent = reader.Latent(sections[Section.GRIDS], tensors, 2, 3)
    shown = transform.decode(latent.symbols.astype(np.float32), latent.position, 30, 41).transpose(1, 2, 0)
    pixels = np.rint(255 * np.clip(shown + difference, 0, 1))
    assert np.abs(pixels - decode(data)).max() <= 1
    assert np.abs(pixels - decode(data)).mean() < 0.01


def test_basis_is_orthonormal_and_rises_in_frequency() -> None:
    rows = torch.from_numpy(basis())
    torch.testing.assert_close(rows @ rows.T, torch.eye(PIXELS), atol=1e-5, rtol=0)
    patches = rows.view(PIXELS, 3, PATCH, PATCH)
    assert patches[:3].var((2, 3)).max() < 1e-10  # of one colour each
    differences = patches.diff(dim=2).square().sum((1, 2, 3)) + patches.diff(dim=3).square().sum((1, 2, 3))
    low, high = differences[: PIXELS // 4].mean(), differences[-PIXELS // 4 :].mean()
    assert low < high / 4


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"knots": 1}, "makes no sense: knots"),
        ({"lambdas": [1e-3, 1e-5]}, "lambdas must be two rising positive numbers"),
        ({"hidden": 0}, "makes no sense: hidden"),
        ({"depth": 3}, "makes no sense: .*depth"),
        ({"knots": 3}, r"does not fit its kind: weights enhancement\..* are .*, not "),
    ],
)
def test_models_whose_layer_makes_no_sense(told: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = model_file.read(TINY_ENHANCED)
    config = {**model.config, "enhancement": {**model.config["enhancement"], **told}}
    model_file.write(replace(model, config=config), tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=message):
        model_file.read(tmp_path / "model.safetensors")


def test_default_shape_covers_what_qualities_ask_for() -> None:
    from codec.profiles.msp.profile import LOG_LAMBDA

    assert Config().lambdas[0] < np.exp(LOG_LAMBDA[-1]) < np.exp(LOG_LAMBDA[-2]) < Config().lambdas[1]
