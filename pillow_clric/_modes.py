"""Modes in which images are coded: L, LA, RGB and RGBA are kept, others are converted as Pillow does."""

from __future__ import annotations

from PIL import Image

from codec.container import MAX_PIXELS, MAX_SIDE, MODES
from pillow_clric import _colour

__all__ = ["check", "converted", "on_white"]

_GREY_MODES = ("1", "L", "LA", "La")


def check(image: Image.Image) -> None:
    """Refuse images that cannot be coded; the image need not be loaded.

    Raises:
        TypeError: it is no image.
        ValueError: it has no pixels, too many, or more than 8 bits a sample.
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
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise ValueError(f"mode {image.mode} is not supported: scale it to 0..255 and convert to L first")


def converted(image: Image.Image) -> Image.Image:
    """The image, loaded, in the mode in which it is coded.

    Transparency of whatever kind becomes alpha. What has a palette of greys alone becomes grey, unless its ICC profile
    means colours only. CMYK is converted with the help of its ICC profile, if it has one, and Pillow has `ImageCms`.

    Raises:
        ValueError: as `check`, of what loading it shows.
    """
    image.load()
    check(image)
    if image.mode == "CMYK":
        return _colour.to_srgb(image)
    alpha = image.has_transparency_data
    if image.mode in MODES and alpha == image.mode.endswith("A"):
        return image
    grey, colour = ("LA", "RGBA") if alpha else ("L", "RGB")
    made = image.convert(grey if image.mode in _GREY_MODES else colour)
    return made.convert(grey) if image.mode in ("P", "PA") and _is_grey(made) else made


def _is_grey(image: Image.Image) -> bool:
    """Whether nothing is lost when an image of RGB or RGBA becomes grey."""
    red, green, blue = (image.getchannel(band).tobytes() for band in "RGB")
    profile = _colour.profile_of(image)
    return red == green == blue and (not profile or bool(_colour.fitting(profile, "L")))


def on_white(image: Image.Image) -> Image.Image:
    """An image of mode LA or RGBA without alpha: what is transparent becomes white."""
    flat = Image.new("RGBA", image.size, "white")
    flat.alpha_composite(image.convert("RGBA"))
    return flat.convert(image.mode.removesuffix("A"))
