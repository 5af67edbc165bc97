"""The clric codec: arrays in, bytes out, and back. Knows nothing of Pillow.

Importing this package imports neither torch nor numpy; they are imported when pixels are coded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from codec.container import (
    Container,
    CorruptError,
    FormatError,
    Header,
    LimitError,
    Section,
    TruncatedError,
    UnsupportedError,
    pack,
    read_header,
    unpack,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Container",
    "CorruptError",
    "FormatError",
    "Header",
    "LimitError",
    "Section",
    "TruncatedError",
    "UnsupportedError",
    "decode",
    "encode",
    "pack",
    "read_header",
    "unpack",
]


def encode(
    pixels: NDArray[np.uint8],
    *,
    quality: float = 75,
    profile: str = "clric",
    model: str = "base",
    effort: int | str = 5,
    device: str = "auto",
    seed: int = 0,
    metadata: Mapping[Section, bytes] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """Code one picture as the bytes of a `.clric` file.

    Args:
        pixels: (height, width) for greyscale or (height, width, 3) for RGB, uint8.
        quality: 0..100, int or float; the file's size grows with it.
        profile: name of a coding profile, see `codec.profiles.names()`.
        model: in profile `clric`, the autoencoder: its name or hash in the store, or a file or folder.
        effort: 1..9; more is slower and smaller, never another format. "paper" is the published recipe, for comparison.
        device: "auto", or a torch device such as "cpu", "cuda:1", "mps".
        seed: of every random number drawn; same arguments and machine, same bytes.
        metadata: bytes to carry along, under `Section.ICC`, `Section.EXIF` or `Section.XMP`.
        progress: called as `progress(done, total)` now and then, in iterations of the fit.

    Raises:
        ValueError: an argument is out of its range, or the picture's shape or dtype is not coded.
        RuntimeError: the device is not there, or the file did not decode to what was coded.
    """
    from codec.profiles import Settings, by_name

    coder = by_name(profile)
    settings = Settings(quality=quality, model=model, effort=effort, device=device, seed=seed, progress=progress)
    mode = _mode(pixels)
    header = Header(width=pixels.shape[1], height=pixels.shape[0], mode=mode, profile=coder.id)
    pack(header, {**(metadata or {}), Section.GRIDS: b""})  # what cannot be packed is refused before the slow work
    coded = coder.encode(pixels, settings)
    return pack(replace(header, model=coded.model), {**(metadata or {}), **coded.sections})


def decode(data: bytes, *, device: str = "auto", allow_truncated: bool = False) -> NDArray[np.uint8]:
    """Decode the bytes of a `.clric` file to a picture, shaped as `encode` took it.

    Args:
        data: the whole file; with `allow_truncated`, its beginning is enough if it holds the function's
            weights: grids that are missing are taken as zero, which leaves a coarser picture.
        device: where the float part runs; the entropy decoding is the same everywhere.

    Raises:
        FormatError: the file is truncated, damaged, too new or too large; the message says which.
    """
    from codec.profiles import by_id

    container = unpack(data, allow_truncated=allow_truncated)
    return by_id(container.header.profile).decode(container, device)


def _mode(pixels: NDArray[np.uint8]) -> str:
    """The container's mode of a picture."""
    shape = pixels.shape
    if pixels.dtype == "uint8" and pixels.size:
        if len(shape) == 2:
            return "L"
        if len(shape) == 3 and shape[2] == 3:
            return "RGB"
    wanted = "uint8 of shape (height, width) or (height, width, 3), and not empty"
    raise ValueError(f"pixels must be {wanted}: not {pixels.dtype} {shape}")
