"""Rate and distortion of a codec beside AVIF: figures by judges that it is not trained by, and pictures to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from codec import metrics
from codec.files import write
from codec.training.bd_rate import Curve, bd_rate
from codec.training.data import Photos, as_pictures, find_benchmark, find_photos, middle, read_rgb

Code = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # pictures, lambdas to pictures, bits per pixel
Pixels = NDArray[np.uint8]

LAMBDAS = (4e-2, 1.5e-2, 6e-3, 2e-3, 7e-4, 2.5e-4, 3e-5)
MOST = 1.0  # bits per pixel up to which curves are compared, if nothing else is asked for
JUDGES = ("psnr", "msssim", "ssimulacra2")  # MS-SSIM in dB
AVIF_QUALITIES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90)
AVIF_SPEED = 4
BENCHMARK = ("kodim04", "kodim05", "kodim15", "kodim19", "kodim21", "kodim23")
MIDDLE = 384  # side of what is taken of a held-out photo, as validations take time
SHEET_LAMBDAS, SHEET_CROP = (1.5e-2, 4e-3), 240


def judge(original: Pixels, made: Pixels) -> dict[str, float]:
    """PSNR and MS-SSIM in dB, and SSIMULACRA2, of pictures (height, width, 3) of 161 x 161 at least."""
    return {
        "psnr": metrics.psnr(original, made),
        "msssim": metrics.decibels(metrics.ms_ssim(original, made)),
        "ssimulacra2": ssimulacra2(original, made),
    }


def ssimulacra2(original: Pixels, made: Pixels) -> float:
    """SSIMULACRA2 of a picture (height, width, 3): 100 at most, 90 if nobody sees a difference, 30 if it looks bad."""
    from ssimulacra2 import compute_ssimulacra2

    return float(compute_ssimulacra2(_png(original), _png(made)))


def _png(picture: Pixels) -> BytesIO:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=0)
    return buffer


def avif(picture: Pixels, quality: int, cache: Path) -> bytes:
    """The picture as AVIF, at a speed that takes time; kept in the cache, since it never changes."""
    path = cache / f"{_identity([picture])}-{quality}-{AVIF_SPEED}.avif"
    if not path.exists():
        buffer = BytesIO()
        Image.fromarray(picture).save(buffer, "AVIF", quality=quality, speed=AVIF_SPEED)
        write(path, buffer.getvalue())
    return path.read_bytes()


def _identity(pictures: Iterable[Pixels]) -> str:
    """Name for what depends on these pictures only."""
    total = sha256()
    for picture in pictures:
        total.update(f"{picture.shape}".encode() + np.ascontiguousarray(picture).data)
    return total.hexdigest()[:16]


@dataclass
class Validation:
    """Sets of photos, (height, width, 3) each and 161 x 161 at least, by the set's name and the photo's.

    Attributes:
        sets: of which each gets figures of its own; contact sheets show the last one.
        cache: folder for what never changes.
        lambdas: at which photos are coded, falling.
    """

    sets: Mapping[str, Mapping[str, Pixels]]
    cache: Path
    lambdas: tuple[float, ...] = LAMBDAS

    def __post_init__(self) -> None:
        try:
            import ssimulacra2  # noqa: F401
        except ImportError as error:  # before hours of training, not after the first of them
            raise ImportError("validations need ssimulacra2: install pillow-clric[training]") from error

    def run(self, code: Code, device: torch.device, name: str, folder: Path) -> dict[str, Any]:
        """Figures by set: "points" of means, a lambda each, and "bd_rate" against AVIF in percent, by judge.

        Args:
            code: the codec.
            device: of what it takes.
            name: of the contact sheet that is left in the folder's folder "sheets".
        """

        def moved(pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
            return code(pictures.to(device), lambdas.to(device))

        figures = {}
        for label, photos in self.sets.items():
            points = [_mean(photos.values(), partial(coded, moved, number)) for number in self.lambdas]
            anchor = [self._anchor(photos, quality) for quality in AVIF_QUALITIES]
            rates = {metric: compare(points, anchor, metric) for metric in JUDGES}
            labelled = [{"lambda": number, **point} for number, point in zip(self.lambdas, points, strict=True)]
            figures[label] = {"bd_rate": rates, "points": labelled}
        sheet = folder / "sheets" / f"{name}.png"
        sheet.parent.mkdir(parents=True, exist_ok=True)
        self.sheet(moved, list(self.sets.values())[-1]).save(sheet)
        return figures

    def _anchor(self, photos: Mapping[str, Pixels], quality: int) -> dict[str, float]:
        """Means of AVIF, at one of its qualities."""
        path = self.cache / f"{_identity(photos.values())}-{quality}-{AVIF_SPEED}.json"
        if not path.exists():
            mean = _mean(photos.values(), partial(self._avif, quality))
            write(path, json.dumps(mean).encode())
        found: dict[str, float] = json.loads(path.read_text())
        return found

    def _avif(self, quality: int, photo: Pixels) -> tuple[Pixels, float]:
        data = avif(photo, quality, self.cache)
        return read_rgb(BytesIO(data)), 8 * len(data) / photo[..., 0].size

    def sheet(self, code: Code, photos: Mapping[str, Pixels]) -> Image.Image:
        """A row a photo: a part of the original, then at each of some rates what we make of it and what AVIF does."""
        rows = []
        for photo in photos.values():
            cells = [(photo, "original")]
            for number in SHEET_LAMBDAS:
                made, bpp = coded(code, number, photo)
                size = bpp * photo[..., 0].size / 8
                data = self._avif_of_size(photo, size)
                other = read_rgb(BytesIO(data))
                cells.append((made, f"{size:.0f} bytes, {metrics.psnr(photo, made):.2f} dB"))
                cells.append((other, f"AVIF {len(data)} bytes, {metrics.psnr(photo, other):.2f} dB"))
            rows.append(np.hstack([_captioned(*cell) for cell in cells]))
        return Image.fromarray(np.vstack(rows))

    def _avif_of_size(self, photo: Pixels, size: float) -> bytes:
        """The AVIF whose size is nearest, of those of all qualities."""
        low, high = 0, 100
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if len(avif(photo, middle, self.cache)) < size else (low, middle)
        both = (avif(photo, quality, self.cache) for quality in (low, high))
        return min(both, key=lambda data: abs(len(data) - size))


def photos_and_validation(
    folder: Path, cache: Path, side: int, lambdas: tuple[float, ...] = LAMBDAS
) -> tuple[Photos, Validation]:
    """Photos of a folder to train on, no side of which is below `side`, and the validation with others of them.

    Raises:
        FileNotFoundError: there are too few photos, or none is large enough for the judges.
    """
    known, held_out = find_photos(folder)
    photos = Photos.load(known, cache, side)
    sets = {"held out": _pictures(held_out, MIDDLE), "kodak": _pictures(find_benchmark(folder, BENCHMARK))}
    sets = {label: found for label, found in sets.items() if found}
    if not sets:
        raise FileNotFoundError(
            f"{folder}: none of {len(held_out)} photos held out has {metrics.SMALLEST} pixels a side, which validations"
            " need: add larger ones"
        )
    return photos, Validation(sets, cache, lambdas)


def _pictures(paths: Sequence[Path], side: int = 2**16) -> dict[str, Pixels]:
    """The middles of photos, neither side above `side`, by name, where judges can judge them."""
    pictures = {path.stem: middle(read_rgb(path), side) for path in paths}
    return {name: picture for name, picture in pictures.items() if min(picture.shape[:2]) >= metrics.SMALLEST}


def _mean(photos: Iterable[Pixels], encode: Callable[[Pixels], tuple[Pixels, float]]) -> dict[str, float]:
    """Means over photos of bits per pixel and the judges' figures."""
    rows = []
    for photo in photos:
        made, bpp = encode(photo)
        rows.append({"bpp": bpp, **judge(photo, made)})
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}


def coded(code: Code, number: float, photo: Pixels) -> tuple[Pixels, float]:
    """Code a photo at a lambda: the picture that is decoded, and bits per pixel."""
    picture = as_pictures(torch.from_numpy(photo[None].copy()))
    made, bits = code(picture, torch.tensor([number]))
    pixels = made[0].permute(1, 2, 0).clamp(0, 1).mul(255).round().byte()
    return pixels.cpu().numpy(), bits.item()


def compare(
    points: Sequence[Mapping[str, float]], anchor: Sequence[Mapping[str, float]], metric: str,
    rates: tuple[float, float] = (0, MOST),
) -> float | None:  # fmt: skip
    """BD-rate from one rate to another, in bits per pixel, in percent."""
    least, most = rates
    chosen = ([(p["bpp"], p[metric]) for p in side if least <= p["bpp"] <= most] for side in (points, anchor))
    change = bd_rate(*(Curve.of(metric, found) for found in chosen))
    return None if change is None else round(change, 2)


def _captioned(picture: Pixels, caption: str) -> Pixels:
    """The middle of a picture, with a line of text below."""
    cell = Image.new("RGB", (SHEET_CROP, SHEET_CROP + 14))
    cell.paste(Image.fromarray(middle(picture, SHEET_CROP)))
    ImageDraw.Draw(cell).text((2, SHEET_CROP + 1), caption, (255,) * 3)
    return np.asarray(cell)
