"""Files as bytes: `encode`, `decode` and `info`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import tee
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO, cast, overload

from PIL import Image

import codec
from codec import colour
from codec.container import Bytes, Header, Section, UnsupportedError, as_bytes, read_header
from codec.profiles import DEFAULT, by_id, names
from pillow_clric import _importance, _metadata, _modes
from pillow_clric._importance import Importance
from pillow_clric._losses import LossWarning, checked
from pillow_clric._metadata import Exif, Icc, Xmp
from pillow_clric._option_docs import documented

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FileInfo", "decode", "encode", "encode_batch", "info"]


@documented
def encode(
    image: Image.Image,
    *,
    profile: str = DEFAULT,
    exif: Exif = "keep",
    icc_profile: Icc = "keep",
    xmp: Xmp = "keep",
    importance: Importance = None,
    **options: Any,
) -> bytes:
    """Code an image as the bytes of a `.clric` file. `image.save(fp, "CLRIC", ...)` takes the same arguments.

    `image.save` empties an existing file first, as Pillow does in all formats, so that an error leaves an empty one.

    Args:
        image: with at least one pixel; of an animation the first picture is coded, and a `LossWarning` says so. Modes
            L, LA, RGB and RGBA are kept; others are converted to one of them as Pillow does, with transparency of
            whatever kind as alpha. Samples of 16 bits are coded as 8 bits, with a `LossWarning`. Alpha is lossless;
            colours that are wholly transparent are not kept. The EXIF orientation stays as it is, and so do the pixels.
        profile: the coding profile, one of `info()["profiles"]`.
        exif: bytes or `Image.Exif`; "keep" takes the image's own with what was changed in `image.getexif()`, None or
            b"" none.
        icc_profile: bytes; "keep", None or b"" as above. The image's own is taken from a PNG file's gamma and
            chromaticities, too. What was for other colours than the mode that is coded (such as CMYK) is not kept.
        xmp: bytes or str; "keep", None or b"" as above.
        importance: a grey image (mode L) or an array (height, width) from 0 to 1 or of uint8, of any size and resampled
            to the image's: parts that are brighter there get more of the bytes, and the others stay recognisable. Only
            differences matter. It lies over the pixels as they are stored, whatever any EXIF orientation says.
        options: {options}

    Raises:
        ValueError: an argument is out of its range, the image is empty, too large, HDR or of floating point, or the
            smallest file possible is larger than the target; the message says how large it is.
        TypeError: an argument is of a type other than these, or the profile has none of this name.
        RuntimeError: the device is not there, or the file did not decode to what was coded.
        ModelError: there is no such model, or it is damaged; an `OSError` that says what to do.
        ImportError: the model needs an extra that is not installed.
    """
    [data] = encode_batch(
        [image], profile=profile, exif=exif, icc_profile=icc_profile, xmp=xmp, importance=[importance], **options
    )
    return data


def encode_batch(
    images: Sequence[Image.Image],
    *,
    profile: str = DEFAULT,
    exif: Exif = "keep",
    icc_profile: Icc = "keep",
    xmp: Xmp = "keep",
    importance: Sequence[Importance] | None = None,
    **options: Any,
) -> list[bytes]:
    """Code images of any sizes, as many in one fit as there is memory for: on GPUs much faster than one by one.

    The arguments are those of `encode`, each for all images, but for `importance`, which is a list of one for each
    image, or None for it; of several, `progress` is told in images. A file may differ from that which `encode` gives
    the same image, as random numbers and roundings do; not in quality.

    Returns:
        The files, in the order of the images.

    Raises:
        As `encode`, before anything is coded; but for images that cannot be as small as the target, a `BatchError`,
            which holds the files of all others.
    """
    _metadata.check(exif, icc_profile, xmp)
    stripped = not (exif or icc_profile or xmp)
    for image in images:
        for loss in checked(image, stripped=stripped):
            name = getattr(image, "filename", "")
            warnings.warn(f"{name}: {loss}" if name else loss, LossWarning, stacklevel=3)
    maps = _maps(importance, len(images))
    one, other = tee(_coded_forms(images, exif, icc_profile, xmp))
    metadata = (held for _, held in other)
    fitting = (_importance.fitted(each, image.size) for each, image in zip(maps, images, strict=True))
    return codec.encode_batch(
        (pixels for pixels, _ in one), profile=profile, metadata=metadata, importance=fitting, **options
    )


def decode(data: Bytes, *, device: str = "auto", tune: str | None = None) -> Image.Image:
    """Decode the bytes of a `.clric` file to a loaded image, with its metadata in `info`.

    Args:
        data: the complete file, as bytes or another object that holds them; its beginning is enough while
            `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` is set.
        device: "auto", or the torch device on which the float part runs.
        tune: "fidelity" or "looks", as of `encode`, whatever the file asks for; None for that.

    Raises:
        FormatError: the file is truncated, damaged, too new or too large; the message says which.
        ModelError: the model that the file names is not there, or damaged; an `OSError` that says how to get it.
        ValueError: there is no such tune.
        TypeError: it is of another type.
        RuntimeError: the device is not there.
        MemoryError: there is too little of it on the device.
        Image.DecompressionBombError: the image has more pixels than twice `Image.MAX_IMAGE_PIXELS`.
    """
    read_header(_stream(data))  # says more about what is no `.clric` file than `Image.open` does
    image = Image.open(_stream(data), formats=["CLRIC"])
    image.decoderconfig = (device, tune)
    image.load()
    return image


@dataclass(frozen=True)
class FileInfo:
    """Contents of a file's header.

    Attributes:
        width, height: in pixels.
        mode: Pillow's name for it, as `Image.open` would give.
        profile: name of the coding profile.
        model: hash of the model that reads the file, in hex, as `clric-convert models list` shows it; "" if it
            takes none.
        version: of the format, (major, minor).
        sections: bytes of each part of the file, by name: "header", "weights", "grids", "colour", "exif", "xmp" ...
        colour: name of the space that the colours are in, "ICC profile" of another one; "" if the file does not say.
    """

    width: int
    height: int
    mode: str
    profile: str
    model: str
    version: tuple[int, int]
    sections: dict[str, int]
    colour: str = ""

    @property
    def file_size(self) -> int:
        """Bytes of the complete file."""
        return sum(self.sections.values())

    @property
    def bpp(self) -> float:
        """Bits of the complete file per pixel."""
        return 8 * self.file_size / (self.width * self.height)


@overload
def info() -> dict[str, str | list[str]]: ...


@overload
def info(source: str | PathLike[str] | Bytes | BinaryIO) -> FileInfo: ...


def info(source: str | PathLike[str] | Bytes | BinaryIO | None = None) -> FileInfo | dict[str, str | list[str]]:
    """Return the contents of a file's header or, without a file, the versions and devices of this installation.

    Args:
        source: a path, a file as `decode` takes it, or a binary file object that stands at the file's start. Only the
            header is read, so this is fast, and does not check that the rest of the file is there.

    Returns:
        A `FileInfo`; without `source`, a dict of the versions of what matters, "profiles" and "devices".

    Raises:
        FormatError: the file has no valid header; the message says why.
        TypeError: the source is of another type.
    """
    if source is None:
        return _installation()
    if isinstance(source, (str, PathLike)):
        with open(source, "rb") as fp:
            return _file_info(fp)
    return _file_info(cast(BinaryIO, source) if hasattr(source, "read") else _stream(source))


def _maps(importance: Sequence[Importance] | None, count: int) -> Sequence[Image.Image | None]:
    """Importance of each of so many images."""
    if importance is None:
        return [None] * count
    if isinstance(importance, Image.Image) or len(importance) != count:
        raise ValueError(f"importance must be a list of one for each of the {count} images")
    return [each if each is None else _importance.check(each) for each in importance]


def _stream(data: Bytes) -> BytesIO:
    return BytesIO(as_bytes(data))


def _coded_forms(
    images: Sequence[Image.Image], exif: Exif, icc_profile: Icc, xmp: Xmp
) -> Iterator[tuple[NDArray[np.uint8], dict[Section, bytes]]]:
    """Pixels and metadata as they are coded: no image is loaded before it is asked for."""
    import numpy as np

    for image in images:
        converted = _modes.converted(image)
        yield np.asarray(converted), _metadata.collect(image, converted.mode, exif, icc_profile, xmp)


def _file_info(fp: BinaryIO) -> FileInfo:
    header = read_header(fp)
    try:
        profile = by_id(header.profile).name
    except UnsupportedError:
        profile = f"unknown ({header.profile})"
    known = {int(section): section.name.lower() for section in Section}
    sections = {known.get(entry.section, f"section {entry.section}"): entry.length for entry in header.directory}
    return FileInfo(
        header.width,
        header.height,
        header.mode,
        profile,
        header.model.hex(),
        header.version,
        {"header": header.size, **sections},
        _colour_of(header, fp),
    )


def _colour_of(header: Header, fp: BinaryIO) -> str:
    """Name of the colours, for which as little is read as there is in front of it."""
    if Section.COLOUR not in header.spans:
        return "ICC profile" if Section.ICC in header.spans else ""
    before = header.spans[Section.COLOUR][0] - header.size
    while before and (piece := fp.read(min(before, 2**20))):
        before -= len(piece)
    return colour.name_of(fp.read(1))


def _installation() -> dict[str, str | list[str]]:
    from importlib.metadata import version

    import torch

    from pillow_clric import __version__

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        devices.append("mps")
    versions = {name: version(name) for name in ("pillow", "numpy", "torch", "constriction")}
    return {"pillow-clric": __version__, **versions, "profiles": names(), "devices": devices}
