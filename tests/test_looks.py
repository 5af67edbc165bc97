"""Texture that is drawn beside what profile msp codes, with a tiny model whose strengths are random."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import reader
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from latents import TINY_GRAIN
from numpy.typing import NDArray
from PIL import Image

import codec
import pillow_clric
from codec import Section, unpack
from codec.autoencoders import learned_transform, store
from codec.autoencoders.learned_transform import LearnedTransform
from codec.autoencoders.networks.enhancement import FREQUENCIES, basis
from codec.autoencoders.networks.grain import FUNCTIONS, MAX_STRENGTH, functions, noise
from codec.autoencoders.networks.transform_config import PATCH
from codec.training.grain import NONE_UNTIL
from pillow_clric.cli import main

Pixels = NDArray[np.uint8]

pytestmark = pytest.mark.usefixtures("golden_models")

ROUNDING = 1e-4  # of a sample in 0..1: both decoders compute in float32
photo = partial(pictures.photo, "coffee.png", top=60, left=160)


def encode(pixels: Pixels, **options: Any) -> bytes:
    return codec.encode(
        pixels, **{"profile": "msp", "model": "tinygrain", "effort": 1, "device": "cpu", "quality": 40, **options}
    )


def decode(data: bytes, **options: Any) -> Pixels:
    return codec.decode(data, device="cpu", **options)


def test_files_differ_in_a_flag_only() -> None:
    plain, looks = encode(photo(40, 50)), encode(photo(40, 50), tune="looks")
    one, other = (unpack(data).sections[Section.GRIDS] for data in (plain, looks))
    assert (one[0] ^ other[0], one[1:]) == (8, other[1:])
    assert [codec.describe(data)["tune"] for data in (plain, looks)] == ["fidelity", "looks"]


@pytest.mark.parametrize("options", [{}, {"resilience": 2}])
def test_caller_may_choose_the_other(options: dict[str, Any]) -> None:
    plain, looks = encode(photo(40, 50), **options), encode(photo(40, 50), tune="looks", **options)
    assert np.array_equal(decode(plain), decode(looks, tune="fidelity"))
    assert np.array_equal(decode(looks), decode(plain, tune="looks"))
    assert np.abs(decode(looks).astype(float) - decode(plain)).mean() > 1


@pytest.mark.parametrize("size", [(1, 1), (17, 3), (40, 33)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_sizes_and_modes(size: tuple[int, int], mode: str) -> None:
    picture = photo(*size, mode)
    decoded = decode(encode(picture, tune="looks"))
    assert (decoded.shape, decoded.dtype) == (picture.shape, picture.dtype)


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("size", [(64, 80), (37, 51), (1100, 30)])
@pytest.mark.parametrize("scale", [1, *codec.SCALES])
def test_both_decoders_draw_the_same(size: tuple[int, int], scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one piece, or in tiles."""
    transform = LearnedTransform(store.load(TINY_GRAIN), "cpu")
    symbols = np.random.default_rng(0).integers(-2, 3, (*transform.size(*size), transform.channels)).astype(np.float32)
    expected = transform.networks.picture(symbols, 200, *size, scale, True)
    monkeypatch.setattr(learned_transform, "TILE", 100)
    found = transform.decode(symbols, 200, *size, scale, grain=True)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < (ROUNDING if max(size) < 1000 else 0.03)
    assert np.abs(found - transform.decode(symbols, 200, *size, scale)).mean() > 0.003


def test_smaller_pictures_are_means() -> None:
    data = encode(photo(48, 64), tune="looks", quality=60)
    whole = decode(data).astype(float)
    for scale in codec.SCALES:
        means = whole.reshape(48 // scale, scale, 64 // scale, scale, 3).mean((1, 3))
        assert np.abs(decode(data, scale=scale) - means).mean() < 1


def test_no_texture_beside_an_enhancement_layer() -> None:
    """What that has of texture is real."""
    plain, looks = encode(photo(40, 50), quality=90), encode(photo(40, 50), quality=90, tune="looks")
    assert Section.ENHANCEMENT in unpack(looks).sections
    assert np.array_equal(decode(plain), decode(looks))
    assert np.array_equal(decode(plain), decode(plain, tune="looks"))


def test_models_without_texture() -> None:
    with pytest.raises(ValueError, match=r'^model tiny draws no texture: give tune="fidelity", or another model$'):
        encode(photo(8, 8), model="tiny", tune="looks")
    data = encode(photo(8, 8), model="tiny")
    assert np.array_equal(decode(data), decode(data, tune="looks"))


@pytest.mark.parametrize("tune", ["", "Looks", 1])
def test_no_such_tune(tune: Any) -> None:
    data = encode(photo(8, 8))
    for read in (codec.decode, pillow_clric.decode):
        with pytest.raises(ValueError, match=r"^tune must be None, 'fidelity' or 'looks', not "):
            read(data, tune=tune)
    with pytest.raises((TypeError, ValueError), match=r'^tune must be "fidelity" or "looks", not '):
        encode(photo(8, 8), tune=tune)


def test_in_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `decode`, by the settings of the plugin, and by the file's own wish."""
    picture, file = Image.fromarray(photo(40, 50)), BytesIO()
    picture.save(file, "CLRIC", profile="msp", model="tinygrain", effort=1, quality=40, tune="looks")
    looks, plain = (np.asarray(pillow_clric.decode(file.getvalue(), tune=tune)) for tune in ("looks", "fidelity"))
    assert not np.array_equal(looks, plain)
    for tune, expected in (("fidelity", plain), ("looks", looks), (None, looks)):
        monkeypatch.setattr(pillow_clric.options, "TUNE", tune)
        with Image.open(BytesIO(file.getvalue())) as image:
            assert np.array_equal(np.asarray(image), expected)


def test_in_the_command(tmp_path: Path) -> None:
    file, made = tmp_path / "a.clric", tmp_path / "a.png"
    file.write_bytes(encode(photo(40, 50), tune="looks"))
    for options, tune in (([], "looks"), (["--tune", "fidelity"], "fidelity"), (["--tune", "looks"], "looks")):
        result = CliRunner().invoke(main, [str(file), "-o", str(made), "--overwrite", *options])
        assert result.exit_code == 0, result.output
        with Image.open(made) as image:
            assert np.array_equal(np.asarray(image), decode(file.read_bytes(), tune=tune))


# What texture is made of


@given(st.integers(0, 2**20), st.integers(0, 2**20))
def test_another_reader_draws_the_same_noise(row: int, column: int) -> None:
    found = noise(range(row, row + 1), range(column, column + 2))
    expected = [[[reader.texture_noise(row, column + x, k) for k in range(FUNCTIONS)] for x in range(2)]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_noise_is_known_for_ever() -> None:
    found = noise(range(2, 4), range(5, 8))
    assert found.shape == (2, 3, FUNCTIONS)
    assert found.dtype == np.float32
    levels = np.rint(found[0, 0, :8] * np.sqrt((256**2 - 1) / 12) + 127.5).astype(int).tolist()
    assert levels == [102, 224, 175, 129, 50, 118, 90, 216]


def test_noise_is_noise() -> None:
    found = noise(range(128), range(128))
    assert abs(found.mean()) < 0.005
    assert abs(found.std() - 1) < 0.005
    for axis in range(3):
        for step in (1, 2, 3, 8):
            moved = np.roll(found, step, axis)
            assert abs((found * moved).mean()) < 0.01


def test_functions_are_those_of_luminance() -> None:
    assert np.array_equal(functions(), basis()[::3])
    colours = functions().reshape(FUNCTIONS, 3, PATCH, PATCH)
    assert np.abs(colours - colours[:, :1]).max() < 1e-7


def test_texture_of_the_model_that_ships_is_fine() -> None:
    """Means of patches stay nearly as they are, and all of it is of high frequencies."""
    transform, size = LearnedTransform(store.load("transform"), "cpu"), (96, 128)
    pixels = photo(*size)
    data = codec.encode(pixels, profile="msp", quality=30, tune="looks", device="cpu")
    looks, plain = (decode(data, tune=tune).astype(float).mean(2) for tune in ("looks", "fidelity"))
    assert transform.has_grain
    drawn = (looks - plain).reshape(12, 8, 16, 8).transpose(0, 2, 1, 3).reshape(-1, PATCH**2)
    energies = np.square(drawn @ functions().reshape(FUNCTIONS, 3, -1)[:, 0].T).mean(0)
    low = np.array([sum(frequency) <= NONE_UNTIL for frequency in FREQUENCIES])
    assert energies[low].sum() < 0.02 * energies.sum()
    assert 1 < drawn.std() < 255 * MAX_STRENGTH / 20
