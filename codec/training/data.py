"""Photos to train on, decoded once into one file that is mapped into memory, and random crops of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from codec.files import replacing, write
from codec.runtime import cached_property
from codec.training.loop import Task
from codec.training.synthetic import draw

HELD_OUT = 20  # photos that validations are made with
BENCHMARK = "kodak"  # folder whose photos nothing is ever trained on
SUFFIXES = {".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SYNTHETIC, GREY = 0.06, 0.04  # of the crops; together they are a tenth
REDUCED, ENLARGED = 2.0, 2.0  # at most so much
SCALED = (0.55, 0.3, 0.15)  # parts of squares that are as in the photo, enlarged, reduced

Pixels = NDArray[np.uint8]


def find_photos(folder: Path) -> tuple[list[Path], list[Path]]:
    """Photos in a folder and its folders: those to train on, and `HELD_OUT` others, chosen by hashes of their names.

    Raises:
        FileNotFoundError: there are too few.
    """
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    known = [path for path in paths if BENCHMARK not in path.relative_to(folder).parts]
    ranked = sorted(known, key=lambda path: sha256(path.name.encode()).digest())
    if len(ranked) <= HELD_OUT:
        raise FileNotFoundError(
            f"{folder} holds {len(ranked)} photos, of which {HELD_OUT} are held out: put photos into folders there, the"
            f' more the better; those in a folder named "{BENCHMARK}" are for validation only'
        )
    return ranked[HELD_OUT:], ranked[:HELD_OUT]


def find_benchmark(folder: Path, names: Sequence[str]) -> list[Path]:
    """The photos of these names in the folder that nothing is trained on; none if it is not there."""
    found = {path.stem: path for path in (folder / BENCHMARK).glob("*") if path.suffix.lower() in SUFFIXES}
    return [found[name] for name in names if name in found]


def read_rgb(file: Path | BytesIO) -> Pixels:
    """(height, width, 3)"""
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def middle(picture: Pixels, side: int) -> Pixels:
    """The middle of a picture (height, width, 3), neither side above `side`."""
    top, left = (max(0, n - side) // 2 for n in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def as_pictures(batch: Tensor) -> Tensor:
    """(batch, h, w, 3) in 0..255 to (batch, 3, h, w) in 0..1, channels_last."""
    return batch.permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class Photos:
    """Photos of different sizes in one array.

    Attributes:
        pixels: of all photos, one after the other (bytes,).
        shapes: (height, width) of each.
    """

    pixels: Pixels
    shapes: tuple[tuple[int, int], ...]

    @cached_property
    def offsets(self) -> list[int]:
        """First byte of each photo, and the end of the last one."""
        return list(accumulate((3 * height * width for height, width in self.shapes), initial=0))

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Pixels:
        """(height, width, 3)"""
        return self.pixels[self.offsets[index] : self.offsets[index + 1]].reshape(*self.shapes[index], 3)

    @classmethod
    def load(cls, paths: Sequence[Path], cache: Path, side: int) -> Photos:
        """Photos no side of which is below `side`, from the cache's files if they are of the same photos.

        Args:
            cache: a folder for what is decoded, 3 bytes a pixel.
        """
        told = json.dumps([[path.name, path.stat().st_size] for path in paths] + [side])
        name = sha256(told.encode()).hexdigest()[:16]
        pixels, shapes = cache / f"{name}.rgb", cache / f"{name}.json"
        if not shapes.exists():
            found = []
            with replacing(pixels) as temporary, temporary.open("wb") as file:
                for path in paths:
                    photo = read_rgb(path)
                    if min(photo.shape[:2]) >= side:
                        file.write(photo.tobytes())
                        found.append(photo.shape[:2])
            write(shapes, json.dumps(found).encode())
        sizes = tuple((height, width) for height, width in json.loads(shapes.read_text()))
        if not sizes:
            raise FileNotFoundError(f"none of {len(paths)} photos has {side} pixels on each side: add larger ones")
        return cls(np.memmap(pixels, np.uint8, "r"), sizes)


def load_photos(folder: Path, cache: Path, side: int) -> tuple[Photos, Tensor]:
    """Photos of a folder to train on, no side of which is below `side`, and pictures to validate with.

    Returns:
        The photos, and the middles (count, 3, side, side) of those that are held out, in 0..1.

    Raises:
        FileNotFoundError: there are too few, or none that are large enough.
    """
    known, held_out = find_photos(folder)
    middles = [middle(read_rgb(path), side) for path in held_out]
    squares = [square for square in middles if min(square.shape[:2]) == side]
    if not squares:
        raise FileNotFoundError(
            f"none of {len(held_out)} photos held out has {side} pixels on each side: add larger ones"
        )
    return Photos.load(known, cache, side), as_pictures(torch.from_numpy(np.stack(squares)))


def crops(photos: Photos, side: int, count: int, *seeds: int) -> Tensor:
    """Random squares (count, side, side, 3) in 0..255, which depend on the arguments only."""
    generators = (np.random.default_rng([*seeds, i]) for i in range(count))
    return torch.from_numpy(np.stack([crop(photos, side, generator) for generator in generators]))


class PhotoTask(Task):
    """A training from crops of photos.

    Attributes:
        photos: to train on.
        side: of the crops.
        count: crops at once.
    """

    def __init__(self, photos: Photos, side: int, count: int) -> None:
        self.photos, self.side, self.count = photos, side, count

    def batch(self, seed: int, iteration: int) -> Tensor:
        """(count, side, side, 3) in 0..255"""
        return crops(self.photos, self.side, self.count, seed, iteration)


def crop(photos: Photos, side: int, generator: np.random.Generator) -> Pixels:
    """A random square (side, side, 3): mostly of a photo, made smaller or larger, mirrored, turned.

    Photos made smaller are sharper, and rid of what an earlier compression did to them; many of large cameras are soft.
    A tenth of the squares are what most photos are not: grey, or drawn (text, charts, windows, gradients).
    """
    kind = generator.random()
    if kind < SYNTHETIC:
        square = draw(side, generator)
    else:
        square = _of_photo(photos[int(generator.integers(len(photos)))], side, generator)
        if kind < SYNTHETIC + GREY:
            square = np.asarray(Image.fromarray(square).convert("L").convert("RGB"))
    square = np.rot90(square, generator.choice((0, 0, 0, 1, 2, 3)))
    return square[:, :: generator.choice((-1, 1))]


def _of_photo(photo: Pixels, side: int, generator: np.random.Generator) -> Pixels:
    height, width = photo.shape[:2]
    smallest = min(height, width)
    scale = generator.choice((1.0, generator.uniform(1 / ENLARGED, 1), generator.uniform(1, REDUCED)), p=SCALED)
    taken = min(smallest, round(side * scale))
    top, left = generator.integers(height - taken + 1), generator.integers(width - taken + 1)
    square = photo[top : top + taken, left : left + taken]
    if taken != side:
        square = np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.LANCZOS))
    return square
