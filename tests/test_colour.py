"""What colours mean: profiles that become a byte, the section COLOUR, and conversions to sRGB."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from io import BytesIO

import numpy as np
import pytest
import reader
from conftest import FastProfile, display_p3, icc_profile, opened, saved
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

import pillow_clric
from codec import CorruptError, FormatError, Header, Section, UnsupportedError, colour, icc, pack, unpack

SRGB_COLUMNS = {b"r": (0x6FA2, 0x38F5, 0x0390), b"g": (0x6299, 0xB785, 0x18DA), b"b": (0x24A0, 0x0F84, 0xB6CF)}
CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def xyz(*values: int) -> bytes:
    return b"XYZ " + struct.pack(">4x3i", *values)


def curv(*values: int) -> bytes:
    return b"curv" + struct.pack(f">4xI{len(values)}H", len(values), *values)


def para(kind: int, *values: float) -> bytes:
    return b"para" + struct.pack(f">4xH2x{len(values)}i", kind, *(round(65536 * value) for value in values))


def table(points: int) -> bytes:
    """sRGB's curve as a table, as profiles of version 2 have it."""
    x = np.linspace(0, 1, points)
    y = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    return curv(*np.rint(y * 65535).astype(int).tolist())


def rgb(curve: bytes, columns: dict[bytes, tuple[int, int, int]] = SRGB_COLUMNS, **tags: bytes) -> bytes:
    """A profile with one curve; of the colours of HP's sRGB unless given."""
    found = {b"wtpt": xyz(0xF351, 0x10000, 0x116CC), **{channel + b"TRC": curve for channel in columns}}
    found |= {channel + b"XYZ": xyz(*column) for channel, column in columns.items()}
    return icc_profile(b"RGB ", b"mntr", found | {name.encode(): body for name, body in tags.items()})


def grey(curve: bytes) -> bytes:
    return icc_profile(b"GRAY", b"mntr", {b"wtpt": xyz(0xF6D6, 0x10000, 0xD32D), b"kTRC": curve})


ADOBE = {b"r": (0x9C18, 0x4FA5, 0x04FC), b"g": (0x348D, 0xA02C, 0x0F95), b"b": (0x2631, 0x102F, 0xBE9C)}
APPLE_P3 = {b"r": (0x83DF, 0x3DBF, -69), b"g": (0x4ABF, 0xB137, 0x0AB9), b"b": (0x2838, 0x110B, 0xC8B9)}
GOOGLE = {b"r": (0x6FA0, 0x38F5, 0x0390), b"g": (0x6297, 0xB787, 0x18D9), b"b": (0x249F, 0x0F84, 0xB6C3)}
CANON = {b"r": (0x6FA0, 0x38F2, 0x038F), b"g": (0x6296, 0xB789, 0x18DA), b"b": (0x24A0, 0x0F85, 0xB6C4)}

# Those that cameras, browsers and programs write, by the number of their space
KNOWN = {
    "HP": (1, rgb(table(1024))),
    "Nikon, a table of 4096": (1, rgb(table(4096))),
    "tiny, a table of 42": (1, rgb(table(42), CANON)),
    "Canon": (1, rgb(table(1024), CANON)),
    "Apple and ICC, version 4": (1, rgb(para(3, *CURVE), GOOGLE)),
    "seven parameters": (1, rgb(para(4, *CURVE, 0, 0))),
    "Skia": (1, rgb(para(3, *CURVE), chad=b"sf32" + struct.pack(">4x9i", *icc.D65))),
    "LittleCMS": (1, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    "Display P3": (2, rgb(para(3, *CURVE), APPLE_P3)),
    "Display P3, version 2": (2, rgb(table(1024), APPLE_P3)),
    "Adobe RGB (1998)": (3, rgb(curv(0x233), ADOBE)),
    "sRGB with a gamma": (4, rgb(curv(0x233))),
    "grey with sRGB's curve": (1, grey(table(1024))),
    "grey with sRGB's curve, version 4": (1, grey(para(3, *CURVE))),
    "grey gamma 2.2": (3, grey(curv(0x233))),
}
OTHERS = {
    "linear": rgb(curv()),
    "gamma 1.8": rgb(curv(0x1CD)),
    "P3 with a gamma": display_p3(),
    "other colours": rgb(table(1024), SRGB_COLUMNS | {b"r": (0x6FA2, 0x38F5 + 900, 0x0390)}),
    "channels swapped": rgb(table(1024), dict(zip(SRGB_COLUMNS, reversed(SRGB_COLUMNS.values()), strict=True))),
    "tables, too": rgb(table(1024), A2B0=b"mft2" + bytes(60)),
    "an HDR code, too": rgb(table(1024), cicp=b"cicp" + bytes([0, 0, 0, 0, 9, 16, 0, 1])),
    "a printer": rgb(table(1024)).replace(b"mntr", b"prtr"),
    "Lab": rgb(table(1024)).replace(b"mntrRGB XYZ ", b"mntrRGB Lab "),
    "a channel of its own": rgb(table(1024), bTRC=curv(0x233)),
    "grey gamma 1.8": grey(curv(0x1CD)),
}


def colours_of(profile: bytes) -> NDArray[np.int64]:
    """Colours all over the space, or its greys, in sRGB by LittleCMS."""
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    levels = np.arange(256, dtype=np.uint8)[None]
    image = Image.fromarray(levels)
    if source.profile.xcolor_space.strip() == "RGB":
        grid = np.stack(np.meshgrid(*[levels[0, ::15]] * 3), axis=-1).reshape(1, -1, 3)
        image = Image.fromarray(np.concatenate([grid, np.repeat(levels[:, :, None], 3, axis=2)], axis=1))
    found = ImageCms.profileToProfile(
        image, source, ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB"
    )
    return np.asarray(found).astype(int)


@pytest.mark.parametrize("name", KNOWN)
def test_well_known_profiles_are_a_byte(name: str, photo: Image.Image, fast_profile: FastProfile) -> None:
    number, profile = KNOWN[name]
    picture = photo.convert("L") if b"GRAY" in profile[:20] else photo
    plain, data = pillow_clric.encode(picture), pillow_clric.encode(picture, icc_profile=profile)
    assert len(data) == len(plain) + 3
    assert unpack(data).sections[Section.COLOUR] == bytes([number])
    back = opened(data).info["icc_profile"]
    assert np.abs(colours_of(profile) - colours_of(back)).max() <= 1
    assert saved(opened(data)).info["icc_profile"] == back
    assert pillow_clric.info(data).colour == colour.SPACES[number].name


@pytest.mark.parametrize("name", OTHERS)
def test_other_profiles_are_kept(name: str, photo: Image.Image, fast_profile: FastProfile) -> None:
    profile = OTHERS[name]
    picture = photo.convert("L") if b"GRAY" in profile[:20] else photo
    data = pillow_clric.encode(picture, icc_profile=profile)
    assert opened(data).info["icc_profile"] == profile
    assert len(data) < len(pillow_clric.encode(picture)) + len(profile) * 0.9
    assert pillow_clric.info(data).colour == "ICC profile"


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("number", colour.SPACES)
def test_profiles_of_the_spaces(number: int, grey: bool) -> None:
    profile = colour.profile(bytes([number]), grey=grey)
    found = ImageCms.ImageCmsProfile(BytesIO(profile)).profile
    assert found.profile_description == colour.SPACES[number].name + " grey" * grey
    assert (found.version, found.xcolor_space.strip()) == (4.3, "GRAY" if grey else "RGB")
    assert len(profile) <= 492
    assert profile == reader.colour(bytes([number]), 2 if grey else 1)
    columns = ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), (0.3127, 0.329))
    assert icc.primaries(columns) == colour.SPACES[1].display


def test_a_section_of_before_is_read(photo: Image.Image, fast_profile: FastProfile) -> None:
    """And written where it is smaller."""
    found = unpack(pillow_clric.encode(photo))
    for profile in (KNOWN["HP"][1], b"tiny"):
        data = pack(found.header, {**found.sections, Section.ICC: profile})
        assert opened(data).info["icc_profile"] == profile
        assert pillow_clric.info(data).colour == "ICC profile"
    assert pillow_clric.encode(photo, icc_profile=b"tiny") == data


@given(st.binary(max_size=300) | st.binary(max_size=40).map(lambda some: some * 50))
def test_any_bytes_come_back(profile: bytes) -> None:
    for section, body in colour.sections(profile).items():
        if section == Section.COLOUR:
            assert colour.profile(body, grey=False) == reader.colour(body, 1) == profile
        else:
            assert body == profile


@given(st.sampled_from([profile for _, profile in KNOWN.values()]), st.data())
def test_damaged_profiles_are_kept_or_look_the_same(profile: bytes, data: st.DataObject) -> None:
    """Whatever is in them, reading them raises nothing."""
    damaged = bytearray(profile)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(profile)))
        damaged[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    [(section, body)] = colour.sections(bytes(damaged)).items()
    if section == Section.ICC or body[0] == 0:
        assert body == damaged or colour.profile(body, grey=False) == damaged
    else:
        found, known = icc.read(bytes(damaged)), icc.read(profile)
        assert found is not None
        assert known is not None
        assert np.abs(found.curves - known.curves).max() < 0.02
        assert np.abs(found.columns - known.columns).max() < 0.02


def deflated(data: bytes) -> bytes:
    return zlib.compress(data, 9, -15)


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\0garbage", b"\0" + deflated(bytes(100))[:-1], b"\0" + deflated(b"more") + b"?"]
)
def test_damaged_sections_are_refused(body: bytes) -> None:
    with pytest.raises(CorruptError, match=r"colour profile .*get the file again"):
        opened(with_colour(body))


def test_bombs_are_refused() -> None:
    data = with_colour(b"\0" + deflated(bytes(2**28)))
    tracemalloc.start()
    with pytest.raises(CorruptError, match="colour profile"):
        opened(data)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_large_profiles_are_kept() -> None:
    for size, section in ((2**24, Section.COLOUR), (2**24 + 1, Section.ICC)):
        [(found, body)] = colour.sections(bytes(size)).items()
        assert found == section
        assert opened(with_section(found, body)).info["icc_profile"] == bytes(size)


@given(st.binary(max_size=60))
def test_any_section_is_a_profile_or_an_error(body: bytes) -> None:
    try:
        colour.profile(body, grey=True)
    except FormatError as error:
        assert "get the file again" in str(error) or "update" in str(error)


def test_unknown_spaces_are_skipped() -> None:
    data = with_colour(b"\xc8")
    with pytest.raises(UnsupportedError, match="update"):
        colour.profile(b"\xc8", grey=False)
    with pytest.warns(UserWarning, match=r"colour space 200 .*update pillow-clric.*sRGB"):
        assert "icc_profile" not in opened(data).info
    assert pillow_clric.info(data).colour == "unknown (200)"


def with_section(section: Section, body: bytes) -> bytes:
    return pack(Header(4, 4, "RGB", 15), {section: body, Section.GRIDS: b""})


def with_colour(body: bytes) -> bytes:
    return with_section(Section.COLOUR, body)
