"""Colours of images: what says what they mean, and their conversion to sRGB."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO

from PIL import Image

from codec import colour, icc

__all__ = ["colours_of", "fitting", "profile_of", "read_codes", "to_srgb"]

_SRGB_GAMMA = 0.45455  # as PNG files have it that mean sRGB
_SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # in the order of PNG: white first
_MEANINGS = ("icc_profile", "srgb", "gamma", "chromaticity")  # of samples, in `info`

# Code points of ITU-T H.273, by which PNG (cICP), AVIF and HEIF (nclx) name colours
_PRIMARIES = {1: colour.SPACES[1].display, 9: colour.BT2020, 12: colour.SPACES[2].display}
_CURVES: dict[int, icc.Curve] = {4: (2.2,), 8: (1.0,)} | dict.fromkeys((1, 6, 13, 14, 15), colour.SRGB_CURVE)
_HDR = {16: "PQ", 18: "HLG"}


def profile_of(image: Image.Image) -> bytes:
    """Return an image's ICC profile, or one that says what its PNG file did by gamma and chromaticities; else b""."""
    info = image.info
    own = info.get("icc_profile")
    if own:
        return own if isinstance(own, bytes) else b""  # of another type it has no known meaning
    if "srgb" in info or not info.keys() & {"gamma", "chromaticity"}:
        return b""
    with suppress(ArithmeticError, TypeError, ValueError):  # numbers that mean nothing
        gamma = info.get("gamma", _SRGB_GAMMA)
        curve = colour.SRGB_CURVE if abs(gamma - _SRGB_GAMMA) < 0.001 else (1 / gamma,)
        points = info.get("chromaticity", _SRGB_CHROMATICITIES)
        white, *others = zip(points[::2], points[1::2], strict=True)
        return _described("PNG gAMA and cHRM", curve, icc.primaries((*others, white)), image.mode)
    return b""


def colours_of(mode: str) -> bytes:
    """Return ICC profiles' name for the colours of a mode that is coded."""
    return b"RGB " if mode.startswith("RGB") else b"GRAY"


def fitting(profile: bytes, mode: str) -> bytes:
    """Return the profile of an image that is coded in this mode.

    Of a well-known space of colours, greys get the profile of its greys. Of other profiles for other colours there is
    none: b"". Bytes that are no ICC profile are taken as they are.
    """
    if icc.colours(profile) in (b"", colours_of(mode)):
        return profile
    number = 0 if mode.startswith("RGB") else colour.recognise(profile)
    return colour.SPACES[number].profile(grey=True) if number else b""


def read_codes(image: Image.Image, data: bytes) -> None:
    """Put into an image's `info` what its file says of its samples in codes, which Pillow does not read.

    That is "icc_profile", if it has none, and "bit_depth", which pillow_heif calls so, if it is more than 8.

    Args:
        image: not loaded.
        data: its file.

    Raises:
        ValueError: the picture is HDR.
    """
    (primaries, transfer), depth = _FIND.get(image.format or "", _no_codes)(data)
    if transfer in _HDR:
        raise ValueError(
            f"it is an HDR picture ({_HDR[transfer]}), which .clric files cannot hold: export it as SDR, such as sRGB"
        )
    if depth > 8:
        image.info["bit_depth"] = depth
    if primaries in _PRIMARIES and transfer in _CURVES and not image.info.get("icc_profile"):
        name = f"H.273 {primaries}, {transfer}"
        image.info["icc_profile"] = _described(name, _CURVES[transfer], _PRIMARIES[primaries], image.mode)
        image.info["srgb"] = 0  # whatever PNG's gAMA and cHRM say, they do not count


def to_srgb(image: Image.Image) -> Image.Image:
    """Return an image in sRGB, or grey with its curve: relative colorimetric, with black point compensation.

    Args:
        image: of mode L, LA, RGB, RGBA or CMYK; CMYK becomes RGB. If nothing says what its colours are, or Pillow has
            no `ImageCms` to make use of that, they are taken for sRGB.
    """
    profile, colours = profile_of(image), image.mode.removesuffix("A")
    profile = profile if image.mode == "CMYK" else fitting(profile, colours)
    made = image
    if profile and colour.recognise(profile) != colour.SRGB:
        from PIL import ImageCms

        mode = "L" if colours == "L" else "RGB"
        target = colour.SPACES[colour.SRGB].profile(grey=mode == "L")
        with suppress(ImportError, ImageCms.PyCMSError):  # such as for bytes that are no profile
            how = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
            transform = ImageCms.buildTransform(BytesIO(profile), BytesIO(target), colours, mode, *how)
            made = transform.apply(image.convert(colours))
            if image.mode != colours:
                made.putalpha(image.getchannel("A"))
    made = made.convert("RGB") if made.mode == "CMYK" else made.copy()
    made.info = {key: value for key, value in image.info.items() if key not in _MEANINGS}
    return made


def _described(name: str, curve: icc.Curve, display: icc.Primaries, mode: str) -> bytes:
    """An ICC profile for an image of this mode; none for sRGB, which is what images are in that have none."""
    grey = mode in ("1", "L", "LA", "La") or mode.startswith("I")
    profile = icc.write(name, curve, None if grey else display)
    return b"" if colour.recognise(profile) == colour.SRGB else profile


# Primaries and transfer function, and bits of a sample, each 0 if it is not told

Codes = tuple[tuple[int, int], int]


def _no_codes(_: bytes) -> Codes:
    return (0, 0), 0


def _png_codes(data: bytes) -> Codes:
    """Those of a PNG file's chunk cICP."""
    at = 8
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"cICP" and length == 4:
            return (data[at + 8], data[at + 9]), 0
        if name == b"IDAT":
            break
        at += 12 + length
    return _no_codes(data)


def _avif_codes(data: bytes) -> Codes:
    """Those of the first picture of an AVIF or HEIF file."""
    properties = b"meta", b"iprp", b"ipco"
    names = (body for body in _boxes(data, *properties, b"colr") if body[:4] == b"nclx" and len(body) >= 8)
    name = next(names, bytes(8))
    depths = (10 + body[2] // 32 % 2 * 2 for body in _boxes(data, *properties, b"av1C") if body[2:] and body[2] & 0x40)
    return struct.unpack(">HH", name[4:8]), next(depths, 0)


def _jpeg2000_codes(data: bytes) -> Codes:
    depths = (1 + body[10] % 128 for body in _boxes(data, b"jp2h", b"ihdr") if len(body) > 10 and body[10] < 255)
    return (0, 0), next(depths, 0)


_FIND = {"PNG": _png_codes, "AVIF": _avif_codes, "HEIF": _avif_codes, "JPEG2000": _jpeg2000_codes}


def _boxes(data: bytes, first: bytes, *others: bytes) -> Iterator[bytes]:
    """Bodies of the boxes of ISO's media files that lie in one another so, by their names."""
    at = 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        start = 8
        if length == 1 and at + 16 <= len(data):  # a long one
            (length,), start = struct.unpack_from(">Q", data, at + 8), 16
        length = length or len(data)  # the last one
        if length < start:
            break
        if name == first:
            body = data[at + start + 4 * (name == b"meta") : at + length]
            if others:
                yield from _boxes(body, *others)
            else:
                yield body
        at += length
