"""Programs that open and save pictures through Pillow, and know nothing of the format."""

from __future__ import annotations

import importlib
import multiprocessing
from io import BytesIO
from pathlib import Path
from typing import Any

import django.conf
import fsspec
import imageio.v3 as imageio
import numpy as np
import pytest
import skimage.io
import torch
from django.core.exceptions import ValidationError
from django.core.files.images import get_image_dimensions
from django.core.files.uploadedfile import SimpleUploadedFile
from django.forms import ImageField
from matplotlib import pyplot
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

import pillow_clric

TESTS = Path(__file__).parent
GOLDEN = sorted((TESTS / "golden").glob("*rgb.clric"))
METHODS = multiprocessing.get_all_start_methods()

django.conf.settings.configure(USE_I18N=False)


@pytest.fixture
def pixels(photo: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(photo)


# Files of a lossless profile: what is read is what was saved


@pytest.mark.parametrize("grey", [False, True])
def test_imageio(grey: bool, pixels: NDArray[np.uint8], fast_profile: object, tmp_path: Path) -> None:
    path, saved = tmp_path / "photo.clric", pixels[:, :, 0] if grey else pixels
    imageio.imwrite(path, saved, plugin="pillow", quality=60)
    np.testing.assert_array_equal(imageio.imread(path), saved)
    np.testing.assert_array_equal(imageio.imread(path.read_bytes(), plugin="pillow"), saved)
    assert imageio.improps(path).shape == saved.shape
    assert [frame.shape for frame in imageio.imiter(path)] == [saved.shape]
    assert imageio.imwrite("<bytes>", saved, plugin="pillow", extension=".clric", quality=60) == path.read_bytes()


def test_scikit_image(pixels: NDArray[np.uint8], fast_profile: object, tmp_path: Path) -> None:
    path = tmp_path / "photo.clric"
    skimage.io.imsave(path, pixels)
    np.testing.assert_array_equal(skimage.io.imread(path), pixels)
    assert skimage.io.imread(path, as_gray=True).shape == pixels.shape[:2]


def test_matplotlib(clric_path: Path, pixels: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(pyplot.imread(clric_path), pixels)
    with clric_path.open("rb") as file:
        np.testing.assert_array_equal(pyplot.imread(file, format="clric"), pixels)


def test_fsspec(clric: bytes, photo: Image.Image) -> None:
    """Files that are read in blocks, from anywhere."""
    with fsspec.open("memory://photo.clric", "wb") as file:
        photo.save(file, "CLRIC")
    with fsspec.open("memory://photo.clric", "rb") as file, Image.open(file) as image:
        assert image.tobytes() == photo.tobytes()
    with fsspec.open("memory://photo.clric", "rb") as file:
        assert file.read() == clric


def test_django(clric: bytes, photo: Image.Image) -> None:
    """Uploads are verified, and sizes found by `ImageFile.Parser`."""
    upload = ImageField().clean(SimpleUploadedFile("photo.clric", clric))
    assert upload.content_type == "image/x-clric"
    assert get_image_dimensions(BytesIO(clric)) == photo.size
    for damaged in (clric[:-1], clric[:-1] + b"x", clric[:10]):
        with pytest.raises(ValidationError, match="valid image"):
            ImageField().clean(SimpleUploadedFile("photo.clric", damaged))


# Processes


DATASET = """
import numpy as np
from PIL import Image

class Photos(list):
    def __getitem__(self, index):
        with Image.open(super().__getitem__(index)) as image:
            return np.asarray(image)

def register(worker):
    import pillow_clric
"""


@pytest.mark.parametrize(("method", "where"), [("fork", "here"), ("spawn", "module"), ("spawn", "worker_init_fn")])
def test_data_loader(method: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forked workers know the format; spawned ones do if the dataset's module or `worker_init_fn` imports it."""
    if method not in METHODS:
        pytest.skip(f"this system does not {method}")
    name = f"dataset_{where}"
    (tmp_path / f"{name}.py").write_text("import pillow_clric\n" * (where == "module") + DATASET)
    monkeypatch.syspath_prepend(tmp_path)
    dataset = importlib.import_module(name)
    loader: DataLoader[Any] = DataLoader(
        dataset.Photos(GOLDEN), num_workers=1, multiprocessing_context=method, timeout=600,
        worker_init_fn=dataset.register if where == "worker_init_fn" else None,
    )  # fmt: skip
    for path, [pixels] in zip(GOLDEN, loader, strict=True):
        expected = pillow_clric.decode(path.read_bytes(), device="cpu")
        np.testing.assert_allclose(pixels.numpy().astype(int), np.asarray(expected), atol=1)


@pytest.mark.skipif("fork" not in METHODS, reason="this system does not fork")
def test_forks_of_a_process_with_threads() -> None:
    """Torch's threads stay behind in this process, and the other one must not wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        load_photo()
        process = multiprocessing.get_context("fork").Process(target=load_photo)
        process.start()
        process.join(600)
        process.kill()
        assert process.exitcode == 0
    finally:
        torch.set_num_threads(before)


def load_photo() -> None:
    with Image.open(TESTS.parent / "samples" / "rocket.clric") as image:
        image.load()
    assert torch.get_num_threads() == 2
