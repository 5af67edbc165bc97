"""What EXIF, ICC profile and XMP a file gets: the caller's, or else the image's own."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from PIL import Image

from codec.container import Section

__all__ = ["EXIF_PREFIX", "Exif", "Icc", "Xmp", "collect", "for_tiff"]

Exif = bytes | Image.Exif | Literal["keep"] | None
Icc = bytes | Literal["keep"] | None
Xmp = bytes | str | None  # str includes "keep"

# JPEG's name for the block, which Pillow's JPEG and PNG plugins keep in `info["exif"]` and `Image.Exif.tobytes`
# writes. Files hold the TIFF structure that follows it.
EXIF_PREFIX = b"Exif\0\0"

# TIFF has its EXIF among the tags that say where its own pixels are; these mean nothing in another file.
_TIFF_LAYOUT = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338}
    | {339, 347, 512, 513, 514, 529, 530, 532, 700, 33723, 34377, 34675}
)

_TIFF_XMP = 700


def collect(image: Image.Image, exif: Exif, icc_profile: Icc, xmp: Xmp) -> dict[Section, bytes]:
    """The metadata that go into a file, without those that are empty.

    Args:
        image: gives what is "keep"; must be loaded, as some formats hold metadata after the pixels.
        exif, icc_profile, xmp: "keep", None or b"" for none, or what to write.

    Raises:
        TypeError: one is of another type.
    """
    if isinstance(exif, Image.Exif):
        exif = exif.tobytes() if exif else b""
    elif exif == "keep":
        exif = _own_exif(image)
    if icc_profile == "keep":
        icc_profile = image.info.get("icc_profile")
    if xmp == "keep":
        xmp = image.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()

    named = {"exif": exif, "icc_profile": icc_profile, "xmp": xmp}
    for name, value in named.items():
        if value is not None and not isinstance(value, bytes):
            raise TypeError(f"{name} must be bytes, None or 'keep', not {type(value).__name__}")
    sections = {Section.ICC: icc_profile, Section.EXIF: (exif or b"").removeprefix(EXIF_PREFIX), Section.XMP: xmp}
    return {section: bytes(body) for section, body in sections.items() if body}


def for_tiff(exif: bytes | None, xmp: bytes | None) -> Image.Exif:
    """Metadata as a TIFF file has them: its tags are the EXIF, but for those that say where its pixels are."""
    tags = Image.Exif()
    with suppress(Exception):  # EXIF that Pillow cannot parse
        tags.load(exif or b"")
    for tag in _TIFF_LAYOUT.intersection(tags):
        del tags[tag]
    if xmp:
        tags[_TIFF_XMP] = xmp
    return tags


def _own_exif(image: Image.Image) -> bytes:
    """The image's EXIF: the bytes it came with, unless `image.getexif()` was changed since."""
    stored: bytes = image.info.get("exif") or b""
    pristine = Image.new("1", (1, 1))
    pristine.info = image.info
    try:
        current = image.getexif().tobytes()
        # Writing EXIF anew can break what it points to (maker notes), so that is not done without need.
        if stored and current == pristine.getexif().tobytes():
            return stored
        tags = for_tiff(current, None)
        return tags.tobytes() if tags else b""
    except Exception:  # EXIF that Pillow cannot parse was not changed either
        return stored
