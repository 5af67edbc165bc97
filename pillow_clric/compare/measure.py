"""Photos coded by each codec at each size, and what of them the page shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from PIL import Image

from codec.autoencoders.errors import ModelFileError
from pillow_clric._colour import check, to_srgb
from pillow_clric._metadata import upright
from pillow_clric._modes import converted, on_white
from pillow_clric.compare.codecs import Codec, Coded
from pillow_clric.compare.page import data_url, lossless, thumbnail
from pillow_clric.compare.report import Reporter
from pillow_clric.convert.inputs import opened
from pillow_clric.convert.report import message

if TYPE_CHECKING:
    from codec.lpips import Lpips


def load_lpips(weights: Path | None) -> Lpips | None:
    """The metric, if there are weights for it."""
    if weights is None:
        return None

    from codec.lpips import Lpips

    try:
        return Lpips.load(weights)
    except ModelFileError as error:
        raise click.BadParameter(f"{weights} holds no weights of LPIPS: {error}", param_hint="--lpips") from error


def compare_all(
    paths: list[Path], codecs: list[Codec], rates: list[float], lpips: Lpips | None
) -> tuple[list[dict[str, Any]], int]:
    """Code all photos, and tell on stderr how it goes.

    Returns:
        Values that the page shows of each photo, and the number of failures.
    """
    photos = []
    with Reporter(len(paths) * len(rates) * sum(codec.cost for codec in codecs)) as reporter:
        for path in paths:
            try:
                image = open_rgb(path)
            except Exception as error:  # one bad file does not stop the others
                reporter.failed(f"{path}: {message(error, path)}")
            else:
                photos.append(compare_one(path.name, image, codecs, rates, lpips, reporter))
    return photos, reporter.failures


def compare_one(
    name: str, image: Image.Image, codecs: list[Codec], rates: list[float], lpips: Lpips | None, reporter: Reporter
) -> dict[str, Any]:
    """Code one photo with each codec at each size; return the values that the page shows of it."""
    coders = [codec.coder(image) for codec in codecs]
    results: list[dict[str, Any]] = []
    for rate, (i, codec) in product(rates, enumerate(codecs)):
        progress, line = reporter.begin(codec.cost), f"{name} as {codec.name}, {rate:g} bpp"
        found: dict[str, Any] = {"codec": i, "rate": rate, "target": max(1, int(rate * image.width * image.height / 8))}
        try:
            found |= measured(image, codec, partial(coders[i], found["target"], progress), lpips)
        except Exception as error:  # such as WebP's, of pictures that are too large for it
            found["error"] = str(error) or type(error).__name__
            reporter.failed(f"{line}: {found['error']}")
        else:
            none = " (there is none that small)" if found["bytes"] > found["target"] else ""
            reporter.done(f"{line}: {found['bytes']:,} bytes{none}, {found['psnr']:.2f} dB, {found['encode']:.1f} s")
        results.append(found)
    return {
        "name": name,
        "width": image.width,
        "height": image.height,
        "picture": lossless(image),
        "thumbnail": thumbnail(image),
        "files": results,
    }


def measured(image: Image.Image, codec: Codec, coded: Callable[[], Coded], lpips: Lpips | None) -> dict[str, Any]:
    """Values that the page shows of one file."""
    import numpy as np

    from codec.metrics import measure

    file = coded()
    start = time.perf_counter()
    decoded = codec.decoded(file.data)
    seconds = time.perf_counter() - start
    return {
        "bytes": len(file.data),
        "bpp": 8 * len(file.data) / (image.width * image.height),
        "quality": file.quality,
        "encode": file.seconds,
        "decode": seconds,
        **measure(np.asarray(image), np.asarray(decoded), lpips),
        "picture": data_url(file.data, codec.mime) if codec.mime else lossless(decoded),
    }


def open_rgb(path: Path) -> Image.Image:
    """A photo as all codecs get it: upright, in sRGB, on white where it is transparent, and without metadata."""
    with opened(path) as file, Image.open(file) as photo:
        check(photo)
        image = to_srgb(converted(upright(photo)))
    if image.has_transparency_data:
        image = on_white(image)
    return Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())
