"""Importance of parts of a picture: bytes go where it says, in every profile, and all else stays as it was."""

from __future__ import annotations

import os
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from conftest import run
from fast_profile import FastProfile
from numpy.typing import NDArray
from PIL import ExifTags, Image

import codec
import pillow_clric
from codec.importance import RATIO, log_weights

Pixels = NDArray[np.uint8]

# Profile, effort, side of the photo, what it is asked for, and by how many dB what is important is better, at least
CASES: list[tuple[str, int, int, dict[str, Any], float]] = [
    ("msp", 3, 256, {"target_size": 2000}, 1.0),
    ("msp", 5, 128, {"target_size": 900}, 1.0),
    ("clric", 1, 256, {"target_size": 1200}, 0.5),
    ("clric", 2, 128, {"target_bpp": 0.25}, 0.5),
    ("coolchic", 1, 64, {"quality": 30}, 0.5),
    ("vq", 3, 256, {"target_size": 90}, 0.2),
]
IDS = [f"{profile}-{effort}" for profile, effort, *_ in CASES]


@cache
def photo(side: int) -> Pixels:
    """A face, and what is around it."""
    face = Image.fromarray(pictures.photo("astronaut.png", 256, 256, left=96))
    return np.asarray(face.resize((side, side)))


def mask(side: int) -> Pixels:
    """Samples of 255 in a disc with a soft edge, a fifth of a square picture; 0 elsewhere."""
    y, x = np.mgrid[:side, :side] / side
    distance = np.hypot(y - 0.45, x - 0.5)
    samples: Pixels = np.rint(255 * np.clip((0.29 - distance) / 0.08, 0, 1)).astype(np.uint8)
    return samples


def psnr(one: Pixels, other: Pixels, weights: NDArray[np.float64]) -> float:
    squares = np.square(one.astype(float) - other).mean(-1)
    return float(10 * np.log10(255**2 * weights.sum() / (squares * weights).sum()))


def encode(pixels: Pixels, **options: Any) -> bytes:
    return codec.encode(pixels, device="cpu", **options)


@pytest.mark.parametrize(("profile", "effort", "side", "goal", "gain"), CASES, ids=IDS)
def test_what_is_important_is_better_at_equal_size(
    profile: str, effort: int, side: int, goal: dict[str, Any], gain: float
) -> None:
    picture, importance = photo(side), mask(side)
    files = [encode(picture, profile=profile, effort=effort, importance=given, **goal) for given in (None, importance)]
    size = goal.get("target_size", goal.get("target_bpp", 0) * side**2 / 8) or 1.1 * len(files[0])
    assert all(0.85 * size < len(data) <= size for data in files)
    inside, outside = importance / 255, 1 - importance / 255
    plain, made = map(codec.decode, files)
    assert psnr(made, picture, inside) > psnr(plain, picture, inside) + gain
    assert psnr(plain, picture, outside) > psnr(made, picture, outside) > 14


@pytest.mark.usefixtures("few_iterations")
@pytest.mark.parametrize(
    ("profile", "effort", "value"), [*((p, e, 0.4) for p, e, *_ in CASES), ("msp", 3, 0), ("msp", 3, 1.0)]
)
def test_the_same_everywhere_is_none(profile: str, effort: int, value: float) -> None:
    image = Image.fromarray(photo(24))
    options: dict[str, Any] = {"profile": profile, "effort": effort, "quality": 30, "device": "cpu"}
    importance = np.full((7, 5), value)
    assert pillow_clric.encode(image, importance=importance, **options) == pillow_clric.encode(image, **options)


@pytest.mark.parametrize("profile", ["msp", "vq"])
def test_quality_means_about_the_same(profile: str) -> None:
    picture, importance = photo(256), mask(256)
    for quality in (20, 60):
        plain, made = (
            len(encode(picture, profile=profile, quality=quality, importance=given)) for given in (None, importance)
        )
        assert 0.6 < made / plain < 1.7


def test_more_important_is_better_still() -> None:
    """Between black and white there are degrees."""
    picture, weights = photo(256), mask(256) / 255
    found = [
        psnr(codec.decode(encode(picture, target_size=2000, importance=given)), picture, weights)
        for given in (None, (mask(256) // 3).astype(np.uint8), mask(256))
    ]
    assert found[0] + 0.2 < found[1] < found[2] - 0.2


def test_weights_have_a_mean_of_one_and_a_floor() -> None:
    import torch

    half = np.zeros((8, 8), np.uint8)
    half[:, :4] = 255
    logs = log_weights([half, None], [(8, 8, 3), (8, 8, 3)], torch.device("cpu"))
    assert logs is not None
    assert logs.exp().mean((1, 2, 3)).tolist() == pytest.approx([1, 1])
    assert float((logs[0].max() - logs[0].min()).exp()) == pytest.approx(RATIO)
    assert not logs[1].any()
    assert log_weights([None], [(8, 8)], torch.device("cpu")) is None


def test_each_of_a_batch_has_its_own() -> None:
    images = [Image.fromarray(photo(64)), Image.fromarray(photo(96)), Image.fromarray(photo(64))]
    importance = [Image.fromarray(mask(64)), None, mask(200)]
    files = pillow_clric.encode_batch(images, importance=importance, device="cpu")
    each = [pillow_clric.encode(image, importance=m, device="cpu") for image, m in zip(images, importance, strict=True)]
    assert files == each
    assert files[0] != pillow_clric.encode(images[0], device="cpu")
    with pytest.raises(ValueError, match="a list of one for each of the 3 images"):
        pillow_clric.encode_batch(images, importance=importance[:2])


@pytest.mark.parametrize("profile", ["clric", "coolchic"])
def test_pictures_of_a_batch_that_is_fitted_together(profile: str) -> None:
    """Of two sizes, one with importance: that is better where it counts."""
    pictures, importance = [photo(40), photo(44)], [mask(40), None]
    options: dict[str, Any] = {"profile": profile, "effort": 1, "quality": 50, "device": "cpu"}
    plain, made = (codec.encode_batch(pictures, importance=given, **options) for given in (None, importance))
    inside = mask(40) / 255
    found = [psnr(codec.decode(files[0]), pictures[0], inside) for files in (plain, made)]
    assert found[1] > found[0] + 0.3


def test_what_alpha_hides_does_not_count() -> None:
    alpha = np.where(np.indices((64, 64))[1] < 32, 255, 0).astype(np.uint8)
    picture, importance = np.dstack([photo(64), alpha]), np.full((64, 64), 9, np.uint8)
    importance[:, 32:] = 200
    assert encode(picture, importance=importance) == encode(picture)
    seen = mask(64)
    other = np.where(alpha > 0, seen, 255 - seen).astype(np.uint8)
    assert encode(picture, importance=seen) == encode(picture, importance=other) != encode(picture)


BAD: list[tuple[type[Exception], str, Any]] = [
    (ValueError, "two axes, height and width", np.zeros((4, 4, 3))),
    (ValueError, "two axes, height and width", np.zeros(4)),
    (ValueError, "not be empty", np.zeros((0, 4))),
    (ValueError, "from 0 to 1, or uint8 from 0 to 255, not NaN", np.array([[0, np.nan]])),
    (ValueError, "from 0 to 1, or uint8 from 0 to 255, not 0 to 1.5", np.array([[0, 1.5]])),
    (ValueError, "not -1 to 0", np.array([[0, -1]])),
    (ValueError, "not 0 to 255", np.array([[0, 255]])),
    (ValueError, "rows of one length", [[1], [1, 0]]),
    (ValueError, "a grey image .* is RGB", Image.new("RGB", (4, 4), "red")),
    (ValueError, "without alpha, .* is LA", Image.new("LA", (4, 4))),
    (ValueError, "has none", Image.new("L", (0, 4))),
    (TypeError, "an image or an array of numbers, not str", "mask.png"),
]


@pytest.mark.parametrize(("kind", "message", "importance"), BAD)
def test_bad_importance_is_one_sentence(
    fast_profile: FastProfile, kind: type[Exception], message: str, importance: Any
) -> None:
    with pytest.raises(kind, match=f"^importance.*{message}") as caught:
        pillow_clric.encode(Image.new("L", (8, 8)), importance=importance)
    assert "\n" not in str(caught.value)
    assert not fast_profile.used


def test_codec_takes_uint8_of_the_same_size() -> None:
    wrong: list[Any] = [np.zeros((4, 5), np.uint8), np.zeros((4, 4))]
    for importance in wrong:
        with pytest.raises(ValueError, match=r"importance must be uint8 \(4, 4\), not"):
            codec.encode(np.zeros((4, 4), np.uint8), importance=importance)


SAME = np.array([[0, 255], [128, 0]], np.uint8)


@pytest.mark.parametrize(
    "given",
    [SAME, SAME / 255, (SAME / 255).astype(np.float32), Image.fromarray(SAME), Image.fromarray(SAME).convert("RGB"),
     (SAME / 255).tolist()],
)  # fmt: skip
def test_images_and_arrays_mean_the_same(fast_profile: FastProfile, given: Any) -> None:
    pillow_clric.encode(Image.new("RGB", (2, 2)), importance=given)
    [found] = fast_profile.importance
    assert found is not None
    assert np.array_equal(found, SAME)


def test_importance_is_made_as_large_as_the_picture(fast_profile: FastProfile, tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 30))
    for size in [(2, 2), (4000, 2000), (1, 7)]:
        given = np.zeros((size[1], size[0]), bool)
        given[-1] = True
        image.save(tmp_path / "x.clric", importance=given)
        found = fast_profile.importance.pop()
        assert found is not None
        assert found.shape == (30, 40)
        assert found[-1].min() > found[0].max()


def turned(image: Image.Image, orientation: int) -> Image.Exif:
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.usefixtures("one_core")
def test_pixels_in_python_and_what_is_shown_on_the_command_line(
    fast_profile: FastProfile, tmp_path: Path, orientation: int, strip: bool
) -> None:
    """The same mark on photo and mask, as a viewer shows them, is in the same place of pixels and of importance."""
    shown = np.zeros((12, 20), np.uint8)
    shown[:4, :6] = 255
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    ways = [None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90]  # fmt: skip
    way = ways[back - 1]
    upright = Image.fromarray(shown)
    stored = upright if way is None else upright.transpose(way)
    stored.save(tmp_path / "photo.png", exif=turned(stored, orientation))
    upright.save(tmp_path / "upright.png")
    for mask_of in ("upright.png", "photo.png"):  # the second has an orientation of its own
        flags = ["--overwrite", "--strip"] if strip else ["--overwrite"]
        options: list[str | Path] = ["-o", tmp_path / "x.clric", "--importance", tmp_path / mask_of]
        assert run(tmp_path / "photo.png", *flags, *options).exit_code == 0
        found = fast_profile.importance.pop()
        assert found is not None
        assert np.array_equal(found, codec.decode((tmp_path / "x.clric").read_bytes()))
    with Image.open(tmp_path / "photo.png") as image:
        pillow_clric.encode(image, importance=np.asarray(image))
        found = fast_profile.importance.pop()
        assert found is not None
        assert np.array_equal(found, np.asarray(image))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos, two of them in a folder below, and masks of some of them."""
    for name in ("a.png", "b.jpg", "below/a.png", "below/c.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "white").save(tmp_path / "photos" / name)
    for name, value in {"a.png": 10, "b.png": 20, "below/a.jpg": 30}.items():
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8), value, np.uint8)
        pixels[:4] = 255
        Image.fromarray(pixels).save(tmp_path / "masks" / name, quality=95)
    return tmp_path


def least(fast_profile: FastProfile) -> list[int | None]:
    """Least sample of what was given for each picture, to tens."""
    return [None if each is None else round(int(each.min()), -1) for each in fast_profile.importance]


@pytest.mark.usefixtures("one_core")
def test_masks_of_a_folder_are_those_of_the_same_names(fast_profile: FastProfile, folder: Path) -> None:
    result = run(folder / "photos", "-r", "-o", folder / "out", "--importance", folder / "masks")
    assert result.exit_code == 0, result.output
    assert least(fast_profile) == [10, 20, 30, None]
    assert f"1 photos like {folder / 'photos' / 'below' / 'c.png'} have no mask" in result.output


@pytest.mark.usefixtures("one_core")
def test_masks_in_the_folder_of_photos_are_no_photos(fast_profile: FastProfile, folder: Path) -> None:
    (folder / "masks").rename(folder / "photos" / "masks")
    result = run(folder / "photos", "-r", "-o", folder / "out", "--importance", folder / "photos" / "masks")
    assert result.exit_code == 0
    assert least(fast_profile) == [10, 20, 30, None]
    for named in ("a.png", "below"):  # which is not left out without a word
        result = run(folder / "photos" / "masks" / named, "--importance", folder / "photos" / "masks")
        assert "1 converted" in result.output


@pytest.mark.usefixtures("one_core")
def test_one_mask_is_for_all(fast_profile: FastProfile, folder: Path) -> None:
    assert run(folder / "photos", "-o", folder / "out", "--importance", folder / "masks" / "b.png").exit_code == 0
    assert least(fast_profile) == [20, 20]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_mask_that_can_be_read_but_once_is_for_one_photo(fast_profile: FastProfile, folder: Path) -> None:
    os.mkfifo(folder / "mask")
    result = run(folder / "photos", "-o", folder / "out", "--importance", folder / "mask")
    assert result.exit_code == 2
    assert "can be read but once" in result.output
    with tarfile.open(folder / "x.tar", "w") as tar:
        tar.add(folder / "photos" / "a.png", "a.png")
    assert run(folder / "x.tar", "-o", folder / "out" / "", "--importance", folder / "mask").exit_code == 2


@pytest.mark.usefixtures("one_core")
def test_bad_masks_are_named(fast_profile: FastProfile, folder: Path) -> None:
    result = run(folder / "photos" / "a.png", "--importance", folder / "none.png")
    assert result.exit_code == 2
    assert f"Path '{folder / 'none.png'}' does not exist" in result.output
    Image.new("RGB", (8, 8), "red").save(folder / "masks" / "a.png")
    (folder / "masks" / "b.png").write_bytes(b"no picture")
    result = run(folder / "photos", "-o", folder / "out", "--importance", folder / "masks")
    assert result.exit_code == 1
    assert f"{folder / 'masks' / 'a.png'}: importance must be a grey image" in result.output
    assert f"{folder / 'masks' / 'b.png'}: cannot identify its format" in result.output
    assert not fast_profile.used


@pytest.mark.usefixtures("one_core")
def test_one_mask_is_for_all_photos_of_a_shard(fast_profile: FastProfile, folder: Path) -> None:
    with tarfile.open(folder / "x.tar", "w") as tar:
        for photo in sorted((folder / "photos").iterdir()):
            if photo.is_file():
                tar.add(photo, photo.name)
    assert run(folder / "x.tar", "-o", folder / "y.tar", "--importance", folder / "masks" / "b.png").exit_code == 0
    assert least(fast_profile) == [20, 20]
    result = run(folder / "x.tar", "-o", folder / "z.tar", "--importance", folder / "masks")
    assert result.exit_code == 2
    assert "name one picture for all photos of shards" in result.stderr
