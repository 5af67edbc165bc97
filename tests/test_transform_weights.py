"""The trained weights of the learned transform: what they must do with pictures that no photo is like."""

from __future__ import annotations

import pytest
import torch
from pictures import photo_tensor, psnr
from torch import Tensor

from codec.autoencoders import store
from codec.autoencoders.learned_transform import LearnedTransform
from codec.training.transform import Model, read_weights

QUALITIES = (0.0, 0.5, 1.0)  # positions among the knots, as parts of all, from the best quality on
COLOURS = {
    "black": (0, 0, 0), "white": (1, 1, 1), "grey": (0.5, 0.5, 0.5), "red": (1, 0, 0), "green": (0, 1, 0),
    "blue": (0, 0, 1), "yellow": (1, 1, 0), "cyan": (0, 1, 1), "magenta": (1, 0, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def transform() -> LearnedTransform:
    return LearnedTransform(store.load("transform"), "cpu")


@torch.no_grad()
def coded(transform: LearnedTransform, picture: Tensor, quality: float) -> Tensor:
    """A picture (1, 3, height, width) after its latent was rounded."""
    position = round(quality * transform.positions)
    networks = transform.networks
    return networks.decode(networks.encode(picture, position).round(), position, *picture.shape[2:])


def patterns() -> dict[str, Tensor]:
    """Noise and lines of one pixel, 64 x 80."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(80), indexing="ij")
    grey = {"rows": rows % 2, "columns": columns % 2, "checkers": (rows + columns) % 2, "line": columns == 40}
    found = {name: plane.float().expand(1, 3, -1, -1) for name, plane in grey.items()}
    return found | {"noise": torch.rand(1, 3, 64, 80, generator=generator)}


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("name", COLOURS)
def test_one_colour_stays_one(name: str, quality: float, transform: LearnedTransform) -> None:
    """Nearly the colour that it was, without frame or mesh."""
    picture = torch.tensor(COLOURS[name], dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 70, 90)
    made = coded(transform, picture, quality).clamp(0, 1)
    assert psnr(made, picture) > 25
    assert (made - made.mean((2, 3), keepdim=True)).abs().max() < 12 / 255


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("name", ["rows", "columns", "checkers", "line", "noise"])
def test_patterns_do_not_explode(name: str, quality: float, transform: LearnedTransform) -> None:
    """They may come out grey or blurred, but not as something else, nor far beyond the range that is shown."""
    picture = patterns()[name]
    made = coded(transform, picture, quality)
    assert made.isfinite().all()
    assert made.min() > -1
    assert made.max() < 2
    grey = picture.mean((1, 2, 3), keepdim=True).expand_as(picture)
    assert psnr(made.clamp(0, 1), picture) > psnr(grey, picture) - 0.7


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (17, 3), (33, 31), (16, 16)])
def test_odd_sizes(size: tuple[int, int], transform: LearnedTransform) -> None:
    height, width = size
    picture = photo_tensor("astronaut.png", height, width, top=60, left=200)
    made = coded(transform, picture, 0.3)
    assert made.shape == picture.shape
    assert psnr(made.clamp(0, 1), picture) > 28


def test_photos_get_better_with_the_rate(transform: LearnedTransform) -> None:
    picture = photo_tensor("astronaut.png", 256, 256, left=128)
    found = [psnr(coded(transform, picture, quality).clamp(0, 1), picture) for quality in (0.85, 0.65, 0.4, 0.15)]
    assert found == sorted(found)
    assert found[0] > 22
    assert found[-1] > 33


def test_training_can_start_from_them() -> None:
    entry = store.check("transform")
    assert entry is not None
    network, weights = read_weights(entry.path)
    Model(network).load_state_dict(weights)
