"""The command `clric-convert compare`: photos in several formats at equal sizes, side by side in one HTML page."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.resources import files
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from PIL import Image

from codec.autoencoders.errors import ModelFileError
from codec.profiles import DEFAULT, by_name, names
from pillow_clric import decode, encode, info
from pillow_clric._colour import check, to_srgb
from pillow_clric._metadata import upright
from pillow_clric._modes import converted, on_white
from pillow_clric._terminal import bars
from pillow_clric.convert import outputs
from pillow_clric.convert.inputs import opened
from pillow_clric.convert.report import message, shown

if TYPE_CHECKING:
    from codec.lpips import Lpips

__all__ = ["compare"]

Progress = Callable[[int, int], None]

_QUALITIES = range(100)  # of Pillow's formats; 100 is lossless in some
_LARGEST_WEBP = 16383  # side, in pixels
_THUMBNAIL = 160  # pixels


@dataclass(frozen=True)
class Coded:
    """A photo as a file.

    Attributes:
        data: the file.
        seconds: that it took, without looking for the quality.
        quality: that fits, where it was looked for.
    """

    data: bytes
    seconds: float
    quality: int | None = None


# Takes the bytes that there is room for; gives the smallest file if that is larger.
Coder = Callable[[int, Progress], Coded]


@dataclass(frozen=True)
class Codec(ABC):
    """One way of coding that is compared.

    Attributes:
        name: for people.
        settings: how it is used, in words.
        cost: about how long a file of a given size takes, relative to other codecs.
        mime: type of its files if browsers show them.
    """

    name: str
    settings: str
    cost: float
    mime: str = ""

    @abstractmethod
    def coder(self, image: Image.Image) -> Coder:
        """Coder of an image."""

    @abstractmethod
    def decoded(self, data: bytes) -> Image.Image:
        """The picture in a file."""


@dataclass(frozen=True)
class Profile(Codec):
    """A profile of `.clric`."""

    options: dict[str, Any] = field(default_factory=dict)  # of `encode`

    def coder(self, image: Image.Image) -> Coder:
        def at_most(size: int, progress: Progress) -> Coded:
            start = time.perf_counter()
            try:
                data = encode(image, target_size=size, progress=progress, **self.options)
            except ValueError:  # there is no file that small
                data = encode(image, quality=0, progress=progress, **self.options)
            return Coded(data, time.perf_counter() - start)

        return at_most

    def decoded(self, data: bytes) -> Image.Image:
        return decode(data, device=self.options["device"])


@dataclass(frozen=True)
class PillowFormat(Codec):
    """A format that Pillow or a plugin of it writes."""

    format: str = ""
    options: dict[str, Any] = field(default_factory=dict)  # of `Image.save`

    def coder(self, image: Image.Image) -> Coder:
        @cache
        def coded(quality: int) -> Coded:
            buffer, start = BytesIO(), time.perf_counter()
            image.save(buffer, self.format, quality=quality, **self.options)
            return Coded(buffer.getvalue(), time.perf_counter() - start, quality)

        def at_most(size: int, progress: Progress) -> Coded:
            too_large = bisect_right(_QUALITIES, size, key=lambda quality: len(coded(quality).data))
            return coded(max(0, too_large - 1))

        return at_most

    def decoded(self, data: bytes) -> Image.Image:
        with Image.open(BytesIO(data), formats=[self.format]) as image:
            return image.convert("RGB")


_FORMATS = (
    PillowFormat("AVIF", "speed 4, 4:2:0", 3, "image/avif", "AVIF", {"speed": 4}),
    PillowFormat("WebP", "method 6, 4:2:0", 1, "image/webp", "WEBP", {"method": 6}),
    PillowFormat(
        "JPEG",
        "optimised Huffman tables, progressive, 4:2:0",
        0.2,
        "image/jpeg",
        "JPEG",
        {"optimize": True, "progressive": True, "subsampling": "4:2:0"},
    ),
    PillowFormat("JPEG XL", "effort 7", 3, "", "JXL", {"effort": 7}),
    PillowFormat("HEIC", "as pillow-heif writes it, 4:2:0", 3, "", "HEIF"),
)


def _to_rates(_context: click.Context, _option: click.Parameter, text: str) -> list[float]:
    """Numbers with commas between them, each once and in order."""
    try:
        rates = sorted({float(number) for number in text.split(",")})
    except ValueError:
        rates = [0.0]
    if not all(0 < rate <= 24 for rate in rates):  # also refuses NaN
        raise click.BadParameter(f"{text!r} is no list such as 0.1,0.2,0.4 of bits per pixel, above 0 and up to 24")
    return rates


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
    Show photos in .clric and other formats, each at the same sizes, in one HTML page.

    The other formats are AVIF, WebP and JPEG, and JPEG XL and HEIC where the packages pillow-jxl-plugin and pillow-heif
    are installed. Each gets the best quality that is not larger than the size.

    The page holds all it needs: it can be looked at offline, and sent to others.

    Exit status: 0 if all went well, 1 if something could not be coded, 2 if the command is wrong, 130 if it was
    interrupted.
    """,
)
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="compare.html",
    show_default=True,
    help="Page to write.",
)
@click.option("--overwrite", is_flag=True, help="Write over an existing page.")
@click.option(
    "--bpp",
    "rates",
    callback=_to_rates,
    default="0.1,0.2,0.4,0.8",
    show_default=True,
    help="Sizes of the files, in bits per pixel.",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    default=[DEFAULT],
    show_default=True,
    metavar="NAME",
    help=f"Profile of .clric, {' or '.join(names())}; may be given several times. coolchic takes long.",
)
@click.option("-e", "--effort", type=click.IntRange(1, 9), help="Of .clric. Default: that of each profile.")
@click.option("--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps ...")
@click.option(
    "--lpips",
    "weights",
    metavar="WEIGHTS",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure LPIPS too, with the network in this file; see codec/lpips.py.",
)
def compare(
    photos: tuple[str, ...], output: Path, overwrite: bool, rates: list[float], profiles: tuple[str, ...],
    effort: int | None, device: str, weights: Path | None,
) -> None:  # fmt: skip
    paths = [Path(photo) for photo in dict.fromkeys(photos)]
    check_output(output, paths, overwrite)
    try:
        codecs = [*clric_codecs(profiles, effort, device), *pillow_formats()]
        made, failures = compare_all(paths, codecs, rates, load_lpips(weights))
        if made:
            outputs.write(output, page(made, codecs, rates).encode(), overwrite=overwrite)
    except OSError as error:
        raise click.ClickException(message(error, output)) from error
    if made:
        click.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB", err=True)
    sys.exit(1 if failures else 0)


def check_output(output: Path, photos: list[Path], overwrite: bool) -> None:
    """Find before the start what keeps the page from being written, or what it would destroy."""
    if os.path.lexists(output):
        if output.exists() and any(output.samefile(photo) for photo in photos):
            raise click.UsageError(f"the page would be written over the photo {output}: name another output")
        if not overwrite and not outputs.is_stream(output):
            raise click.UsageError(f"{output} exists: name another output, or give --overwrite")
    if why := outputs.obstacle(output):
        raise click.UsageError(why)


def clric_codecs(profiles: Iterable[str], effort: int | None, device: str) -> list[Codec]:
    """The profiles of these names; refuses names and devices that are not there."""
    from codec.runtime import resolve

    try:
        resolve(device)
    except (RuntimeError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--device") from error
    codecs: list[Codec] = []
    for profile in dict.fromkeys(profiles):
        try:
            coder = by_name(profile)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--profile") from error
        own = {"device": device} if effort is None else {"device": device, "effort": effort}
        chosen = f"effort {coder.parse(own).effort}"
        codecs.append(Profile(profile, chosen, coder.cost, "", {"profile": profile, **own}))
    return codecs


def register_others() -> None:
    """Let Pillow know JPEG XL and HEIC, where the packages for these are installed."""
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def pillow_formats() -> list[Codec]:
    """The other formats that are installed."""
    register_others()
    Image.init()
    return [codec for codec in _FORMATS if codec.format in Image.SAVE]


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


def lossless(image: Image.Image) -> str:
    """A picture as a data URL, each sample as it is."""
    buffer = BytesIO()
    if max(image.size) > _LARGEST_WEBP:
        image.save(buffer, "PNG")
        return data_url(buffer.getvalue(), "image/png")
    image.save(buffer, "WEBP", lossless=True, quality=50, method=3)
    return data_url(buffer.getvalue(), "image/webp")


def thumbnail(image: Image.Image) -> str:
    """A small picture to choose by, as a data URL."""
    small, buffer = image.copy(), BytesIO()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    small.save(buffer, "WEBP", quality=80)
    return data_url(buffer.getvalue(), "image/webp")


def data_url(data: bytes, mime: str) -> str:
    """Bytes as a URL that holds them."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def page(photos: list[dict[str, Any]], codecs: list[Codec], rates: list[float]) -> str:
    """The HTML page. Its script and its style are the only ones that browsers are allowed to obey in it."""
    template = files("pillow_clric").joinpath("compare.html").read_text("utf-8")
    pictures: dict[str, int] = {}  # each once, though it may be the nearest to several sizes

    def numbered(found: dict[str, Any]) -> dict[str, Any]:
        number = {"picture": pictures.setdefault(found["picture"], len(pictures))} if "picture" in found else {}
        return {**found, **number}

    data = {
        "codecs": [{"name": codec.name, "settings": codec.settings} for codec in codecs],
        "rates": rates,
        "photos": [numbered(photo) | {"files": [numbered(file) for file in photo["files"]]} for photo in photos],
        "pictures": list(pictures),
        "versions": info(),
    }
    values = {
        "script": _hash_of("script", template),
        "style": _hash_of("style", template),
        "data": json.dumps(data, allow_nan=False).replace("<", r"\u003c"),  # so that no name ends the script element
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _hash_of(tag: str, template: str) -> str:
    """The source expression of the template's only element of that kind, for its Content-Security-Policy."""
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


class Reporter:
    """Lines on stderr, and on a terminal a bar with the time that is left.

    Attributes:
        failures: their number.
    """

    def __init__(self, cost: float) -> None:
        from rich.progress import TaskProgressColumn

        self.failures = 0
        self._bars = bars(TaskProgressColumn(), period=3600)  # steps take from milliseconds to minutes
        self._task = self._bars.add_task("compare", total=cost)
        self._begun = 0.0  # cost of all steps so far, with the one at work

    def __enter__(self) -> Reporter:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def begin(self, cost: float) -> Progress:
        """Start a step; what is returned takes how many of its iterations are done, and of how many."""
        before, self._begun = self._begun, self._begun + cost
        return lambda done, total: self._bars.update(self._task, completed=before + cost * done / total)

    def done(self, line: str) -> None:
        """End a step, and say how it went."""
        self._bars.update(self._task, completed=self._begun)
        self._bars.console.print(shown(line))

    def failed(self, line: str) -> None:
        """Count a failure, and say what it is."""
        self.failures += 1
        self.done(f"failed: {line}")
