"""Codecs that are compared: profiles of `.clric`, and formats that Pillow or its plugins write."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from typing import Any

import click
from PIL import Image

from codec.profiles import by_name
from pillow_clric import decode, encode

Progress = Callable[[int, int], None]

_QUALITIES = range(100)  # of Pillow's formats; 100 is lossless in some


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
