"""EXIF, ICC profile and XMP that a file gets: the caller's, or else the image's own."""

from __future__ import annotations

from contextlib import suppress
from reprlib import repr as shortened
from typing import Any, Literal

from PIL import ExifTags, Image, ImageOps
from PIL.ExifTags import Base

from codec import colour, icc
from codec.container import Section
from pillow_clric import _colour
from pillow_clric._losses import without_promises

__all__ = ["EXIF_PREFIX", "Exif", "Icc", "Xmp", "check", "collect", "for_tiff", "unwritable", "upright"]

Exif = bytes | Image.Exif | Literal["keep"] | None
Icc = bytes | Literal["keep"] | None
Xmp = bytes | str | None  # str includes "keep"

# JPEG's name for the block, which Pillow's JPEG and PNG plugins keep in `info["exif"]` and `Image.Exif.tobytes`
# writes. Files hold the TIFF structure that follows it.
EXIF_PREFIX = b"Exif\0\0"

# TIFF has its EXIF among the tags that say where its own pixels are; these mean nothing in another file.
_TIFF_LAYOUT = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338}
    | {339, 347, 512, 513, 514, 529, 530, 532, 700, 33723, 34377, 34675}
)

_TIFF_XMP = 700


def check(exif: Exif, icc_profile: Icc, xmp: Xmp) -> None:
    """Refuse values that are neither "keep" nor None nor of a type that is taken.

    Raises:
        TypeError: says which.
    """
    named = ("exif", exif, (bytes, Image.Exif)), ("icc_profile", icc_profile, bytes), ("xmp", xmp, (bytes, str))
    for name, value, kinds in named:
        if not (value is None or isinstance(value, kinds) or (isinstance(value, str) and value == "keep")):
            raise TypeError(f"{name} must be bytes, None or 'keep', not {type(value).__name__}")


def collect(image: Image.Image, mode: str, exif: Exif, icc_profile: Icc, xmp: Xmp) -> dict[Section, bytes]:
    """The metadata that go into a file, without those that are empty.

    Args:
        image: gives what is "keep"; must be loaded, as some formats hold metadata after the pixels.
        mode: in which it is coded; its own ICC profile is left out if it is for other colours, unless those are well
            known and the mode is grey.
        exif, icc_profile, xmp: values that `check` let pass.

    Raises:
        ValueError: the ICC profile that was given is for other colours than those of the mode, or a tag of the EXIF
            that was given or changed has a value that it cannot have.
    """
    if isinstance(exif, Image.Exif):
        exif = _written(exif)
    elif exif == "keep":
        exif = _own_exif(image)
    if icc_profile == "keep":
        icc_profile = _colour.fitting(_colour.profile_of(image), mode)
    elif icc.colours(icc_profile or b"") not in (b"", _colour.colours_of(mode)):
        colours = icc.colours(icc_profile or b"").decode(errors="replace").strip()
        raise ValueError(f"icc_profile is for {colours} colours, but the image is coded as {mode}: leave it out")
    if xmp == "keep":
        xmp = without_promises(_own(image, "xmp"))
    if isinstance(xmp, str):
        xmp = xmp.encode()
    sections = {Section.EXIF: (exif or b"").removeprefix(EXIF_PREFIX), Section.XMP: xmp or b""}
    sections |= colour.sections(icc_profile) if icc_profile else {}
    return {section: body for section, body in sections.items() if body}


def _own(image: Image.Image, key: str) -> bytes:
    """Bytes in the image's `info`; what is there of another type is of no known meaning."""
    value = image.info.get(key)
    return value if isinstance(value, bytes) else b""


def for_tiff(exif: bytes | None, xmp: bytes | None) -> Image.Exif:
    """Metadata as a TIFF file has them: its tags are the EXIF, but for those that say where its pixels are.

    Raises:
        Exception: of any type, for EXIF that Pillow cannot parse.
    """
    tags = Image.Exif()
    tags.load(exif or b"")
    for tag in _TIFF_LAYOUT.intersection(tags):
        del tags[tag]
    if xmp:
        tags[_TIFF_XMP] = xmp
    return tags


def upright(image: Image.Image) -> Image.Image:
    """Return the image turned as its EXIF says, to look the same without; as it is if that cannot be read."""
    made = image.copy()
    made.info.pop("exif", None)  # which cannot always be written anew, though it can be read
    with suppress(Exception):  # EXIF that Pillow cannot parse
        made.getexif()[Base.Orientation] = image.getexif()[Base.Orientation]
        ImageOps.exif_transpose(made, in_place=True)
    return made


def _own_exif(image: Image.Image) -> bytes:
    """The image's EXIF: what its `info` has now, unless `image.getexif()` was changed since it was read.

    Pillow reads tags once, of some files as they are opened, whatever becomes of `info` later.
    """
    stored = _own(image, "exif")
    original = Image.new("1", (1, 1))
    original.info = image.info
    try:
        told, tags = original.getexif(), image.getexif()
        now, then = _as_read(told), _as_read(tags)
        told_now, told_then = _written(now), _written(then)
    except Exception:  # EXIF that Pillow cannot parse, or write again, was not changed either
        return stored
    left_out = {*_odd(tags), *_unreadable_groups(image)} if hasattr(image, "tag_v2") else set[int]()
    if Base.Orientation not in {*now, *then, *getattr(image, "tag_v2", {})}:  # it is the XMP's, which is kept itself
        left_out |= {Base.Orientation} if tags.get(Base.Orientation) == told.get(Base.Orientation) else set()
    removed = {tag: tags.pop(tag) for tag in left_out & {*tags}}
    try:
        current = _written(tags)
    finally:
        tags.update(removed)
    # Writing EXIF anew can break what it points to (maker notes), so that is not done without need.
    if stored and current in (told_now, told_then):
        return stored
    return _written(for_tiff(told_now if current == told_then else current, None))


def _as_read(exif: Image.Exif) -> Image.Exif:
    """Tags as they were in the bytes that they were read from; none of a TIFF file's own."""
    tags = Image.Exif()
    tags.load(getattr(exif, "_loaded_exif", None) or b"")
    return tags


def _unreadable_groups(image: Image.Image) -> list[int]:
    """Groups of tags that an image has and cannot give any more: TIFF files with several pictures are closed."""
    tags, found = image.getexif(), list[int]()
    for group in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        try:
            if group in tags:
                tags.get_ifd(group)
        except Exception:  # of many types, also for what is damaged
            found.append(group)
    return found


def _written(exif: Image.Exif) -> bytes:
    """Bytes of EXIF, none of what has no tags.

    Raises:
        ValueError: a tag has a value that it cannot have.
    """
    try:
        data = exif.tobytes()
    except Exception as error:
        raise ValueError(f"exif cannot be written: change its {unwritable(exif) or error}") from error
    return data if len(data) > len(Image.Exif().tobytes()) else b""


def unwritable(exif: Image.Exif) -> str:
    """Return a tag by which EXIF cannot be written, with its value, in words; "" if there is none."""
    named = (f"EXIF tag {ExifTags.TAGS.get(tag, tag)}, {shortened(value)}" for tag, value in _odd(exif).items())
    return next(named, "")


def _odd(exif: Image.Exif) -> dict[int, Any]:
    """Tags, but for those of groups, with values that they cannot have."""
    groups = set(ExifTags.IFD)
    return {tag: value for tag, value in exif.items() if tag not in groups and not _can_have(tag, value)}


def _can_have(tag: int, value: object) -> bool:
    tags = Image.Exif()
    tags[tag] = value
    try:
        tags.tobytes()
    except Exception:  # of any type
        return False
    return True
