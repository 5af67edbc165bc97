"""Photos to train on, and photos held out."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

HELD_OUT = 50  # about one photo in so many is held out, always the same ones, and at least one


def split(folder: Path) -> tuple[list[Path], list[Path]]:
    """The photos of a folder to train on, and those held out, chosen by the hashes of their names."""
    hashes = {path: sha256(path.name.encode()).digest() for path in folder.iterdir() if path.is_file()}
    ranked = sorted(hashes, key=lambda path: hashes[path])
    count = max(1, sum(digest[0] * HELD_OUT < 256 for digest in hashes.values()))
    return ranked[count:], ranked[:count]


def load(paths: list[Path], size: int) -> list[NDArray[np.uint8]]:
    """Those photos, (height, width, 3), whose sides are at least `size`."""
    photos = []
    for path in paths:
        with Image.open(path) as image:
            if min(image.size) >= size:
                photos.append(np.asarray(image.convert("RGB")))
    return photos


def to_tensor(pictures: list[NDArray[np.uint8]]) -> Tensor:
    """(count, 3, height, width) in 0..1, from pictures of one size."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


class Crops:
    """Random square crops of photos, half of them mirrored.

    Args:
        photos: (height, width, 3) each, no side below `size`.
        size: side of the crops.
        enlarge: a third of the crops are enlarged, by at most so much: photos of many megapixels are soft.
    """

    def __init__(
        self, photos: list[NDArray[np.uint8]], size: int, generator: np.random.Generator, enlarge: float = 1
    ) -> None:
        self.photos, self.size, self.generator, self.enlarge = photos, size, generator, enlarge

    def draw(self, count: int) -> Tensor:
        """(count, 3, size, size) in 0..1."""
        return to_tensor([self._one() for _ in range(count)])

    def _one(self) -> NDArray[np.uint8]:
        photo = self.photos[self.generator.integers(len(self.photos))]
        side = self.size
        if self.enlarge > 1 and self.generator.random() < 1 / 3:
            side = round(side / self.generator.uniform(1, self.enlarge))
        top, left = (self.generator.integers(n - side + 1) for n in photo.shape[:2])
        crop = photo[top : top + side, left : left + side]
        if side < self.size:
            crop = np.asarray(Image.fromarray(crop).resize((self.size, self.size), Image.Resampling.BICUBIC))
        return crop[:, :: self.generator.choice((-1, 1))]
