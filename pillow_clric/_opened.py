"""Facts of files about their samples that Pillow forgets: put into `info` of images as they are opened.

That is "bit_depth", as pillow_heif calls it, if samples have more than 8 bits, and primaries and transfer function by
their codes in ITU-T H.273: "cicp", which counts more than the profile of a PNG file, or else "nclx". What an AVIF file
has beside its picture is "aux", also as pillow_heif has it: a dict by names of kinds, such as "tmap" for a gain map.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from PIL import AvifImagePlugin, Image, ImageFile, Jpeg2KImagePlugin, PngImagePlugin, PpmImagePlugin, SgiImagePlugin

__all__ = ["Told", "avif_told", "jpeg2000_told", "png_told", "register_openers"]

_CODESTREAM = b"\xff\x4f\xff\x51"  # beginning of JPEG 2000 that is in no file of boxes
_HEAD = 2**16  # bytes of JPEG 2000 files that have their header
_ALPHA = {"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", "urn:mpeg:hevc:2015:auxid:1"}  # which Pillow reads


class Told(NamedTuple):
    """Told by a file of its samples, and of what it has beside them.

    Attributes:
        codes: primaries and transfer function; each 0 if it is not told.
        depth: bits of a sample; 0 if they are not told.
        aux: kinds of what is beside the picture.
    """

    codes: tuple[int, int] = (0, 0)
    depth: int = 0
    aux: tuple[str, ...] = ()


Find = Callable[[IO[bytes]], Told]


def register_openers() -> None:
    """Let `Image.open` keep more of files in these formats, which goes on to give images of the same classes."""
    for plugin, find in (
        (AvifImagePlugin.AvifImageFile, avif_told),
        (Jpeg2KImagePlugin.Jpeg2KImageFile, jpeg2000_told),
        (PngImagePlugin.PngImageFile, png_told),
        (PpmImagePlugin.PpmImageFile, _nothing),
        (SgiImagePlugin.SgiImageFile, _nothing),
    ):
        opener, accept = Image.OPEN[plugin.format]  # that of another plugin than Pillow's, perhaps
        if not isinstance(opener, _Opener):
            Image.register_open(plugin.format, _Opener(opener, find), accept)


@dataclass(frozen=True)
class _Opener:
    """Function that opens a file as another one does, and keeps what `find` finds."""

    opener: Callable[[IO[bytes], str | bytes], ImageFile.ImageFile]
    find: Find

    def __call__(self, fp: IO[bytes], filename: str | bytes = "") -> ImageFile.ImageFile:
        image = self.opener(fp, filename)
        codes, depth, aux = self._told(image.fp) if image.fp is not None else Told()
        if any(_is_unpacked_from_more(*tile) for tile in image.tile):
            depth = 16
        if depth > 8:
            image.info["bit_depth"] = depth
        if aux:
            image.info["aux"] = {kind: [] for kind in aux}
        if any(codes):
            # A profile that comes later, by a conversion of the colours in place, counts more in any case.
            image.info["cicp" if image.format == "PNG" and "icc_profile" in image.info else "nclx"] = codes
        return image

    def _told(self, stream: IO[bytes]) -> Told:
        at = stream.tell()
        stream.seek(0)
        told = self.find(stream)
        stream.seek(at)
        return told


def _is_unpacked_from_more(decoder: str, _: Any, __: Any, arguments: Any) -> bool:
    """Whether a tile has more than 8 bits a sample in its file, whatever they become when they are loaded."""
    given = arguments if isinstance(arguments, tuple) else (arguments,)
    if any(isinstance(value, str) and ";16" in value for value in given):  # the layout of samples, such as RGB;16B
        return True
    return decoder == "ppm" and any(isinstance(value, int) and value > 255 for value in given)  # the largest sample


def _nothing(_: IO[bytes]) -> Told:
    return Told()


def png_told(stream: IO[bytes]) -> Told:
    """Codes by a PNG file's chunk cICP."""
    with suppress(struct.error):  # it ends
        stream.seek(8)
        while True:
            length, name = struct.unpack(">I4s", stream.read(8))
            if name == b"cICP" and length == 4:
                return Told(struct.unpack(">2B", stream.read(2)))
            if name == b"IDAT":
                break
            stream.seek(length + 4, 1)
    return Told()


def avif_told(stream: IO[bytes]) -> Told:
    """Facts of an AVIF file on its first picture, of which Pillow gives 8 bits of any, and of what is beside it."""
    data, properties = stream.read(), (b"meta", b"iprp", b"ipco")
    names = (body for body in _boxes(data, *properties, b"colr") if body[:4] == b"nclx" and len(body) >= 8)
    name = next(names, bytes(8))
    depths = (10 + body[2] // 32 % 2 * 2 for body in _boxes(data, *properties, b"av1C") if body[2:] and body[2] & 0x40)
    urns = (body[4:].partition(b"\0")[0].decode(errors="replace") for body in _boxes(data, *properties, b"auxC"))
    # The type of an item is behind its number, of 2 or 4 bytes, and 2 bytes more.
    kinds = (body[8 + 2 * (body[0] > 2) :][:4] for body in _boxes(data, b"meta", b"iinf", b"infe") if body)
    aux = ["tmap"] * (b"tmap" in kinds) + [urn for urn in urns if urn not in _ALPHA]
    return Told(struct.unpack(">HH", name[4:8]), next(depths, 0), tuple(aux))


def jpeg2000_told(stream: IO[bytes]) -> Told:
    """Bits of a sample in a JPEG 2000 file, of which Pillow gives 8 of any if it has colours."""
    data = stream.read(_HEAD)
    if data.startswith(_CODESTREAM):  # without boxes: its first segment has three bytes for each component
        components = int.from_bytes(data[40:42])
        return Told(depth=max((1 + depth % 128 for depth in data[42 : 42 + 3 * components : 3]), default=0))
    boxes = _boxes(data, b"jp2h", b"ihdr")
    return Told(depth=next((1 + body[10] % 128 for body in boxes if len(body) > 10 and body[10] < 255), 0))


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
            body = data[at + start : at + length]
            if name == b"meta":
                body = body[4:]
            elif name == b"iinf":
                body = body[6 if body[:1] == b"\0" else 8 :]  # behind the number of its boxes, of 2 or 4 bytes
            if others:
                yield from _boxes(body, *others)
            else:
                yield body
        at += length
