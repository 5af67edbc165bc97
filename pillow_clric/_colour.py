"""Colours of images: what says what they mean, and their conversion to sRGB."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO

from PIL import Image

from codec import colour, icc

__all__ = ["check", "colours_of", "fitting", "profile_of", "to_srgb"]

_SRGB_GAMMA = 0.45455  # as PNG files have it that mean sRGB
_SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # in the order of PNG: white first
_MEANINGS = ("cicp", "nclx", "nclx_profile", "icc_profile", "srgb", "gamma", "chromaticity")  # of samples, in `info`

# Code points of ITU-T H.273, by which PNG (cICP), AVIF and HEIF (nclx) name colours
_D65 = (0.3127, 0.3290)
_PRIMARIES: dict[int, icc.Chromaticities] = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060), _D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
}
_CURVES: dict[int, icc.Curve] = {
    **dict.fromkeys((1, 6, 13, 14, 15), colour.SRGB_CURVE),
    4: (2.2,),
    5: (2.8,),
    8: (1.0,),
    17: (2.6,),
}
_HDR = {16: "PQ", 18: "HLG"}


def check(image: Image.Image) -> None:
    """Refuse an image of which `info`, or the profile there, says that it is HDR.

    Raises:
        ValueError: says what to do.
    """
    profile = image.info.get("icc_profile")
    for _, transfer in (_codes_in(image), icc.codes(profile if isinstance(profile, bytes) else b"")):
        if transfer in _HDR:
            kind = _HDR[transfer]
            raise ValueError(
                f"it is an HDR picture ({kind}), which .clric files cannot hold: export it as SDR, such as sRGB"
            )


def profile_of(image: Image.Image) -> bytes:
    """Return an image's ICC profile, or one of what `info` says by codes, or gamma and chromaticities; else b"".

    Codes count most, as in PNG files.
    """
    info = image.info
    primaries, transfer = _codes_in(image)
    if primaries in _PRIMARIES and transfer in _CURVES:
        name = f"H.273 {primaries}, {transfer}"
        return _described(name, _CURVES[transfer], icc.primaries(_PRIMARIES[primaries]), image.mode)
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


def to_srgb(image: Image.Image) -> Image.Image:
    """Return an image in sRGB, or grey with its curve: relative colorimetric, with black point compensation.

    Args:
        image: of mode L, LA, RGB, RGBA or CMYK; CMYK becomes RGB. If nothing says what its colours are, or Pillow has
            no `ImageCms` to make use of that, they are taken for sRGB. Greys may have a profile for RGB.
    """
    profile, colours = profile_of(image), image.mode.removesuffix("A")
    if colours == "L" and icc.colours(profile) == b"RGB " and not fitting(profile, colours):
        return to_srgb(image.convert("RGB" if image.mode == "L" else "RGBA")).convert(image.mode)
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


def _codes_in(image: Image.Image) -> tuple[int, int]:
    """Primaries and transfer function by `info`, as `_opened` and pillow_heif have it; 0 if none count."""
    info = image.info
    cicp, nclx, named = (info.get(key) for key in ("cicp", "nclx", "nclx_profile"))
    if isinstance(cicp, tuple) and len(cicp) >= 2:
        return cicp[:2]
    if isinstance(named, dict):
        nclx = named.get("color_primaries"), named.get("transfer_characteristics")
    if isinstance(nclx, tuple) and len(nclx) >= 2 and (nclx[1] in _HDR or not info.get("icc_profile")):
        return nclx[:2]
    return 0, 0


def _described(name: str, curve: icc.Curve, display: icc.Primaries, mode: str) -> bytes:
    """An ICC profile for an image of this mode; none for sRGB, which is what images are in that have none."""
    grey = mode in ("1", "L", "LA", "La") or mode.startswith("I")
    profile = icc.write(name, curve, None if grey else display)
    return b"" if colour.recognise(profile) == colour.SRGB else profile
