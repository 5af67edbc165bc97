"""Importance of an image's parts, as callers have it: images and arrays of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image

from pillow_clric import _modes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Importance", "as_stored", "check", "fitted"]

Importance = Any  # Image.Image, whatever numpy.asarray takes, or None

_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def check(importance: Importance) -> Image.Image:
    """Importance as an image of mode L, of the size that it has.

    Raises:
        TypeError: it is no image and no array of numbers.
        ValueError: it is no grey image, or an array that is not two-dimensional, empty, or of values out of range.
    """
    if isinstance(importance, Image.Image):
        return _grey(importance)
    return Image.fromarray(_samples(importance))


def _grey(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise ValueError("importance must have pixels, and this image has none")
    made = _modes.converted(image)
    bands = made.split()
    if made.mode not in ("L", "RGB") or any(band.tobytes() != bands[0].tobytes() for band in bands[1:]):
        raise ValueError(f"importance must be a grey image (mode L) without alpha, and this one is {image.mode}")
    return bands[0]


def _samples(importance: Any) -> NDArray[np.uint8]:
    """Samples of an array: uint8 as they are, others from 0..1."""
    import numpy as np

    try:
        array = np.asarray(importance)
    except ValueError as error:
        raise ValueError(f"importance must be an image or an array with rows of one length: {error}") from error
    if array.dtype.kind not in "buif":
        raise TypeError(f"importance must be an image or an array of numbers, not {type(importance).__name__}")
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f"importance must have two axes, height and width, and not be empty: its shape is {array.shape}"
        )
    if array.dtype == np.uint8:
        return array
    if not ((array >= 0) & (array <= 1)).all():  # NaN is neither
        found = "NaN" if array.dtype.kind == "f" and np.isnan(array).any() else f"{array.min():g} to {array.max():g}"
        raise ValueError(f"importance must be from 0 to 1, or uint8 from 0 to 255, not {found}")
    return np.rint(array.astype(np.float64) * 255).astype(np.uint8)


def fitted(importance: Image.Image | None, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Samples (height, width) of an image of mode L, made as large as another one."""
    import numpy as np

    if importance is None:
        return None
    return np.asarray(importance.resize(size, Image.Resampling.BILINEAR))


def as_stored(importance: Image.Image, image: Image.Image) -> Image.Image:
    """Mask of an image as it is shown, turned to lie over its pixels."""
    try:
        way = _BACK.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF that Pillow cannot parse, of which no reader knows an orientation
        way = None
    return importance if way is None else importance.transpose(way)
