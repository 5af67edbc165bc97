"""The clric codec: arrays in, bytes out, and back. Knows nothing of Pillow.

Importing this package imports neither torch nor numpy; they are imported when pixels are coded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING, Any

from codec.container import (
    Bytes,
    Container,
    CorruptError,
    DamageWarning,
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
from codec.profiles import DEFAULT, by_id, by_name
from codec.profiles.base import Decoder
from codec.profiles.options import TUNES
from codec.runtime import numpy_computing, resolve, resolved

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codec.importance import Importance

__all__ = [
    "SCALES",
    "BatchError",
    "Container",
    "CorruptError",
    "DamageWarning",
    "FormatError",
    "Header",
    "LimitError",
    "Section",
    "TruncatedError",
    "UnsupportedError",
    "decode",
    "describe",
    "encode",
    "encode_batch",
    "pack",
    "read_header",
    "repair",
    "unpack",
    "verify",
]


SCALES = (2, 4, 8)  # by which pictures can be decoded smaller


class BatchError(ValueError):
    """Some pictures cannot be coded in as few bytes as are asked for; the others of their batch were coded.

    Attributes:
        results: of each picture, its file, or what is wrong with it.
    """

    def __init__(self, results: Sequence[bytes | ValueError]) -> None:
        wrong = [result for result in results if isinstance(result, ValueError)]
        others = f"; {len(wrong)} of {len(results)} pictures failed" if len(results) > 1 else ""
        super().__init__(f"{wrong[0]}{others}")
        self.results = list(results)

    def __reduce__(self) -> tuple[Any, ...]:
        return BatchError, (self.results,)


def encode(
    pixels: NDArray[np.uint8],
    *,
    profile: str = DEFAULT,
    metadata: Mapping[Section, bytes] | None = None,
    importance: Importance | None = None,
    **options: Any,
) -> bytes:
    """Code one picture as the bytes of a `.clric` file.

    Args:
        pixels: uint8, (height, width) for greyscale, (height, width, 3) for RGB; or (height, width, 2) and (height,
            width, 4) with alpha, which is lossless. Colours that are wholly transparent are not kept.
        profile: name of a coding profile, see `codec.profiles.names()`.
        metadata: bytes to carry along, under `Section.EXIF`, `Section.XMP` or as `codec.colour.sections` gives them.
        importance: uint8 (height, width), how much each pixel counts: those that count more get more of the bytes. Only
            differences matter; all alike by default.
        options: quality, effort and so on: the profile's `options`.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument is out of its range, the picture's shape or dtype is not coded, or it cannot be coded in
            so few bytes; the message says how many it takes.
        RuntimeError: the device is not there, or the file did not decode to what was coded.
    """
    [data] = encode_batch([pixels], profile=profile, metadata=[metadata or {}], importance=[importance], **options)
    return data


def encode_batch(
    pictures: Iterable[NDArray[np.uint8]],
    *,
    profile: str = DEFAULT,
    metadata: Iterable[Mapping[Section, bytes]] | None = None,
    importance: Iterable[Importance | None] | None = None,
    **options: Any,
) -> list[bytes]:
    """Code pictures of any sizes, as many in one fit as there is memory for: on GPUs much faster than one by one.

    A picture's file may differ from that which it gets alone, as random numbers and roundings do; not in quality.

    Args:
        pictures: as `encode` takes each; gone through once, when all other arguments were found right.
        profile: for all of them.
        metadata: for each picture; gone through at the same time.
        importance: of each picture, likewise.
        options: for all of them; targets are for each.

    Returns:
        The files, in the order of the pictures.

    Raises:
        As `encode`, before anything is coded; but what shows only then as a `BatchError`, which holds all other files.
    """
    from codec import batches

    coder = by_name(profile)
    chosen = coder.parse(options)
    device = resolve(chosen.device)
    items = []
    described = zip(pictures, repeat({}) if metadata is None else metadata, strict=metadata is not None)
    maps = repeat(None) if importance is None else importance
    for (pixels, bodies), weighed in zip(described, maps, strict=importance is not None):
        mode = _mode(pixels)
        header = Header(pixels.shape[1], pixels.shape[0], mode, coder.id)
        colours, known = _split(pixels)
        known |= bodies
        pack(header, {**known, Section.GRIDS: b""})  # what cannot be packed is refused before the slow work
        items.append(batches.Item(colours, header, known, _importance(weighed, pixels)))
    encoder = coder.encoder(chosen, device)
    items = [replace(item, header=replace(item.header, model=encoder.model)) for item in items]
    with numpy_computing():
        results = batches.encode(items, encoder, chosen, device)
    files = [result for result in results if isinstance(result, bytes)]
    if len(files) < len(results):
        raise BatchError(results)
    return files


def decode(
    data: Bytes, *, device: str = "auto", allow_truncated: bool = False, scale: int = 1, tune: str | None = None
) -> NDArray[np.uint8]:  # fmt: skip
    """Decode the bytes of a `.clric` file to a picture, shaped as `encode` took it.

    Args:
        data: the complete file; with `allow_truncated`, its beginning is enough if it holds the function's weights, or
            the latent's head: of what is missing, that is shown which is likely, which leaves a coarser picture. Of a
            file in packets any part behind the header is enough, with a `DamageWarning` that says how many are lost.
        device: device on which the float part runs; the entropy decoding is the same everywhere.
        scale: 1, 2, 4 or 8: height and width are divided by it and rounded up. Of a large picture in profile `clric`
            that is an approximation, which takes about a tenth of the time; else samples are averaged.
        tune: "fidelity" shows what is coded only; "looks" has texture drawn beside it, where profile and model of the
            file know how; None is what the file asks for.

    Raises:
        FormatError: the file is truncated, damaged, too new or too large; the message says which.
        ModelError: the model that the file names is not there, or damaged; the message says how to get it.
        ValueError: there is no such scale or tune.
        MemoryError: there is too little of it on the device.
        RuntimeError: the device is not there, or this machine decodes wrongly.
    """
    import numpy as np

    from codec import alpha

    if scale not in (1, *SCALES):
        raise ValueError(f"scale must be 1, 2, 4 or 8, not {scale!r}")
    if tune not in (None, *TUNES):
        raise ValueError(f"tune must be None, {' or '.join(map(repr, TUNES))}, not {tune!r}")

    container = unpack(data, allow_truncated=allow_truncated)
    channel = alpha.decode(container, scale)
    with _decoding(container.header, device) as decoder:
        colours = decoder.decode(container, scale, tune)
    return colours if channel is None else np.dstack([colours, channel])


def verify(data: Bytes) -> None:
    """Check a file's checksums and structure, as far as that shows without computing the picture, and without torch.

    Raises:
        FormatError: as `decode`; it may yet refuse what passes here, but nothing that was written by `encode`.
    """
    from codec import alpha, colour

    container = unpack(data)
    profile = by_id(container.header.profile)
    profile.check_directory(container.header)
    profile.check(container)
    alpha.decode(container)
    if Section.COLOUR in container.sections:
        with suppress(UnsupportedError):  # a section that may be skipped
            colour.profile(container.sections[Section.COLOUR], grey=container.header.channels == 1)


def repair(data: Bytes, *, device: str = "auto") -> bytes:
    """A whole file of a damaged one in packets, which looks as that does; metadata and alpha stay as they are.

    If all that is lost can be restored, it is the file as it was before; else there is a `DamageWarning`. In both cases
    it has the parity packets that `encode` would write, which older files have not, and no sections of types that this
    version does not know.

    Raises:
        FormatError: the file is damaged beyond that, or not in packets.
        ModelError, MemoryError, RuntimeError: as `decode`.
    """
    container = unpack(data)
    with _decoding(container.header, device) as decoder:
        return pack(container.header, {**container.sections, **decoder.repair(container)})


def describe(data: Bytes, *, device: str = "auto") -> dict[str, Any]:
    """Coding of the picture in a complete file, as far as its profile knows more than the header says.

    Of profile `vq`: "codebook", its size; "packets", how many there were; and, if there are any, how many "parity"
    packets there are beside them, and how many packets are damaged: "restored" from these, or "lost". Of profile `msp`:
    "preset"; "tune"; "quality", as it may be given to `encode`; and these counts likewise, or "scales", the bytes of
    each scale of the latent, by its part of the picture's resolution, and of the "enhancement" layer. Of other profiles
    it is empty.

    Raises:
        FormatError, ModelError, MemoryError, RuntimeError: as `decode`.
    """
    container = unpack(data)
    with _decoding(container.header, device) as decoder:
        return decoder.describe(container)


@contextmanager
def _decoding(header: Header, device: str) -> Iterator[Decoder]:
    """The decoder of a file, and as many threads as it may take; where memory does not suffice, what to do is said."""
    profile = by_id(header.profile)
    profile.check_directory(header)
    try:
        with numpy_computing():
            yield profile.decoder(header, resolved(device))
    except (MemoryError, RuntimeError) as error:
        from codec.device import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        size = f"{header.width} x {header.height}"
        raise MemoryError(
            f'a picture of {size} takes more memory than there is on device "{device}": free some, or name another one'
        ) from error


def _mode(pixels: NDArray[np.uint8]) -> str:
    """The container's mode of a picture."""
    modes = {(): "L", (2,): "LA", (3,): "RGB", (4,): "RGBA"}
    channels = pixels.shape[2:]
    if pixels.dtype == "uint8" and pixels.size and pixels.ndim >= 2 and channels in modes:
        return modes[channels]
    wanted = "uint8 of shape (height, width) or (height, width, 2, 3 or 4), and not empty"
    raise ValueError(f"pixels must be {wanted}: not {pixels.dtype} {pixels.shape}")


def _split(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], dict[Section, bytes]]:
    """Colours as profiles take them, and the section of alpha if there is any."""
    if pixels.shape[2:] not in ((2,), (4,)):
        return pixels, {}
    from codec import alpha

    colours, channel = pixels[:, :, :-1], pixels[:, :, -1]
    colours = colours[:, :, 0] if colours.shape[2] == 1 else colours
    return alpha.filled(colours, channel), {Section.ALPHA: alpha.encode(channel)}


def _importance(given: Importance | None, pixels: NDArray[np.uint8]) -> Importance | None:
    """Importance as encoders take it: what alpha hides is as what is around it; None if all of it is alike.

    Raises:
        ValueError: it is no such map of a picture of these pixels.
    """
    if given is None:
        return None
    if given.dtype != "uint8" or given.shape != pixels.shape[:2]:
        raise ValueError(f"importance must be uint8 {pixels.shape[:2]}, not {given.dtype} {given.shape}")
    if pixels.shape[2:] in ((2,), (4,)):
        from codec import alpha

        given = alpha.filled(given, pixels[:, :, -1])
    return None if given.min() == given.max() else given
