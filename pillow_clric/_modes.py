"""Modes in which images are coded: L, LA, RGB and RGBA are kept, others are converted as Pillow does, to 8 bits."""

from __future__ import annotations

from PIL import ExifTags, Image

from codec.container import MAX_PIXELS, MAX_SIDE, MODES
from pillow_clric import _colour

__all__ = ["check", "converted", "has_more_than_8_bits", "on_white"]

_GREY_MODES = ("1", "L", "LA", "La")
_PLANES, _COMPRESSION = ExifTags.Base.PlanarConfiguration, ExifTags.Base.Compression
_STEP = 257  # of 8 bits, in 16


def check(image: Image.Image) -> None:
    """Refuse images that cannot be coded; the image need not be loaded.

    Raises:
        TypeError: it is no image.
        ValueError: it has no pixels, too many, samples of floating point, or such that Pillow misreads.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL.Image.Image, not {type(image).__name__}")
    size = f"{image.width} x {image.height}"
    if 0 in image.size:
        raise ValueError(f"an image without pixels cannot be coded: its size is {size}")
    if max(image.size) > MAX_SIDE or image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"an image of {size} cannot be coded: the format has at most {MAX_PIXELS} pixels, and {MAX_SIDE} a side"
        )
    if image.mode == "F":
        raise ValueError("mode F is not supported: scale it to 0..255 and convert to L first")
    _check_tiff(image)


def has_more_than_8_bits(image: Image.Image) -> bool:
    """Whether samples are rounded when an image is coded, as far as it is told."""
    told = image.info.get("bit_depth")  # by `_opened` and pillow_heif
    return _is_deep(image.mode) or (isinstance(told, int) and told > 8) or _is_deep_tiff(image)


def converted(image: Image.Image) -> Image.Image:
    """The image, loaded, in the mode in which it is coded.

    Transparency of whatever kind becomes alpha. What has a palette of greys alone becomes grey, unless its ICC profile
    means colours only, and so does what has greys alone and a profile for greys. CMYK, and greys with a profile that
    means colours only, are converted to sRGB, if Pillow has `ImageCms`.

    Samples of 16 bits are rounded to 8. In mode I, which has any numbers, those up to 255 are taken as they are.

    Raises:
        ValueError: as `check`, of what loading it shows; or there are samples of mode I below 0 or above 65535.
    """
    image.load()
    check(image)
    if image.mode == "CMYK":
        return _colour.to_srgb(image)
    made = _in_eight_bits(image) if _is_deep(image.mode) else _in_coded_mode(image)
    profile = _colour.profile_of(made)
    unfit = bool(profile) and not _colour.fitting(profile, made.mode)
    if made.mode in ("RGB", "RGBA") and (unfit or image.mode in ("P", "PA")) and _is_grey(made):
        return made.convert("LA" if made.mode == "RGBA" else "L")
    return _colour.to_srgb(made) if unfit and made.mode in ("L", "LA") else made


def _is_deep(mode: str) -> bool:
    return mode == "I" or mode.startswith("I;16")


def _check_tiff(image: Image.Image) -> None:
    """Refuse samples of more than 8 bits that Pillow opens, but misreads.

    Raises:
        ValueError: says which, and what to do.
    """
    if not _is_deep_tiff(image):
        return
    tags, problem = getattr(image, "tag_v2", {}), ""
    if (tags.get(_PLANES), tags.get(_COMPRESSION)) == (2, 1):
        problem = "in planes: save it pixel by pixel (contiguous)"
    elif tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
        problem = "in which white is zero: save it with black as zero"
    if problem:
        raise ValueError(f"Pillow misreads TIFF files of more than 8 bits {problem}, or as PNG")


def _is_deep_tiff(image: Image.Image) -> bool:
    bits = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample)
    return isinstance(bits, tuple) and any(isinstance(count, int) and count > 8 for count in bits)


def _in_coded_mode(image: Image.Image) -> Image.Image:
    """An image of 8 bits a sample in mode L, LA, RGB or RGBA."""
    alpha = image.has_transparency_data
    if image.mode in MODES and alpha == image.mode.endswith("A"):
        return image
    grey, colour = ("LA", "RGBA") if alpha else ("L", "RGB")
    return image.convert(grey if image.mode in _GREY_MODES else colour)


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """An image of mode I or I;16 in mode L or, if a sample of it is transparent, LA."""
    import numpy as np

    samples = np.asarray(image).astype(np.int32)
    low, high = samples.min(), samples.max()
    if low < 0 or high > 255 * _STEP:
        raise ValueError(f"mode I is not supported with samples from {low} to {high}: scale them to 0..255 first")
    step = 1 if image.mode == "I" and high <= 255 else _STEP
    made = Image.fromarray(((samples + step // 2) // step).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        made.putalpha(Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8)))
    made.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return made


def _is_grey(image: Image.Image) -> bool:
    """Whether nothing is lost when an image of RGB or RGBA becomes grey."""
    red, green, blue = (image.getchannel(band).tobytes() for band in "RGB")
    profile = _colour.profile_of(image)
    return red == green == blue and (not profile or bool(_colour.fitting(profile, "L")))


def on_white(image: Image.Image) -> Image.Image:
    """An image of mode LA or RGBA without alpha, with its metadata: what is transparent becomes white."""
    flat = Image.new("RGBA", image.size, "white")
    flat.alpha_composite(image.convert("RGBA"))
    flat.info = dict(image.info)
    return flat.convert(image.mode.removesuffix("A"))
