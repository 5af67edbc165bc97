"""The container's public interface, against files built by hand from the specification."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.container import (
    MAGIC,
    MAX_PIXELS,
    MAX_SECTION,
    MAX_SIDE,
    MODEL_BYTES,
    MODES,
    VERSION,
    Container,
    CorruptError,
    Entry,
    FormatError,
    Header,
    LimitError,
    Section,
    TruncatedError,
    UnsupportedError,
    entry_size,
    pack,
    read_header,
    unpack,
)

MODEL = bytes(range(8))
HEADER = Header(width=768, height=512, mode="RGB", profile=1, model=MODEL)
SECTIONS = {Section.XMP: b"<x/>", Section.WEIGHTS: b"weights", Section.GRIDS: b"coarse to fine"}
FORMAT_MD = Path(__file__).parent.parent / "docs" / "FORMAT.md"

headers = st.builds(
    Header,
    width=st.integers(1, 2**14),
    height=st.integers(1, 2**14),
    mode=st.sampled_from(MODES),
    profile=st.integers(0, 15),
    model=st.just(b"") | st.binary(min_size=MODEL_BYTES, max_size=MODEL_BYTES),
)
bodies = st.dictionaries(st.sampled_from(Section), st.binary(max_size=300), min_size=1)


def build(
    directory: bytes = b"\x42\x05",
    tail: bytes = b"grids",
    version: int = 0x10,
    kind: int = 0x10,
    size: bytes = b"\x80\x06\x80\x04",
) -> bytes:
    """A file as the specification says, from raw parts: here any of them may be wrong, but no checksum is."""
    head = b"\x8bCL" + bytes([version, kind]) + size + directory + crc32(tail).to_bytes(4, "little")
    return head + crc32(head).to_bytes(4, "little") + tail


def varint(value: int) -> bytes:
    """Numbers of up to five bytes."""
    groups = [value >> shift & 0x7F for shift in range(0, 35, 7)]
    while len(groups) > 1 and not groups[-1]:
        groups.pop()
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


class Counted(BytesIO):
    """A file that hands out at most one byte a read, as a raw stream may, and keeps the sizes asked for."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.asked: list[int] = []

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        self.asked.append(size)
        return super().read(min(size, 1))


# Round trips


@given(headers, bodies)
def test_round_trip(header: Header, sections: dict[Section, bytes]) -> None:
    data = pack(header, sections)
    container = unpack(data)
    assert container.sections == sections
    assert not container.truncated
    read = container.header
    assert replace(read, directory=(), body_crc=0) == header
    assert read == read_header(BytesIO(data))
    assert read.file_size == len(data)
    for section, (offset, length) in read.spans.items():
        assert data[offset : offset + length] == sections[Section(section)]
    assert pack(read, sections) == data  # what a header holds of another file does not matter
    assert unpack(data + b"the stream goes on") == container


@pytest.mark.parametrize("size", [(1, 1), (MAX_SIDE, 1), (1, MAX_SIDE), (2**14, 2**14), (127, 128), (16383, 16384)])
def test_round_trip_at_the_bounds(size: tuple[int, int]) -> None:
    header = Header(*size, mode="L", profile=15)
    assert header.width * header.height <= MAX_PIXELS
    read = unpack(pack(header, {Section.GRIDS: b""})).header
    assert (read.width, read.height, read.mode, read.profile, read.model) == (*size, "L", 15, b"")


def test_order_and_flags() -> None:
    data = pack(HEADER, dict.fromkeys(reversed(Section), b"1"))
    assert read_header(BytesIO(data)).directory == (
        Entry(Section.COLOUR, False, 1),
        Entry(Section.ICC, False, 1),
        Entry(Section.EXIF, False, 1),
        Entry(Section.XMP, False, 1),
        Entry(Section.ALPHA, True, 1),
        Entry(Section.WEIGHTS, True, 1),
        Entry(Section.GRIDS, True, 1),
        Entry(Section.PACKETS, True, 1),
        Entry(Section.ENHANCEMENT, True, 1),
    )


def test_bytes_are_those_of_the_specification() -> None:
    assert pack(Header(768, 512, "RGB", 0), {Section.GRIDS: b"grids"}) == build()
    assert VERSION == (1, 0)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 2**14 - 1, 2**14])
def test_entry_of_a_section(length: int) -> None:
    one, two = ({Section.GRIDS: b"grids", **more} for more in ({}, {Section.XMP: bytes(length)}))
    assert len(pack(HEADER, two)) - len(pack(HEADER, one)) == length + entry_size(length)


def test_overhead() -> None:
    sections = {Section.WEIGHTS: bytes(2**14 - 1), Section.GRIDS: bytes(2**21 - 1)}
    for header, overhead in ((HEADER, 32), (replace(HEADER, model=b""), 24)):
        data = pack(header, sections)
        assert len(data) - sum(map(len, sections.values())) == overhead
        assert unpack(data).header.size == overhead


def test_example_in_the_specification() -> None:
    example = FORMAT_MD.read_text("utf-8").partition("<!-- example -->")[2].split("```")[1]
    lines = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} )*[0-9a-f]{2})", example, re.MULTILINE)
    data = bytes.fromhex(" ".join(lines))
    sections = {Section.XMP: b"<x/>", Section.WEIGHTS: b"weights", Section.GRIDS: b"grids"}
    header = Header(width=768, height=512, mode="RGB", profile=1, model=bytes.fromhex("9f86d081884c7d65"))
    assert data == pack(header, sections)
    assert unpack(data).sections == sections


# Reading from a file object


def test_read_header_reads_the_header_only() -> None:
    data = pack(HEADER, SECTIONS)
    fp = Counted(data)
    header = read_header(fp)
    assert header == unpack(data).header
    assert fp.tell() == header.size
    assert max(fp.asked) <= 8


def test_read_header_begins_where_the_file_stands() -> None:
    fp = BytesIO(b"stream" + pack(HEADER, SECTIONS))
    fp.seek(6)
    assert read_header(fp).model == MODEL


def test_header_of_an_endless_file_is_bounded() -> None:
    endless = b"\x8bCL\x10\x90" + b"\x80\x80\x80\x80\x01" * 2 + MODEL
    endless += b"".join(bytes([0x80 | kind]) + b"\x80\x80\x80\x80\x01" for kind in range(1, 64)) * 9
    fp = Counted(endless)
    with pytest.raises(CorruptError):
        read_header(fp)
    assert fp.tell() < 420


def test_import_needs_neither_numpy_nor_torch() -> None:
    code = "import sys, codec.container; sys.exit(not {'numpy', 'torch'}.isdisjoint(sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=FORMAT_MD.parent.parent)


# Damage


def test_every_corrupt_byte_is_found() -> None:
    data = pack(HEADER, SECTIONS)
    for position in range(len(data)):
        for change in range(1, 256):
            damaged = bytearray(data)
            damaged[position] ^= change
            for allow_truncated in (False, True):
                with pytest.raises(FormatError) as error:
                    unpack(bytes(damaged), allow_truncated=allow_truncated)
                assert str(error.value)


def test_every_truncation_is_found() -> None:
    data = pack(HEADER, SECTIONS)
    for length in range(len(data)):
        with pytest.raises(TruncatedError, match="truncated"):
            unpack(data[:length])
    with pytest.raises(TruncatedError, match=f"3 of its {len(data)} bytes"):
        unpack(data[:-3])


def test_truncated_bodies_are_given_as_far_as_they_go() -> None:
    data = pack(HEADER, SECTIONS)
    whole = unpack(data)
    for length in range(len(data)):
        if length < whole.header.size:
            with pytest.raises(TruncatedError):
                unpack(data[:length], allow_truncated=True)
            continue
        container = unpack(data[:length], allow_truncated=True)
        assert container.truncated
        assert container.header == whole.header
        assert all(whole.sections[key].startswith(body) for key, body in container.sections.items())
        assert sum(map(len, container.sections.values())) == length - whole.header.size
    assert unpack(data, allow_truncated=True) == whole


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes(data: bytes, allow_truncated: bool) -> None:
    for candidate in (data, b"\x8bCL\x10" + data):
        try:
            assert isinstance(unpack(candidate, allow_truncated=allow_truncated), Container)
        except FormatError as error:
            assert str(error)


@settings(max_examples=300)
@given(
    directory=st.binary(max_size=20),
    tail=st.binary(max_size=40),
    version=st.integers(16, 31),
    kind=st.integers(0, 255),
    size=st.binary(max_size=4) | st.just(b"\x80\x06\x80\x04"),
    allow_truncated=st.booleans(),
)
def test_any_header_with_right_checksums(
    directory: bytes, tail: bytes, version: int, kind: int, size: bytes, allow_truncated: bool
) -> None:
    try:
        container = unpack(build(directory, tail, version, kind, size), allow_truncated=allow_truncated)
    except FormatError as error:
        assert str(error)
    else:
        assert all(len(body) <= len(tail) for body in container.sections.values())


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n", b"\x8bCX\x10", b"\x0bCL\x10"])
def test_other_files(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"not a \.clric file"):
        unpack(data)


# Versions and extensions


def test_newer_major_is_refused_by_name() -> None:
    message = re.escape("file is format version 2.0, this reader knows 1.x: update pillow-clric")
    for data in (build(version=0x20), MAGIC + b"\x20", MAGIC + b"\x20\xff\xff\xff\xff\xff\xff\xff"):
        with pytest.raises(UnsupportedError, match=message):
            read_header(BytesIO(data))


def test_newer_minor_is_read() -> None:
    newer, known = unpack(build(version=0x1F)), unpack(build())
    assert (newer.header.version, known.header.version) == ((1, 15), VERSION)
    assert replace(newer, header=known.header) == known


def test_major_zero_is_corrupt() -> None:
    with pytest.raises(CorruptError, match=r"0\.3"):
        unpack(build(version=0x03))


def test_unknown_optional_section_is_skipped() -> None:
    container = unpack(build(b"\xbf\x03\x42\x05", b"newgrids"))
    assert container.sections == {Section.GRIDS: b"grids"}
    assert container.header.directory[0] == Entry(63, False, 3)


def test_unknown_required_section_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="type 63"):
        read_header(BytesIO(build(b"\xff\x03\x42\x05", b"newgrids")))


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="mode 4"):
        unpack(build(kind=0x40))


# Structure and limits


@pytest.mark.parametrize(
    "data",
    [
        build(b"\xc2\x05\x42\x00"),  # the same type twice
        build(b"\x40\x05"),  # type 0
        build(b"\x42\x85\x00"),  # a length in more bytes than it needs
        build(b"\x42\x80\x80\x80\x80\x80\x01"),  # a length of more than five bytes
        build(size=b"\x00\x01"),
        build(size=b"\x01\x00"),
    ],
)
def test_wrong_structure(data: bytes) -> None:
    with pytest.raises(CorruptError, match="header is damaged"):
        unpack(data)


@pytest.mark.parametrize(
    "data",
    [
        build(size=varint(MAX_SIDE + 1) + varint(1)),
        build(size=varint(1) + varint(2**35 - 1)),
        build(size=varint(2**14) + varint(2**14 + 1)),
        build(b"\x42" + varint(MAX_SECTION + 1)),
        build(b"\x42" + varint(2**35 - 1)),
    ],
)
def test_large_claims_are_refused(data: bytes) -> None:
    with pytest.raises(LimitError, match="claims"):
        read_header(BytesIO(data))


def test_nothing_is_allocated_by_claims() -> None:
    data = build(b"".join(bytes([tag]) + varint(MAX_SECTION) for tag in (0x84, 0x85, 0x86, 0xC3, 0xC1, 0x42)))
    tracemalloc.start()
    try:
        container = unpack(data, allow_truncated=True)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert container.sections[Section.ICC] == b"grids"
    assert container.sections[Section.GRIDS] == b""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width"),
        ({"height": -1}, "height"),
        ({"width": MAX_SIDE + 1}, "width"),
        ({"height": MAX_SIDE + 1}, "height"),
        ({"width": 2**14, "height": 2**14 + 1}, "pixels"),
        ({"mode": "CMYK"}, "mode"),
        ({"profile": 16}, "profile"),
        ({"profile": -1}, "profile"),
        ({"model": b"short"}, "model"),
        ({"model": bytes(32)}, "model"),
    ],
)
def test_header_checks_its_fields(changes: dict[str, object], message: str) -> None:
    fields = {"width": 768, "height": 512, "mode": "RGB", "profile": 0, "model": b""}
    with pytest.raises(ValueError, match=message):
        Header(**{**fields, **changes})  # type: ignore[arg-type]


def test_pack_checks_its_sections() -> None:
    with pytest.raises(ValueError, match="at least one"):
        pack(HEADER, {})
    with pytest.raises(ValueError, match="63"):
        pack(HEADER, {63: b"new"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="GRIDS must be at most"):
        pack(HEADER, {Section.GRIDS: bytes(MAX_SECTION + 1)})
