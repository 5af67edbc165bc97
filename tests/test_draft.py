"""Small versions of images: `draft` and `thumbnail`."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fast_profile import FastProfile
from pictures import psnr
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import codec
import pillow_clric

SAMPLES = Path(__file__).parents[1] / "samples"
SIZES = [(1, 1), (7, 200), (640, 481), (1023, 769)]


def _noise(mode: str, size: tuple[int, int]) -> Image.Image:
    shape = size[::-1] + ((3,) if mode == "RGB" else ())
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


@cache
def large(profile: str) -> tuple[bytes, Image.Image]:
    """A file of 1.4 megapixels, hardly more than those of profile clric that are decoded in full, and its picture."""
    with Image.open(SAMPLES / "rocket.jpg") as photo:
        data = pillow_clric.encode(photo.convert("RGB").resize((1432, 952)), profile=profile, effort=1)
    return data, pillow_clric.decode(data)


@pytest.mark.parametrize("scale", codec.SCALES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_draft(mode: str, size: tuple[int, int], scale: int, fast_profile: FastProfile) -> None:
    image = _noise(mode, size)
    small = Image.open(BytesIO(pillow_clric.encode(image)))
    wanted = size[0] // scale, size[1] // scale
    if min(wanted) == 0:
        assert small.draft(None, (size[0], size[1])) is None
        return
    assert small.draft(None, wanted) == (mode, (0, 0, size[0] / scale, size[1] / scale))
    assert small.size == image.reduce(scale).size
    assert small.draft(None, (1, 1)) is None, "a second draft changes nothing"
    assert small.tobytes() == image.reduce(scale).tobytes()


@pytest.mark.parametrize("scale", codec.SCALES)
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_made_smaller_by_means(mode: str, scale: int, fast_profile: FastProfile) -> None:
    image, alpha = _noise(mode.removesuffix("A"), (61, 47)), _noise("L", (61, 47))
    image.putalpha(alpha)
    samples = np.asarray(alpha)
    rows, columns = (range(0, length, scale) for length in samples.shape)
    means = [[samples[y : y + scale, x : x + scale].mean() for x in columns] for y in rows]
    found = codec.decode(pillow_clric.encode(image), scale=scale)[:, :, -1]
    assert np.abs(found - np.array(means)).max() <= 0.5


@pytest.mark.parametrize("wanted", [(321, 10), (10, 241), (640, 480), (2000, 2000)])
def test_never_smaller_than_asked(wanted: tuple[int, int], fast_profile: FastProfile) -> None:
    image = _noise("RGB", (640, 480))
    whole = Image.open(BytesIO(pillow_clric.encode(image)))
    assert whole.draft("RGB", wanted) is None
    assert whole.size == image.size
    assert whole.tobytes() == image.tobytes()


@pytest.mark.parametrize("act", [lambda im: im.load(), lambda im: im.draft(None, (1, 1))], ids=["loaded", "drafted"])
def test_draft_and_pickle(act: Callable[[Image.Image], object], tmp_path: Path, fast_profile: FastProfile) -> None:
    path = tmp_path / "a.clric"
    path.write_bytes(pillow_clric.encode(_noise("L", (64, 48))))
    image = Image.open(path)
    act(image)
    again = pickle.loads(pickle.dumps(image))
    assert again.draft(None, (1, 1)) is None
    assert again.size == image.size
    assert again.tobytes() == image.tobytes()


def test_scale_of_decode(fast_profile: FastProfile) -> None:
    data = pillow_clric.encode(_noise("L", (64, 48)))
    assert codec.decode(data, scale=4).shape == (12, 16)
    for scale in (0, 3, 16):
        with pytest.raises(ValueError, match="scale must be"):
            codec.decode(data, scale=scale)


@pytest.mark.parametrize("profile", ["clric", "msp"])
@pytest.mark.parametrize("scale", codec.SCALES)
def test_large_is_like_the_whole(scale: int, profile: str) -> None:
    data, whole = large(profile)
    small = Image.open(BytesIO(data))
    small.draft(None, (whole.width // scale, whole.height // scale))
    assert small.size == whole.reduce(scale).size
    assert psnr(small, whole.reduce(scale)) > (34 if profile == "clric" else 50)


@pytest.mark.parametrize("profile", ["clric", "msp"])
def test_thumbnail_is_like_the_whole(profile: str) -> None:
    data, whole = large(profile)
    small, whole = Image.open(BytesIO(data)), whole.copy()
    for image in (small, whole):
        image.thumbnail((128, 128))
    assert small.size == whole.size
    assert psnr(small, whole) > 40


def test_thumbnail_is_quick() -> None:
    data, _ = large("clric")
    with FlopCounterMode(display=False) as of_small:
        Image.open(BytesIO(data)).thumbnail((128, 128))
    with FlopCounterMode(display=False) as of_whole:
        pillow_clric.decode(data)
    assert 0 < of_small.get_total_flops() < 0.4 * of_whole.get_total_flops()


@pytest.mark.usefixtures("few_iterations")
@pytest.mark.parametrize("profile", ["clric", "coolchic"])
def test_small_is_exact(profile: str) -> None:
    image = _noise("RGB", (75, 50)).resize((150, 101), Image.Resampling.BICUBIC)
    data = pillow_clric.encode(image, profile=profile, effort=1)
    small = Image.open(BytesIO(data))
    small.draft(None, (75, 50))
    whole = pillow_clric.decode(data).reduce(2)
    assert np.abs(np.asarray(small, int) - np.asarray(whole, int)).max() <= 1
