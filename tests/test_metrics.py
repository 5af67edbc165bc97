"""Metrics, against another implementation and where their values are known."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pictures import photo
from PIL import Image
from safetensors.torch import save_file

from codec.lpips import Lpips
from codec.metrics import SMALLEST, measure, ms_ssim, psnr


def original(name: str, width: int, height: int) -> Image.Image:
    return Image.fromarray(photo(name, height, width, top=50, left=100))


def as_jpeg(image: Image.Image, quality: int) -> NDArray[np.uint8]:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as coded:
        return np.asarray(coded)


@pytest.mark.parametrize(("name", "width", "height"), [("coffee.png", 300, 299), ("rocket.jpg", SMALLEST, 202)])
@pytest.mark.parametrize("quality", [2, 30, 95])
def test_ms_ssim_is_that_of_others(name: str, width: int, height: int, quality: int) -> None:
    pytorch_msssim = pytest.importorskip("pytorch_msssim")
    image = original(name, width, height)
    a, b = np.array(image), as_jpeg(image, quality)
    x, y = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() for pixels in (a, b))
    assert ms_ssim(a, b) == pytest.approx(float(pytorch_msssim.ms_ssim(x, y, data_range=255)), abs=1e-4)


def test_known_values() -> None:
    a = np.array(original("coffee.png", 170, 170))
    assert psnr(a, a) == 100
    assert ms_ssim(a, a) == pytest.approx(1)
    assert ms_ssim(a, 255 - a) == 0  # nowhere alike
    grey = np.full((2, 3, 3), 100, np.uint8)
    assert psnr(grey, grey + 51) == pytest.approx(20 * np.log10(5))
    assert psnr(grey + 51, grey) == psnr(grey, grey + 51)  # no sample wraps around


def random_lpips() -> Lpips:
    """Random weights, which make a distance all the same."""
    torch.manual_seed(0)
    metric = Lpips()
    weights = {name: w.abs() + 0.1 if name.startswith("lin") else w for name, w in metric.state_dict().items()}
    metric.load_state_dict(weights)
    return metric


def test_lpips_is_a_distance(tmp_path: Path) -> None:
    save_file(random_lpips().state_dict(), tmp_path / "lpips.safetensors")
    metric = Lpips.load(tmp_path / "lpips.safetensors")
    a, b = torch.rand(2, 1, 3, 64, 80)
    assert metric(a, a).item() == 0
    assert metric(a, b).item() == pytest.approx(metric(b, a).item())
    assert metric(a, (a + b) / 2).item() < metric(a, b).item()


def test_small_pictures_have_no_ms_ssim() -> None:
    a = np.zeros((SMALLEST - 1, 400, 3), np.uint8)
    assert set(measure(a, a)) == {"psnr"}
    with pytest.raises(ValueError, match="161 x 161 at least, not 400 x 160"):
        ms_ssim(a, a)


def test_codec_needs_no_pillow_but_for_trainings() -> None:
    code = """
import pkgutil, sys
sys.modules["PIL"] = None
import codec
for module in pkgutil.walk_packages(codec.__path__, "codec."):
    if not module.name.startswith("codec.training"):
        __import__(module.name)
import numpy
from codec.lpips import Lpips
from codec.metrics import measure
picture = numpy.zeros((8, 8, 3), numpy.uint8)
assert measure(picture, picture, lambda a, b: (a - b).sum()) == {"psnr": 100, "lpips": 0}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
