"""The trained weights of the learned transform: what they must do with pictures that no photo is like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import codec.training
from codec.autoencoders.networks.transform import Config, Transform, load
from codec.training.transform import Model, read_weights

WEIGHTS = Path(codec.training.__file__).with_name("transform.safetensors")
SAMPLES = Path(__file__).parent.parent / "samples"
LAMBDAS = (0.1, 6e-3, 3e-5)
COLOURS = {
    "black": (0, 0, 0), "white": (1, 1, 1), "grey": (0.5, 0.5, 0.5), "red": (1, 0, 0), "green": (0, 1, 0),
    "blue": (0, 0, 1), "yellow": (1, 1, 0), "cyan": (0, 1, 1), "magenta": (1, 0, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def transform() -> Transform:
    return load(WEIGHTS)


@torch.no_grad()
def coded(transform: Transform, picture: Tensor, number: float) -> Tensor:
    """A picture (1, 3, height, width) after its latent was rounded."""
    lambdas = torch.tensor([number])
    gains = transform.gains(lambdas)
    latent = (transform.encode(picture, lambdas) * gains).round() / gains
    return transform.decode(latent, lambdas, *picture.shape[2:])


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a.clamp(0, 1) - b).square().mean().log10())


def patterns() -> dict[str, Tensor]:
    """Noise and lines of one pixel, 64 x 80."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(80), indexing="ij")
    grey = {"rows": rows % 2, "columns": columns % 2, "checkers": (rows + columns) % 2, "line": columns == 40}
    found = {name: plane.float().expand(1, 3, -1, -1) for name, plane in grey.items()}
    return found | {"noise": torch.rand(1, 3, 64, 80, generator=generator)}


@pytest.mark.parametrize("number", LAMBDAS)
@pytest.mark.parametrize("name", COLOURS)
def test_one_colour_stays_one(name: str, number: float, transform: Transform) -> None:
    """Nearly the colour that it was, without frame or mesh."""
    picture = torch.tensor(COLOURS[name], dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 70, 90)
    made = coded(transform, picture, number).clamp(0, 1)
    assert psnr(made, picture) > 25
    assert (made - made.mean((2, 3), keepdim=True)).abs().max() < 12 / 255


@pytest.mark.parametrize("number", LAMBDAS)
@pytest.mark.parametrize("name", ["rows", "columns", "checkers", "line", "noise"])
def test_patterns_do_not_explode(name: str, number: float, transform: Transform) -> None:
    """As good as a grey area at least, and within reach of the range that is shown."""
    picture = patterns()[name]
    made = coded(transform, picture, number)
    assert made.isfinite().all()
    assert made.min() > -1
    assert made.max() < 2
    assert psnr(made, picture) > psnr(picture.mean((1, 2, 3), keepdim=True).expand_as(picture), picture) - 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (17, 3), (33, 31), (16, 16)])
def test_odd_sizes(size: tuple[int, int], transform: Transform) -> None:
    height, width = size
    with Image.open(SAMPLES / "astronaut.png") as image:
        pixels = np.asarray(image.convert("RGB"))[60 : 60 + height, 200 : 200 + width].copy()
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    made = coded(transform, picture, 3e-4)
    assert made.shape == picture.shape
    assert psnr(made, picture) > 28


def test_photos_get_better_with_the_rate(transform: Transform) -> None:
    with Image.open(SAMPLES / "astronaut.png") as image:
        pixels = np.asarray(image.convert("RGB").crop((128, 0, 384, 256))).copy()
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    found = [psnr(coded(transform, picture, number), picture) for number in (3e-2, 6e-3, 1e-3, 1e-4)]
    assert found == sorted(found)
    assert found[0] > 22
    assert found[-1] > 33


def test_training_can_start_from_them() -> None:
    Model(Config()).load_state_dict(read_weights(WEIGHTS))
