"""The clric codec: arrays in, bytes out, and back. Knows nothing of Pillow.

Importing this package imports neither torch nor numpy; they are imported when pixels are coded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    "SCALES",
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
    "encode_batch",
    "pack",
    "read_header",
    "unpack",
]


SCALES = (2, 4, 8)  # by which pictures can be decoded smaller


def encode(
    pixels: NDArray[np.uint8],
    *,
    quality: float = 75,
    target_size: int | None = None,
    target_bpp: float | None = None,
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
        target_size: bytes that the file may have: it gets the best quality that fits, whatever `quality` says.
        target_bpp: the same in bits per pixel.
        profile: name of a coding profile, see `codec.profiles.names()`.
        model: in profile `clric`, the autoencoder: its name or hash in the store, or a file or folder.
        effort: 1..9; more is slower and smaller, never another format. "paper" is the published recipe, for comparison.
        device: "auto", or a torch device such as "cpu", "cuda:1", "mps".
        seed: of every random number drawn; same arguments and machine, same bytes.
        metadata: bytes to carry along, under `Section.ICC`, `Section.EXIF` or `Section.XMP`.
        progress: called as `progress(done, total)` now and then, in iterations of the fit.

    Raises:
        ValueError: an argument is out of its range, the picture's shape or dtype is not coded, or it cannot be coded in
            so few bytes; the message says how many it takes.
        RuntimeError: the device is not there, or the file did not decode to what was coded.
    """
    [data] = encode_batch(
        [pixels], quality=quality, target_size=target_size, target_bpp=target_bpp, profile=profile, model=model,
        effort=effort, device=device, seed=seed, metadata=[metadata or {}], progress=progress,
    )  # fmt: skip
    return data


def encode_batch(
    pictures: Sequence[NDArray[np.uint8]],
    *,
    quality: float = 75,
    target_size: int | None = None,
    target_bpp: float | None = None,
    profile: str = "clric",
    model: str = "base",
    effort: int | str = 5,
    device: str = "auto",
    seed: int = 0,
    metadata: Sequence[Mapping[Section, bytes]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[bytes]:
    """Code pictures of any sizes, as many in one fit as there is memory for: on GPUs much faster than one by one.

    A picture's file may differ from that which it gets alone, as random numbers and roundings do; not in quality.

    Args:
        pictures: as `encode` takes each.
        metadata: for each picture.
        progress: called as `progress(done, total)` now and then, in pictures; of a single one, in iterations.

    The others are those of `encode`, and are for all pictures. Targets are for each.

    Returns:
        The files, in the order of the pictures.

    Raises:
        As `encode`; nothing is coded if one of the pictures cannot be.
    """
    from codec import batches
    from codec.profiles import Settings, by_name

    coder = by_name(profile)
    settings = Settings(
        quality=quality, target_size=target_size, target_bpp=target_bpp, model=model, effort=effort, device=device,
        seed=seed, progress=progress,
    )  # fmt: skip
    items, model_prefix = [], coder.model(settings)
    for pixels, bodies in zip(pictures, metadata or [{}] * len(pictures), strict=True):
        header = Header(pixels.shape[1], pixels.shape[0], _mode(pixels), coder.id, model_prefix)
        pack(header, {**bodies, Section.GRIDS: b""})  # what cannot be packed is refused before the slow work
        items.append(batches.Item(pixels, header, bodies))
    return batches.encode(items, coder, settings)


def decode(data: bytes, *, device: str = "auto", allow_truncated: bool = False, scale: int = 1) -> NDArray[np.uint8]:
    """Decode the bytes of a `.clric` file to a picture, shaped as `encode` took it.

    Args:
        data: the whole file; with `allow_truncated`, its beginning is enough if it holds the function's
            weights: grids that are missing are taken as zero, which leaves a coarser picture.
        device: where the float part runs; the entropy decoding is the same everywhere.
        scale: 1, 2, 4 or 8: height and width are divided by it and rounded up. Of a large picture in profile `clric`
            that is an approximation, which takes about a tenth of the time; else samples are averaged.

    Raises:
        FormatError: the file is truncated, damaged, too new or too large; the message says which.
        ValueError: there is no such scale.
    """
    from codec.profiles import by_id

    if scale not in (1, *SCALES):
        raise ValueError(f"scale must be 1, 2, 4 or 8, not {scale!r}")

    container = unpack(data, allow_truncated=allow_truncated)
    return by_id(container.header.profile).decode(container, device, scale)


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
