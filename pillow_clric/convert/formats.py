"""Formats of other programs: pictures as their files, and what of a picture these have no place for."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, PngInfo

from pillow_clric import _colour, _modes
from pillow_clric._metadata import for_tiff, unwritable, upright

__all__ = ["METADATA", "left_out", "to_format"]

METADATA = {"exif": "EXIF", "icc_profile": "colour profile", "xmp": "XMP"}  # by their keys in `info`
_XMP_KEYWORD = "XML:com.adobe.xmp"  # PNG's name for it
_WITH_METADATA = {"AVIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP"}  # formats that have a place for metadata
_WITH_ALPHA = {"AVIF", "ICO", "JPEG2000", "PNG", "TGA", "TIFF", "WEBP"}  # formats that keep all of it
_WITH_GREY_PROFILE = {"JPEG", "MPO", "PNG", "TIFF"}  # formats that keep what is grey so
_WITH_PROFILE = {"AVIF", "WEBP"} | _WITH_GREY_PROFILE
_LARGEST_PROFILE = {"JPEG": 255 * 65519, "MPO": 255 * 65519, "PNG": MAX_TEXT_CHUNK - 1}  # that Pillow writes and reads
_LARGEST_ICON = 256  # pixels a side


def to_format(image: Image.Image, suffix: str, quality: int) -> bytes:
    """The image as a file of another format, with its metadata.

    Args:
        image: where the format has no alpha channel, what is transparent becomes white; where it has no place for its
            colour profile, colours become those of sRGB; where it has none for EXIF, it is turned as that says.
        suffix: end of the names of files in this format.
        quality: 0..100, where the format has it.

    Raises:
        ValueError: the format is one of icons, which are smaller, or cannot hold the picture or some of its metadata.
    """
    name = Image.registered_extensions()[suffix]
    if name == "ICNS" or (name == "ICO" and max(image.size) > _LARGEST_ICON):
        size = f"{image.width} x {image.height}"
        raise ValueError(f"{suffix} files hold icons, not pictures of {size}: choose another format")
    if name not in _WITH_METADATA:
        image = upright(image)
    if "icc_profile" in image.info and not _holds_profile(name, image):
        image = _colour.to_srgb(image)
    if image.mode in ("LA", "RGBA") and name not in _WITH_ALPHA:
        image = _modes.on_white(image)
    buffer = BytesIO()
    try:
        image.save(buffer, name, quality=quality, sizes=[image.size], **_options(name, image.info))  # sizes: of icons
    except Exception as error:
        if what := _unfit(name, image.info):
            advice = "--strip leaves metadata out" + ", and PNG files hold them all" * (name != "PNG")
            raise ValueError(f"{name} files cannot hold its {what}: {advice}") from error
        raise ValueError(f"{name} files cannot hold it ({error}): choose another format, such as PNG") from error
    return buffer.getvalue()


def left_out(image: Image.Image, suffix: str) -> Iterator[str]:
    """A sentence on the metadata for which files with this end of their names have no place."""
    name = Image.registered_extensions()[suffix]
    without = [METADATA[key] for key in ("exif", "xmp") if key in image.info and name not in _WITH_METADATA]
    if without:
        yield f"{' and '.join(without)} left out: {name} files have no place for that"


def _options(name: str, info: Mapping[Any, Any]) -> dict[str, Any]:
    """Arguments by which Pillow writes an image's metadata to a format that has a place for them."""
    options = {key: info[key] for key in METADATA if key in info and name in _WITH_METADATA}
    # Metadata that Pillow's plugins have no argument for
    if name == "PNG" and "xmp" in options:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt(_XMP_KEYWORD, _text(options["xmp"]))
    if name == "TIFF":
        options["exif"] = for_tiff(options.get("exif"), options.get("xmp"))
    return options


def _text(xmp: bytes) -> str:
    """XMP as text, which may be UTF-16, too."""
    return xmp.decode("utf-16" if xmp.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8")


def _unfit(name: str, info: Mapping[Any, Any]) -> str:
    """The metadata that make a format's writer fail, in words; "" if they do not."""
    bad = next((key for key in METADATA if key in info and not _fits(name, {key: info[key]})), "")
    if (name, bad) == ("PNG", "xmp"):
        return "XMP, which is no UTF-8"
    if bad != "exif":
        return bad and f"{METADATA[bad]} of {len(info[bad])} bytes"
    tags = Image.Exif()
    try:
        tags.load(info["exif"])
    except Exception:
        return "EXIF, which is damaged"
    return unwritable(tags) or f"EXIF of {len(info['exif'])} bytes"


def _fits(name: str, info: Mapping[str, Any]) -> bool:
    try:
        Image.new("L", (1, 1)).save(BytesIO(), name, **_options(name, info))
    except Exception:
        return False
    return True


def _holds_profile(name: str, image: Image.Image) -> bool:
    """Whether a file of this format can say what the image's colours are."""
    formats = _WITH_PROFILE if image.mode.startswith("RGB") else _WITH_GREY_PROFILE
    size = len(image.info.get("icc_profile", b""))
    return name in formats and size <= _LARGEST_PROFILE.get(name, size)
