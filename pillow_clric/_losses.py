"""What of an image's file is not coded: samples of more than 8 bits, other frames, gain maps, films."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from xml.dom import minidom

from PIL import Image

from pillow_clric import _modes

__all__ = ["LossWarning", "losses", "without_promises"]

# Beginnings of the names, each after its namespace, by which XMP says that its file holds more than a picture: gain
# maps (of Adobe, Apple and Google), films that belong to photos, and XMP that did not fit in beside it.
_PROMISES = (
    "http://ns.adobe.com/hdr-gain-map/1.0/",
    "http://ns.adobe.com/xmp/note/HasExtendedXMP",
    "http://ns.apple.com/HDRGainMap/1.0/",
    "http://ns.google.com/photos/1.0/camera/MicroVideo",
    "http://ns.google.com/photos/1.0/camera/MotionPhoto",
    "http://ns.google.com/photos/1.0/container/",
)


class LossWarning(UserWarning):
    """Something that belongs to an image is not in the file that it is saved to."""


def losses(image: Image.Image) -> Iterator[str]:
    """Sentences on what is lost of an image's file when it is coded; the image need not be loaded."""
    if _modes.has_more_than_8_bits(image):
        yield "it has more than 8 bits a sample: coded as 8 bits"
    if (count := _frames(image)) > 1:
        yield f"only the first of {count} pictures is kept: a .clric file holds one"
    xmp = image.info.get("xmp")
    if isinstance(xmp, bytes) and without_promises(xmp) != xmp:
        yield "what its XMP says is beside the picture, such as a gain map, is not kept, and no longer said to be there"


def without_promises(xmp: bytes) -> bytes:
    """XMP without what it says that its file holds beside the picture; as it is if that is nothing, or it is no XML."""
    if not any(promise.rpartition("/")[0].encode() in xmp for promise in _PROMISES):
        return xmp
    with suppress(Exception):  # bad XML is found in many ways
        document, found = minidom.parseString(xmp.rstrip(b"\0 ")), 0
        for element in document.getElementsByTagName("*"):
            for attribute in list((element.attributes or {}).values()):
                if _is_promise(attribute):
                    element.removeAttributeNode(attribute)
                    found += 1
            if element.parentNode and _is_promise(element):
                element.parentNode.removeChild(element)
                found += 1
        if found:
            return "".join(node.toxml() for node in document.childNodes).encode()
    return xmp


def _is_promise(node: minidom.Attr | minidom.Element) -> bool:
    return f"{node.namespaceURI}{node.localName}".startswith(_PROMISES)


def _frames(image: Image.Image) -> int:
    """Number of pictures in the image's file; 1 if another one than the first was chosen."""
    view = Image.Image.__new__(type(image))  # as counting loads another picture, over changes to this one
    view.__dict__ = {**image.__dict__, "info": dict(image.info)}
    with suppress(Exception):  # the format has no number of pictures, or the file is closed or damaged
        return 1 if image.tell() else view.n_frames  # type: ignore[attr-defined]
    return 1
