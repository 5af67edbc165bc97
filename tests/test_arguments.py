"""Arguments that make no sense are named, with what to do, before any slow work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import same, saved
from fast_profile import FastProfile
from PIL import Image

import codec
import pillow_clric

BAD: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "quality must be a number from 0 to 100", {"quality": -1}),
    (ValueError, "quality must be a number from 0 to 100", {"quality": 100.5}),
    (ValueError, "quality must be a number from 0 to 100", {"quality": float("nan")}),
    (TypeError, "quality must be a number", {"quality": "high"}),
    (TypeError, "quality must be a number", {"quality": True}),
    (TypeError, "quality must be a number", {"quality": None}),
    (ValueError, "effort must be a whole number from 1 to 9", {"effort": 0}),
    (ValueError, "effort must be a whole number from 1 to 9", {"effort": 10}),
    (ValueError, "effort must be a whole number from 1 to 9", {"effort": 5.5}),
    (ValueError, "effort must be a whole number from 1 to 9", {"effort": "slow"}),
    (TypeError, "effort must be a whole number from 1 to 9", {"effort": True}),
    (TypeError, "effort must be a whole number from 1 to 9", {"effort": [5]}),
    (TypeError, "target_size must be a whole number of bytes", {"target_size": "50kB"}),
    (TypeError, "target_size must be a whole number of bytes", {"target_size": 1e3}),
    (ValueError, "target_(size|bpp) must be .* more than 0", {"target_size": 0}),
    (TypeError, "target_bpp must be a number", {"target_bpp": "0.1"}),
    (ValueError, "target_(size|bpp) must be .* more than 0", {"target_bpp": float("inf")}),
    (ValueError, "give one of them", {"target_size": 1000, "target_bpp": 0.1}),
    (ValueError, "takes a quality, not a target", {"effort": "paper", "target_bpp": 0.1}),
    (ValueError, "profile must be one of msp", {"profile": "jpeg"}),
    (ValueError, "profile must be one of msp", {"profile": None}),
    (TypeError, "model must be", {"model": 5}),
    (ValueError, "device must be", {"device": "nonsense"}),
    (RuntimeError, 'device.*is not available on this machine: use "auto" or "cpu"', {"device": "meta"}),
    (TypeError, "device must be", {"device": 0}),
    (TypeError, "device must be", {"device": Path("cpu")}),
    (TypeError, "seed must be a whole number", {"seed": "1"}),
    (TypeError, "seed must be a whole number", {"seed": 1.5}),
    (ValueError, "seed must be a whole number from 0", {"seed": -1}),
    (ValueError, "seed must be a whole number from 0", {"seed": 2**64}),
    (TypeError, "exif must be", {"exif": 5}),
    (TypeError, "exif must be", {"exif": "text"}),
    (TypeError, "icc_profile must be", {"icc_profile": "sRGB"}),
    (TypeError, "xmp must be", {"xmp": {}}),
    (TypeError, "progress must be", {"progress": 5}),
]
WAYS: dict[str, Callable[..., object]] = {
    "encode": pillow_clric.encode,
    "encode_batch": lambda image, **options: pillow_clric.encode_batch([image, image], **options),
    "save": saved,
}


class Unloadable(Image.Image):
    """An image that takes for ever to load."""

    def load(self) -> None:
        pytest.fail("it was loaded")


@pytest.fixture
def unloadable(photo: Image.Image) -> Image.Image:
    image = Unloadable()
    image._size, image._mode = photo.size, photo.mode
    return image


@pytest.mark.parametrize(("error", "message", "options"), BAD, ids=lambda value: str(value)[:40])
def test_bad_arguments(
    error: type[Exception], message: str, options: dict[str, Any], photo: Image.Image, unloadable: Image.Image,
    fast_profile: FastProfile,
) -> None:  # fmt: skip
    for name, way in WAYS.items():
        with pytest.raises(error, match=message):
            way(photo if name == "save" else unloadable, **options)  # Pillow's save loads
    assert fast_profile.used == []


def test_bad_models_and_devices_of_the_real_profile(unloadable: Image.Image) -> None:
    with pytest.raises(OSError, match=r"there is no model 'nonsense'.*models list"):
        pillow_clric.encode(unloadable, model="nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match='not available on this machine: use "auto" or "cpu"'):
            pillow_clric.encode(unloadable, device="cuda")


def test_unusual_numbers(photo: Image.Image, fast_profile: FastProfile) -> None:
    for options in ({"quality": np.float32(50)}, {"quality": np.int64(50)}, {"effort": np.int64(2)}, {"effort": 2.0}):
        assert same(saved(photo, **options), photo)
    assert same(saved(photo, seed=2**64 - 1, target_size=np.int64(10**6)), photo)
    for number in (np.uint8(200), np.float16(1000), np.float32(40)):
        assert same(saved(photo, target_bpp=number), photo)
        assert fast_profile.used[-1].budget(48, 32) == int(float(number) * 48 * 32 / 8)
    saved(photo, seed=np.uint64(2**63), effort=np.float64(3))
    assert [type(value) for value in (fast_profile.used[-1].seed, fast_profile.used[-1].effort)] == [int, float]
    torch.Generator().manual_seed(2**64 - 1)  # as profiles do


def test_unknown_arguments(photo: Image.Image, fast_profile: FastProfile) -> None:
    assert same(saved(photo, optimize=True), photo)  # as in all of Pillow's plugins
    for name in ("encode", "encode_batch"):
        with pytest.raises(TypeError, match="optimize"):
            WAYS[name](photo, optimize=True)


@pytest.mark.parametrize("device", ["nonsense", "meta", 5])
def test_bad_devices_of_decode(device: Any) -> None:
    data = (Path(__file__).parent / "golden" / "clric-rgb.clric").read_bytes()
    with pytest.raises((TypeError, ValueError, RuntimeError), match=r"device.*cpu"):
        pillow_clric.decode(data, device=device)


def test_codec_refuses_the_same() -> None:
    with pytest.raises(TypeError, match="quality must be a number"):
        codec.encode(np.zeros((4, 4), np.uint8), quality="high")
