"""Losses of coding an image's file: samples of more than 8 bits, other frames, gain maps, films, IPTC."""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from copy import copy
from typing import cast
from xml.dom import minidom

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

from pillow_clric import _colour, _modes

__all__ = ["LossWarning", "checked", "without_promises"]

# What a file may hold beside a picture. XMP says it by names, each after its namespace, that begin so; its mark is
# removed. AVIF and HEIC files have names of their own for it, and others than these for what else is beside a picture.
_PROMISES = {
    "http://ns.adobe.com/hdr-gain-map/1.0/": "gain map",
    "http://ns.adobe.com/xmp/note/HasExtendedXMP": "XMP that did not fit in beside the first",
    "http://ns.apple.com/HDRGainMap/1.0/": "gain map",
    "http://ns.google.com/photos/1.0/camera/MicroVideo": "film",
    "http://ns.google.com/photos/1.0/camera/MotionPhoto": "film",
    "http://ns.google.com/photos/1.0/container/": "items of its container",
}
_AUXILIARY = {
    "tmap": "gain map",
    "urn:com:apple:photo:2020:aux:hdrgainmap": "gain map",
    "urn:mpeg:hevc:2015:auxid:2": "depth map",
    "urn:mpeg:mpegB:cicp:systems:auxiliary:depth": "depth map",
}

_LARGEST_XMP = 2**20  # bytes that are looked into: as a tree they may take a hundred times as many, and seconds

_IPTC = 0x0404  # as Photoshop numbers what it puts into JPEG files
_IPTC_TEXT = re.compile(rb"\x1c\x02[^\0]")  # where one of its texts begins


class LossWarning(UserWarning):
    """Something that belongs to an image is not in the file that it is saved to."""


def checked(image: Image.Image, *, stripped: bool = False) -> Iterator[str]:
    """Refuse an image that cannot be coded; of others, return sentences on what is lost of their files when they are.

    Args:
        image: need not be loaded.
        stripped: whether metadata are to be left out, so that none of them is lost.

    Raises:
        TypeError: it is no image.
        ValueError: it is empty, too large, HDR, of floating point, or such that Pillow misreads.
    """
    _modes.check(image)
    _colour.check(image)
    return _losses(image, stripped)


def _losses(image: Image.Image, stripped: bool) -> Iterator[str]:
    if _modes.has_more_than_8_bits(image):
        yield "it has more than 8 bits a sample: coded as 8 bits"
    if (count := _frames(image)) > 1:
        yield f"only the first of {count} pictures is kept: a .clric file holds one"
    elif count < 1:
        tags = "" if stripped else ", and of its EXIF what was read before it was closed"
        yield f"only one of several pictures is kept{tags}"
    if _is_reduced(image):
        yield "only a small version of the picture is kept: Pillow does not read the picture itself in such a file"
    beside = [*_beside(image), *["IPTC"] * (not stripped and _has_iptc(image))]
    if beside:
        yield f"what its file has beside the picture is not kept: {', '.join(dict.fromkeys(beside))}"


def without_promises(xmp: bytes) -> bytes:
    """XMP without what it says that its file holds beside the picture; as it is if that is nothing, or it is no XML."""
    return _kept_and_promised(xmp)[0]


def _kept_and_promised(xmp: bytes) -> tuple[bytes, list[str]]:
    """XMP without promises, and what they are of."""
    if not any(promise.rpartition("/")[0].encode() in xmp for promise in _PROMISES):
        return xmp, []
    if len(xmp) > _LARGEST_XMP:
        return xmp, ["what is named by its XMP, which is too large to be looked into"]
    with suppress(Exception):  # bad XML is found in many ways
        document, found = minidom.parseString(xmp.rstrip(b"\0 ")), list[str]()
        for element in document.getElementsByTagName("*"):
            for attribute in list((element.attributes or {}).values()):
                if promised := _promised(attribute):
                    element.removeAttributeNode(attribute)
                    found += promised
            if element.parentNode and (promised := _promised(element)):
                element.parentNode.removeChild(element)
                found += promised
        if found:
            return "".join(node.toxml() for node in document.childNodes).encode(), found
    return xmp, []


def _promised(node: minidom.Attr | minidom.Element) -> list[str]:
    name = f"{node.namespaceURI}{node.localName}"
    return [what for promise, what in _PROMISES.items() if name.startswith(promise)]


def _beside(image: Image.Image) -> Iterator[str]:
    """Names of pictures and films that belong to an image, and are in its file."""
    xmp, kinds = image.info.get("xmp"), image.info.get("aux")  # by `_opened` and pillow_heif
    yield from _kept_and_promised(xmp)[1] if isinstance(xmp, bytes) else []
    if isinstance(kinds, dict):
        yield from (_AUXILIARY.get(kind, f"auxiliary picture ({kind})") for kind in kinds)
    if image.info.get("depth_images"):  # by pillow_heif
        yield "depth map"


def _has_iptc(image: Image.Image) -> bool:
    """Whether there are captions, keywords and the like of IPTC, beyond what programs write where there are none."""
    photoshop = image.info.get("photoshop")
    if isinstance(photoshop, dict):  # of a JPEG file
        data = photoshop.get(_IPTC)
        return isinstance(data, bytes) and bool(_IPTC_TEXT.search(data))
    with suppress(Exception):  # it is damaged
        found = IptcImagePlugin.getiptcinfo(cast(ImageFile.ImageFile, image)) or {}
        return any(record == 2 and number for record, number in found)
    return False


def _is_reduced(image: Image.Image) -> bool:
    """Whether a TIFF file says that its first picture is a small version of another one, as those of cameras do."""
    kind = getattr(image, "tag_v2", {}).get(ExifTags.Base.NewSubfileType)
    return isinstance(kind, int) and kind % 2 == 1 and image.tell() == 0


def _frames(image: Image.Image) -> int:
    """Number of pictures in the image's file; 1 if another one was chosen, 0 if it has more and is closed."""
    view = Image.Image.__new__(type(image))  # as counting loads another picture, over changes to this one
    own = {name: copy(v) if isinstance(v, list | MutableMapping) else v for name, v in image.__dict__.items()}
    view.__dict__ = {**own, "_exif": None}
    with suppress(Exception):  # the format has no number of pictures, or the file is closed or damaged
        return 1 if image.tell() else view.n_frames  # type: ignore[attr-defined]
    closed = getattr(image, "fp", None) is None and hasattr(image, "filename")
    return 0 if closed and getattr(image, "is_animated", False) else 1
