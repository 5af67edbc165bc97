"""The `.clric` container: header, sections, checksums. The only place that knows the file's byte layout.

`docs/FORMAT.md` describes the same layout in words. Everything here is the standard library, so that a file is
opened without importing numpy or torch, and nothing is allocated by what a file merely claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from io import BytesIO
from typing import BinaryIO
from zlib import crc32

__all__ = [
    "MAGIC",
    "MAX_PIXELS",
    "MAX_SECTION",
    "MAX_SIDE",
    "METADATA",
    "MODEL_BYTES",
    "MODES",
    "VERSION",
    "Bytes",
    "Container",
    "CorruptError",
    "DamageWarning",
    "Entry",
    "FormatError",
    "Header",
    "LimitError",
    "Section",
    "TruncatedError",
    "UnsupportedError",
    "as_bytes",
    "header_size",
    "pack",
    "read_header",
    "unpack",
    "varint",
]

Bytes = bytes | bytearray | memoryview  # that a file is given as

# The first byte is no ASCII and cannot begin UTF-8 text, so no text is taken for a picture, and a transfer that
# drops the eighth bit is found at once. Three bytes and the version make up the first four of a file.
MAGIC = b"\x8bCL"
VERSION = (1, 0)  # major, minor
MODES = ("L", "RGB", "LA", "RGBA")  # the index is what the file holds
MODEL_BYTES = 8  # of the SHA-256 of a model's weights

MAX_SIDE = 2**16 - 1  # as in JPEG; the time to decode grows with it, however few pixels there are
MAX_PIXELS = 2**28
MAX_SECTION = 2**28  # bytes
_VARINT_BYTES = 5

_MODEL_FLAG = 0x80  # in the byte of profile and mode
_TYPE_BITS = 0x3F  # in a directory entry's tag, as are the next two
_REQUIRED = 0x40
_MORE = 0x80


class Section(IntEnum):
    """Types of section, as the file holds them (1..63)."""

    WEIGHTS = 1
    GRIDS = 2
    ALPHA = 3
    ICC = 4
    EXIF = 5
    XMP = 6
    COLOUR = 7
    PACKETS = 8
    ENHANCEMENT = 9


# Metadata first: it is read at open. Then from coarse to fine: what a truncated file loses is the finest of all.
_ORDER = (
    Section.COLOUR, Section.ICC, Section.EXIF, Section.XMP, Section.ALPHA, Section.WEIGHTS, Section.GRIDS,
    Section.PACKETS, Section.ENHANCEMENT,
)  # fmt: skip
METADATA = frozenset({Section.COLOUR, Section.ICC, Section.EXIF, Section.XMP})
_GRIDS_IN_PACKETS = frozenset({3})  # profiles whose grids are packets, which have checksums of their own


class FormatError(OSError):
    """The bytes are no `.clric` file that can be read; the message says why and what to do.

    An `OSError`, because Pillow lets those reach the user with their message.
    """


class TruncatedError(FormatError):
    """The file ends too early."""


class CorruptError(FormatError):
    """The file was damaged: a checksum or its structure is wrong."""


class UnsupportedError(FormatError):
    """The file uses something that this version of the reader does not know."""


class LimitError(FormatError):
    """The file claims a size beyond what a reader accepts."""


class DamageWarning(UserWarning):
    """Parts of a file are lost or damaged, and its picture has likely contents there."""


@dataclass(frozen=True)
class Entry:
    """One section in the directory.

    Attributes:
        section: its type, 1..63; a `Section` or a type that this version does not know.
        required: whether a reader that does not know the type must refuse the file.
        length: of its body in bytes, 0..`MAX_SECTION`.
    """

    section: int
    required: bool
    length: int


@dataclass(frozen=True)
class Header:
    """Header of a file, which precedes its sections. `pack` fills in the last three attributes, callers the others.

    Attributes:
        width: 1..`MAX_SIDE`; width times height is at most `MAX_PIXELS`.
        height: 1..`MAX_SIDE`.
        mode: one of `MODES`.
        profile: id of the coding profile, 0..15.
        model: first `MODEL_BYTES` bytes of the SHA-256 of the model's weights, or b"" if none is needed.
        directory: the sections in the order of their bodies, types unique.
        body_crc: CRC-32 of all bodies together that are not checked otherwise; 0 if all are.
        version: of the format, (major, minor), as the file has it.

    Raises:
        ValueError: an attribute is out of its range.
    """

    width: int
    height: int
    mode: str
    profile: int
    model: bytes = b""
    directory: tuple[Entry, ...] = ()
    body_crc: int = 0
    version: tuple[int, int] = VERSION

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if not 1 <= side <= MAX_SIDE:
                raise ValueError(f"{name} must be from 1 to {MAX_SIDE}, not {side}")
        if self.width * self.height > MAX_PIXELS:
            raise ValueError(f"a picture has at most {MAX_PIXELS} pixels, not {self.width} x {self.height}")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if not 0 <= self.profile <= 15:
            raise ValueError(f"profile must be from 0 to 15, not {self.profile}")
        if len(self.model) not in (0, MODEL_BYTES):
            raise ValueError(f"model must be empty or {MODEL_BYTES} bytes, not {len(self.model)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of colour."""
        return self.height, self.width, self.channels

    @property
    def channels(self) -> int:
        """Number of colour channels, without alpha: 1 or 3."""
        return 3 if self.mode.startswith("RGB") else 1

    @property
    def has_alpha(self) -> bool:
        """Whether the picture has an alpha channel."""
        return self.mode.endswith("A")

    @property
    def size(self) -> int:
        """Bytes from the magic to the header's checksum: where the first section's body begins."""
        return len(_header_bytes(self))

    @property
    def file_size(self) -> int:
        """Bytes of the complete file."""
        return self.size + sum(entry.length for entry in self.directory)

    @property
    def spans(self) -> dict[int, tuple[int, int]]:
        """Place of each section's body, in the file's order: {type: (offset from the magic, length)}."""
        spans, offset = {}, self.size
        for entry in self.directory:
            spans[entry.section] = (offset, entry.length)
            offset += entry.length
        return spans


@dataclass(frozen=True)
class Container:
    """An unpacked file.

    Attributes:
        header: as the file has it.
        sections: the bodies by type, without those of unknown types.
        truncated: whether bytes are missing at the end; bodies are then cut or empty, and not checked, unless those
            that the checksum is of are complete.
    """

    header: Header
    sections: dict[Section, bytes]
    truncated: bool = False

    def cut(self, section: Section) -> bool:
        """Whether bytes of a section that the file has are missing at its end."""
        return len(self.sections[section]) < self.header.spans[section][1]


def pack(header: Header, sections: Mapping[Section, bytes]) -> bytes:
    """Make a file of a header and the bodies of its sections.

    Args:
        header: its `directory` and `body_crc` are ignored: they follow from the sections; so is its `version`.
        sections: at least one; each body of at most `MAX_SECTION` bytes. Their order does not matter.

    Raises:
        ValueError: there is no section, one is of an unknown type, or one is too long.
    """
    bodies = {Section(section): bytes(body) for section, body in sections.items()}
    if not bodies:
        raise ValueError("a file needs at least one section")
    for section, body in bodies.items():
        if len(body) > MAX_SECTION:
            raise ValueError(f"section {section.name} must be at most {MAX_SECTION} bytes, not {len(body)}")
    directory = _directory({section: len(body) for section, body in bodies.items()})
    order = [Section(entry.section) for entry in directory]
    checksummed = b"".join(bodies[section] for section in order if _checksummed(header.profile, section))
    complete = replace(header, directory=directory, body_crc=crc32(checksummed))
    return _header_bytes(complete) + b"".join(bodies[section] for section in order)


def header_size(header: Header, lengths: Mapping[Section, int]) -> int:
    """Bytes of the header that `pack` makes for bodies of so many."""
    return replace(header, directory=_directory(lengths)).size


def _directory(lengths: Mapping[Section, int]) -> tuple[Entry, ...]:
    """Entries of sections in their order, of lengths of their bodies."""
    return tuple(Entry(each, each not in METADATA, lengths[each]) for each in _ORDER if each in lengths)


def as_bytes(data: Bytes) -> bytes:
    """The bytes that an object holds, without gaps.

    Raises:
        TypeError: it holds none.
    """
    if isinstance(data, bytes):
        return data
    try:
        return memoryview(data).tobytes()
    except TypeError:
        kind = type(data).__name__
        raise TypeError(f"a file is taken as bytes, not as {kind}: read it first, or open it with Image.open") from None


def unpack(data: Bytes, *, allow_truncated: bool = False) -> Container:
    """Take a file apart and check it, without decoding any section.

    Args:
        data: the complete file, in any object of bytes; what follows its last section is ignored.
        allow_truncated: accept a file that ends early, within or before its sections' bodies. One that ends within
            a body with checksums of its own is accepted anyway.

    Raises:
        TruncatedError: bytes are missing, and that is not allowed or they are the header's.
        CorruptError: a checksum or the structure is wrong.
        UnsupportedError: the major version, the mode or a required section is not known.
        LimitError: the header claims a picture or a section that is too large.
        FormatError: the data are not a `.clric` file; also the base class of all of these.
        TypeError: there are no bytes.
    """
    data = as_bytes(data)
    header = read_header(BytesIO(data))
    missing = header.file_size - len(data)
    places = [
        slice(start, start + length)
        for section, (start, length) in header.spans.items()
        if _checksummed(header.profile, section)
    ]
    complete = all(place.stop <= len(data) for place in places)
    if not complete and not allow_truncated:
        raise TruncatedError(
            f"file is truncated: {missing} of its {header.file_size} bytes are missing; get the whole file again"
        )
    if complete and _crc(data, places) != header.body_crc:
        raise CorruptError("file is damaged: its sections do not match their checksum; get the file again")
    known = {section: header.spans[section] for section in Section if section in header.spans}
    sections = {section: data[start : start + length] for section, (start, length) in known.items()}
    return Container(header, sections, missing > 0)


def _crc(data: bytes, places: Iterable[slice]) -> int:
    """CRC-32 of parts of the data together."""
    view, crc = memoryview(data), 0
    for place in places:
        crc = crc32(view[place], crc)
    return crc


def read_header(fp: BinaryIO) -> Header:
    """Read and check the header from a file that stands at its magic; no byte after the header is read.

    Args:
        fp: read in pieces of at most 8 bytes, about 400 bytes in all at most; it need not be seekable.

    Raises:
        FormatError: as `unpack`, but for what the sections' bodies hold.
    """
    reader = _Reader(fp)
    version = _read_signature(reader)
    (kind,) = reader.take(1)
    width, height = reader.varint(), reader.varint()
    model = reader.take(MODEL_BYTES) if kind & _MODEL_FLAG else b""
    directory = _read_directory(reader)
    mode, profile = kind >> 4 & 7, kind & 15
    body_crc = int.from_bytes(reader.take(4), "little") if _has_body_crc(profile, directory) else 0
    header_crc = crc32(reader.seen)
    if int.from_bytes(reader.take(4), "little") != header_crc:
        raise _corrupt("it does not match its checksum")

    # Only now is it known that these are the numbers that were written.
    _check_size(width, height)
    _check_directory(directory)
    if mode >= len(MODES):
        raise UnsupportedError(f"picture mode {mode} is not known to this version: update pillow-clric")
    return Header(width, height, MODES[mode], profile, model, directory, body_crc, version)


class _Reader:
    """Reads a header piece by piece and keeps what it read, for the checksum."""

    def __init__(self, fp: BinaryIO) -> None:
        self.fp = fp
        self.seen = bytearray()

    def up_to(self, count: int) -> bytes:
        """The next `count` bytes, or fewer at the file's end (raw files may give fewer at once)."""
        start = len(self.seen)
        while (wanted := start + count - len(self.seen)) and (piece := self.fp.read(wanted)):
            self.seen += piece
        return bytes(self.seen[start:])

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        piece = self.up_to(count)
        if len(piece) < count:
            raise TruncatedError(
                f"file is truncated: it ends in its header, after {len(self.seen)} bytes; get the whole file again"
            )
        return piece

    def varint(self) -> int:
        """The next number, as `varint` writes it."""
        value = 0
        for index in range(_VARINT_BYTES):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if index and not byte:
                    raise _corrupt("a number has needless zeros")
                return value
        raise _corrupt("a number does not end")


def _read_signature(reader: _Reader) -> tuple[int, int]:
    """The format's version; what is not a `.clric` file of this major version is refused."""
    magic = reader.up_to(len(MAGIC))
    if not MAGIC.startswith(magic):
        raise FormatError("not a .clric file: it does not begin with the format's signature")
    if len(magic) < len(MAGIC):
        raise TruncatedError(f"file is truncated: it has only {len(magic)} bytes; get the whole file again")
    (version,) = reader.take(1)
    major, minor = version >> 4, version & 15
    if major > VERSION[0]:
        raise UnsupportedError(
            f"file is format version {major}.{minor}, this reader knows {VERSION[0]}.x: update pillow-clric"
        )
    if major < VERSION[0]:
        raise _corrupt(f"there is no format version {major}.{minor}")
    return major, minor


def _read_directory(reader: _Reader) -> tuple[Entry, ...]:
    """The entries as written. Types are unique, so there are few of them whatever a file claims."""
    entries: dict[int, Entry] = {}
    more = True
    while more:
        (tag,) = reader.take(1)
        section, more = tag & _TYPE_BITS, bool(tag & _MORE)
        if section == 0 or section in entries:
            raise _corrupt(f"a section of type {section} cannot stand there")
        entries[section] = Entry(section, bool(tag & _REQUIRED), reader.varint())
    return tuple(entries.values())


def _check_size(width: int, height: int) -> None:
    if not width or not height:
        raise _corrupt(f"a picture of {width} x {height} has no pixels")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise LimitError(
            f"file claims a picture of {width} x {height} pixels: the format has at most {MAX_PIXELS} pixels, "
            f"and {MAX_SIDE} a side; do not trust this file"
        )


def _check_directory(directory: tuple[Entry, ...]) -> None:
    known = set(Section)
    for entry in directory:
        if entry.required and entry.section not in known:
            raise UnsupportedError(
                f"file needs a section of type {entry.section}, not known to this version: update pillow-clric"
            )
        if entry.length > MAX_SECTION:
            raise LimitError(
                f"file claims a section of {entry.length} bytes: the format has at most {MAX_SECTION}; "
                "do not trust this file"
            )


def _checksummed(profile: int, section: int) -> bool:
    """Whether `Header.body_crc` covers a section's body."""
    return section != Section.PACKETS and not _grids_in_packets(profile, section)


def _grids_in_packets(profile: int, section: int) -> bool:
    return section == Section.GRIDS and profile in _GRIDS_IN_PACKETS


def _has_body_crc(profile: int, directory: Iterable[Entry]) -> bool:
    """Whether a file has a `Header.body_crc`.

    Also one with PACKETS only, whose checksum is of no bytes: older readers expect one, and so get as far as naming
    the section that they do not know.
    """
    return not all(_grids_in_packets(profile, entry.section) for entry in directory)


def _corrupt(what: str) -> CorruptError:
    return CorruptError(f"file's header is damaged: {what}; get the file again")


def _header_bytes(header: Header) -> bytes:
    """The header as the file holds it. Numbers have one encoding only, so its length is the one that was read."""
    kind = header.profile | MODES.index(header.mode) << 4 | (_MODEL_FLAG if header.model else 0)
    head = MAGIC + bytes([VERSION[0] << 4 | VERSION[1], kind])
    head += varint(header.width) + varint(header.height) + header.model
    last = len(header.directory) - 1
    for index, entry in enumerate(header.directory):
        flags = (_REQUIRED if entry.required else 0) | (_MORE if index < last else 0)
        head += bytes([entry.section | flags]) + varint(entry.length)  # `entry_size` bytes
    if _has_body_crc(header.profile, header.directory):
        head += header.body_crc.to_bytes(4, "little")
    return head + crc32(head).to_bytes(4, "little")


def entry_size(length: int) -> int:
    """Bytes of the directory's entry for a section of so many."""
    return 1 + len(varint(length))


def varint(value: int) -> bytes:
    """A number as files hold it: seven bits a byte, low bits first, in as few bytes as it needs."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
