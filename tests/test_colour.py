"""What colours mean: profiles that become a byte, the section COLOUR, and conversions to sRGB."""

from __future__ import annotations

import re
import struct
import tracemalloc
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reader
from click.testing import CliRunner
from conftest import EXIF, display_p3, icc_profile, opened, saved
from fast_profile import FastProfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

import codec
import pillow_clric
from codec import CorruptError, FormatError, Header, Section, UnsupportedError, colour, icc, pack, unpack
from pillow_clric import _opened, cli
from pillow_clric.convert.formats import to_format

pytestmark = pytest.mark.usefixtures("one_core")

SRGB_COLUMNS = {b"r": (0x6FA2, 0x38F5, 0x0390), b"g": (0x6299, 0xB785, 0x18DA), b"b": (0x24A0, 0x0F84, 0xB6CF)}
CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def xyz(*values: int) -> bytes:
    return b"XYZ " + struct.pack(">4x3i", *values)


def curv(*values: int) -> bytes:
    return b"curv" + struct.pack(f">4xI{len(values)}H", len(values), *values)


def para(kind: int, *values: float) -> bytes:
    return b"para" + struct.pack(f">4xH2x{len(values)}i", kind, *(round(65536 * value) for value in values))


def cicp(primaries: int, transfer: int) -> bytes:
    return b"cicp" + bytes([0, 0, 0, 0, primaries, transfer, 0, 1])


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
    "with a code that says the same": (1, rgb(para(3, *CURVE), cicp=cicp(1, 13))),
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
    "an HDR code, too": rgb(table(1024), cicp=cicp(9, 16)),
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


def test_colour_counts_more_than_a_profile(photo: Image.Image, fast_profile: FastProfile) -> None:
    """But not if it is not known."""
    found = unpack(pillow_clric.encode(photo, icc_profile=None))
    for body, wanted in ((b"\2", KNOWN["Display P3"][1]), (b"\x77", b"profile")):
        data = pack(found.header, {**found.sections, Section.COLOUR: body, Section.ICC: b"profile"})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            profile = opened(data).info["icc_profile"]
        assert colour.recognise(profile) == colour.recognise(wanted)
        assert (profile == b"profile") == (wanted == b"profile")


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


def test_tags_that_share_their_places_take_no_memory() -> None:
    """Each of some ten thousand may be all of a profile of a megabyte."""
    tags = b"".join(struct.pack(">4sII", struct.pack(">I", i), 1, 2**20) for i in range(2**16))
    profile = icc.write("grey", (2.2,), None)[:128] + struct.pack(">I", 2**16) + tags
    profile += bytes(2**20 - len(profile))
    tracemalloc.start()
    assert icc.codes(profile) == (0, 0)
    assert icc.read(profile) is None
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def deflated(data: bytes) -> bytes:
    return zlib.compress(data, 9, -15)


@pytest.mark.parametrize(
    "body", [b"", b"\1\1", b"\0", b"\0garbage", b"\0" + deflated(bytes(100))[:-1], b"\0" + deflated(b"more") + b"?"]
)
def test_damaged_sections_are_refused(body: bytes, photo: Image.Image, fast_profile: FastProfile) -> None:
    found = unpack(pillow_clric.encode(photo))
    data = pack(found.header, {**found.sections, Section.COLOUR: body})
    for read in (opened, codec.verify):
        with pytest.raises(CorruptError, match=r"colour profile .*get the file again"):
            read(data)
    with pytest.raises((reader.DamagedError, zlib.error)):
        reader.colour(body, 1)


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


def test_unknown_spaces_are_skipped(photo: Image.Image, fast_profile: FastProfile) -> None:
    data = with_colour(b"\xc8")
    with pytest.raises(UnsupportedError, match="update"):
        colour.profile(b"\xc8", grey=False)
    with pytest.warns(UserWarning, match=r"colour space 200 .*update pillow-clric.*sRGB"):
        assert "icc_profile" not in opened(data).info
    assert pillow_clric.info(data).colour == "unknown (200)"
    found = unpack(pillow_clric.encode(photo))
    codec.verify(pack(found.header, {**found.sections, Section.COLOUR: b"\xc8"}))


def with_section(section: Section, body: bytes) -> bytes:
    return pack(Header(4, 4, "RGB", 15), {section: body, Section.GRIDS: b""})


def with_colour(body: bytes) -> bytes:
    return with_section(Section.COLOUR, body)


# To sRGB


def run(*arguments: str | Path) -> str:
    """Run the command, and return what it writes to stderr."""
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    return f"{result.exit_code} {result.stderr}"


GREY_18 = grey(curv(0x1CD))
CASES = {"RGB": display_p3(), "RGBA": KNOWN["Adobe RGB (1998)"][1], "L": GREY_18, "LA": KNOWN["grey gamma 2.2"][1]}


def picture(photo: Image.Image, mode: str) -> Image.Image:
    """`photo` in a mode, with a profile of colours or greys other than sRGB's."""
    if mode.endswith("A"):
        photo = photo.copy()
        photo.putalpha(Image.linear_gradient("L").resize(photo.size).point(lambda value: max(value, 1)))
    made = photo.convert(mode)
    made.info["icc_profile"] = CASES[mode]
    return made


def as_seen(image: Image.Image) -> NDArray[np.int64]:
    """Samples of sRGB, and alpha, by the image's profile: LittleCMS's, by itself."""
    profile = image.info.get("icc_profile")
    colours = image.convert(image.mode.removesuffix("A"))
    if profile:
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        srgb = ImageCms.createProfile("sRGB")
        found = ImageCms.profileToProfile(colours, BytesIO(profile), srgb, intent, "RGB", flags=flags)
        assert found is not None
        colours = found
    alpha = image.getchannel("A") if image.mode.endswith("A") else Image.new("L", image.size, 255)
    return np.dstack([np.asarray(colours.convert("RGB")), np.asarray(alpha)]).astype(int)


def alike(one: Image.Image, other: Image.Image, tolerance: int = 1) -> bool:
    return bool(np.abs(as_seen(one) - as_seen(other)).max() <= tolerance)


@pytest.mark.parametrize("mode", CASES)
def test_stripped_photos_look_the_same(
    mode: str, photo: Image.Image, tmp_path: Path, fast_profile: FastProfile
) -> None:
    source = picture(photo, mode)
    assert np.abs(as_seen(source) - as_seen(photo.convert(mode))).max() > 8  # the profile makes a difference
    source.save(tmp_path / "a.png", icc_profile=source.info["icc_profile"])
    assert run(tmp_path / "a.png", "--strip").startswith("0")
    with Image.open(tmp_path / "a.clric") as image:
        assert image.info == {}
        assert image.mode == mode
        assert alike(image, source)

    saved(source).save(tmp_path / "b.clric")
    assert run(tmp_path / "b.clric", "--strip", "-o", tmp_path / "b.png").startswith("0")
    with Image.open(tmp_path / "b.png") as image:
        assert "icc_profile" not in image.info
        assert image.mode == mode
        assert alike(image, source)


@pytest.mark.parametrize(
    "suffix", [".bmp", ".gif", ".ico", ".jp2", ".tga", ".ppm", ".tif", ".png", ".webp", ".avif", ".jpg"]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_other_formats_look_the_same(mode: str, suffix: str, photo: Image.Image, fast_profile: FastProfile) -> None:
    """With a profile or, where there is no place for one that fits, in sRGB."""
    source = saved(picture(Image.new(photo.mode, (32, 32), (40, 90, 160)), mode), exif=EXIF)
    image = opened(to_format(source, suffix, 100))
    image.load()
    profile = image.info.get("icc_profile")
    assert alike(image.convert("RGB" if image.mode in ("P", "RGBA") else image.mode), source, 4)
    assert not profile or profile[16:19] == image.mode.encode()[:3] or (image.mode, profile[16:20]) == ("L", b"GRAY")
    assert bool(profile) == (suffix in (".tif", ".png", ".jpg") or (suffix in (".webp", ".avif") and mode == "RGB"))
    if suffix in (".png", ".jpg", ".webp", ".avif"):
        assert image.getexif()[0x010F] == "Maker"


def test_profiles_that_a_format_cannot_hold(photo: Image.Image, fast_profile: FastProfile) -> None:
    """Pillow opens no PNG file with a profile of more than a megabyte."""
    large = rgb(curv(), meta=bytes(2_000_000))
    source = saved(photo, icc_profile=large)
    assert source.info["icc_profile"] == large
    image = opened(to_format(source, ".png", 95))
    assert alike(image, source)
    assert opened(to_format(source, ".jpg", 95)).info["icc_profile"] == large


def test_black_stays_black(fast_profile: FastProfile) -> None:
    """Of a display whose black is a dark grey, too: black point compensation."""
    photo = Image.new("RGB", (2, 2))
    photo.info["icc_profile"] = rgb(curv(*range(6000, 65536, 500)))
    image = opened(to_format(saved(photo), ".bmp", 95))
    assert image.getpixel((0, 0)) == (0, 0, 0)


def test_icons(photo: Image.Image) -> None:
    assert opened(to_format(photo, ".ico", 95)).size == photo.size
    for suffix, size in ((".ico", (257, 8)), (".ico", (8, 257)), (".icns", (64, 64))):
        with pytest.raises(ValueError, match=rf"{suffix} files hold icons.*{size[0]} x {size[1]}: choose another"):
            to_format(photo.resize(size), suffix, 95)


# Modes and profiles


def grey_palette() -> Image.Image:
    image = Image.linear_gradient("L").resize((8, 8)).convert("P")
    image.putpalette([value for value in range(256) for _ in range(3)])
    return image


@pytest.mark.parametrize("profile", [rgb(curv()), KNOWN["Adobe RGB (1998)"][1], KNOWN["HP"][1], display_p3()])
def test_palettes_of_greys_look_the_same(profile: bytes, fast_profile: FastProfile) -> None:
    image = grey_palette()
    image.info["icc_profile"] = profile
    coloured = image.convert("RGB")
    coloured.info["icc_profile"] = profile
    assert alike(saved(image), coloured)
    assert saved(image).mode == ("L" if colour.recognise(profile) else "RGB")


@pytest.mark.parametrize("number", colour.SPACES)
def test_greys_of_photos_look_the_same(number: int, photo: Image.Image, fast_profile: FastProfile) -> None:
    """A photo made grey keeps the profile of what it was in `info`, as Pillow does."""
    photo.info["icc_profile"] = colour.SPACES[number].profile(grey=False)
    found = saved(photo.convert("L"))
    coloured = photo.convert("L").convert("RGB")
    assert alike(found, coloured)


@pytest.mark.parametrize("profile", [grey(curv()), GREY_18, KNOWN["grey with sRGB's curve"][1]])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_greys_in_colours_with_a_profile_for_greys(
    mode: str, profile: bytes, photo: Image.Image, fast_profile: FastProfile
) -> None:
    """Such as a PNG file of greys of 16 bits with alpha, of which Pillow makes RGBA."""
    image = grey_palette() if mode == "P" else photo.convert("L").convert(mode)
    meant = image.convert("LA" if mode == "RGBA" else "L")
    image.info["icc_profile"] = meant.info["icc_profile"] = profile
    found = saved(image)
    assert found.mode == meant.mode
    assert alike(found, meant)
    photo.info["icc_profile"] = profile  # it means nothing there
    assert saved(photo).mode == "RGB"
    assert "icc_profile" not in saved(photo).info


@pytest.mark.parametrize("profile", [rgb(curv()), rgb(curv(0x1CD), ADOBE)])
@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_greys_with_a_profile_for_colours(
    mode: str, profile: bytes, photo: Image.Image, tmp_path: Path, fast_profile: FastProfile
) -> None:
    image = photo.convert(mode)
    coloured = image.convert("RGB")
    image.info["icc_profile"] = coloured.info["icc_profile"] = profile
    assert alike(saved(image), coloured)
    image.save(tmp_path / "a.png", icc_profile=profile)
    assert run(tmp_path / "a.png", "--strip").startswith("0")
    with Image.open(tmp_path / "a.clric") as found:
        assert found.mode == mode.replace("1", "L")
        assert alike(found, coloured)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "P"])
@pytest.mark.parametrize("strange", ["text", 5, ["list"]])
def test_strange_profiles(mode: str, strange: object, photo: Image.Image, fast_profile: FastProfile) -> None:
    image = photo.convert(mode)
    image.info["icc_profile"] = strange
    assert "icc_profile" not in saved(image).info


# What PNG and AVIF files say without a profile


def png(image: Image.Image, chunks: dict[bytes, bytes], **options: Any) -> bytes:
    info, buffer = PngInfo(), BytesIO()
    for name, body in chunks.items():
        info.add(name, body)
    image.save(buffer, "PNG", pnginfo=info, **options)
    return buffer.getvalue()


def gama(gamma: float) -> bytes:
    return struct.pack(">I", round(100000 * gamma))


def chrm(*values: float) -> bytes:
    return struct.pack(">8I", *(round(100000 * value) for value in values))


BT709 = (0.3127, 0.3290, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3 = (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SAID: dict[str, tuple[dict[bytes, bytes], bytes]] = {
    "linear": ({b"gAMA": gama(1)}, rgb(curv())),
    "gamma 1.8": ({b"gAMA": gama(1 / 1.8)}, rgb(para(0, 1.8))),
    "P3 with a gamma": ({b"gAMA": gama(1 / 2.1), b"cHRM": chrm(*P3)}, rgb(para(0, 2.1), APPLE_P3)),
    "P3": ({b"gAMA": gama(1 / 2.2), b"cHRM": chrm(*P3)}, KNOWN["Display P3"][1]),
    "P3 alone": ({b"cHRM": chrm(*P3)}, KNOWN["Display P3"][1]),
    "sRGB": ({b"gAMA": gama(1 / 2.2), b"cHRM": chrm(*BT709)}, b""),
    "sRGB without cHRM": ({b"gAMA": gama(1 / 2.2)}, b""),
    "sRGB, whatever else": ({b"sRGB": b"\0", b"gAMA": gama(1), b"cHRM": chrm(*P3)}, b""),
    "nonsense": ({b"gAMA": bytes(4), b"cHRM": bytes(32)}, b""),
    "no primaries": ({b"cHRM": chrm(*[0.3] * 8)}, b""),
    "huge": ({b"gAMA": b"\0\0\0\1", b"cHRM": b"\xff" * 32}, b""),
}


@pytest.mark.parametrize("name", SAID)
def test_gamma_and_chromaticities(name: str, photo: Image.Image, fast_profile: FastProfile) -> None:
    chunks, profile = SAID[name]
    photo.info["icc_profile"] = profile
    found = saved(opened(png(photo, chunks, icc_profile=b"")))
    assert alike(found, photo)
    assert bool(found.info.get("icc_profile")) == bool(profile)


def test_gamma_of_greys(photo: Image.Image, fast_profile: FastProfile) -> None:
    meant = photo.convert("L")
    meant.info["icc_profile"] = grey(para(0, 1.8))
    assert alike(saved(opened(png(photo.convert("L"), {b"gAMA": gama(1 / 1.8), b"cHRM": chrm(*P3)}))), meant)


def test_profiles_count_more_than_gamma(photo: Image.Image, fast_profile: FastProfile) -> None:
    data = png(photo, {b"gAMA": gama(1)}, icc_profile=display_p3())
    assert saved(opened(data)).info["icc_profile"] == display_p3()


PAL = {b"r": (29835, 15223, 952), b"g": (24091, 46388, 6873), b"b": (9264, 3925, 46236)}


def with_code(photo: Image.Image, kind: str, primaries: int, transfer: int) -> bytes:
    """A photo as a file that names its colours by a code."""
    if kind == "png":
        return png(photo, {b"cICP": bytes([primaries, transfer, 0, 1])})
    buffer = BytesIO()
    if kind == "jp2":
        photo.save(buffer, "JPEG2000")
        return buffer.getvalue()
    photo.save(buffer, "AVIF", quality=100, subsampling="4:4:4")
    head, tail = buffer.getvalue().split(b"colrnclx")
    return head + b"colrnclx" + struct.pack(">HH", primaries, transfer) + tail[4:]


@pytest.mark.parametrize("kind", ["png", "avif"])
@pytest.mark.parametrize(
    ("code", "profile"),
    [
        ((1, 13), b""),
        ((1, 1), b""),
        ((2, 2), b""),
        ((77, 78), b""),
        ((12, 13), KNOWN["Display P3"][1]),
        ((1, 8), rgb(curv())),
        ((1, 5), rgb(para(0, 2.8))),
        ((5, 6), rgb(para(3, *CURVE), PAL)),
    ],
)
def test_codes(
    kind: str, code: tuple[int, int], profile: bytes, photo: Image.Image, tmp_path: Path, fast_profile: FastProfile
) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(with_code(photo, kind, *code))
    assert run(path).startswith("0")
    with Image.open(path) as plain, Image.open(tmp_path / "a.clric") as image:
        plain.info["icc_profile"] = profile
        assert bool(image.info.get("icc_profile")) == bool(profile)
        assert alike(image, plain)


def test_codes_count_more_than_profiles_in_png(photo: Image.Image, fast_profile: FastProfile) -> None:
    data = png(photo, {b"cICP": bytes([12, 13, 0, 1])}, icc_profile=KNOWN["HP"][1])
    photo.info["icc_profile"] = KNOWN["Display P3"][1]
    assert alike(saved(opened(data)), photo)
    unknown = png(photo, {b"cICP": bytes([2, 2, 0, 1])}, icc_profile=display_p3())
    assert saved(opened(unknown)).info["icc_profile"] == display_p3()


@pytest.mark.parametrize("kind", ["png", "avif", "profile"])
@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(
    kind: str, transfer: int, name: str, photo: Image.Image, tmp_path: Path, fast_profile: FastProfile
) -> None:
    """However it is opened, changed and coded."""
    path = tmp_path / f"a.{kind}"
    if kind == "profile":
        path = tmp_path / "a.jpg"
        photo.save(path, icc_profile=rgb(curv(), cicp=cicp(9, transfer)))
    else:
        path.write_bytes(with_code(photo, kind, 9, transfer))
    what = f"HDR picture ({name}), which .clric files cannot hold: export it as SDR"
    for options in ([], ["--strip"]):
        told = run(path, *options)
        assert told.startswith("1")
        assert what in told
    with Image.open(path) as image:
        for _ in range(2):
            with pytest.raises(ValueError, match=re.escape(what)):
                pillow_clric.encode(image)
            with pytest.raises(ValueError, match=re.escape(what)):
                image.save(tmp_path / "a.clric")
    for changed in (opened(path.read_bytes()), opened(path.read_bytes()).resize((8, 8)).convert("L")):
        with pytest.raises(ValueError, match=re.escape(what)):
            pillow_clric.encode(changed)
        with pytest.raises(ValueError, match=re.escape(what)):
            saved(changed)
    assert not (tmp_path / "a.clric").exists()


def test_files_with_a_profile_of_hdr_are_read(photo: Image.Image, tmp_path: Path, fast_profile: FastProfile) -> None:
    """Such as were written before it was known for that; their profile is that of who wrote them."""
    profile = rgb(curv(), cicp=cicp(9, 16))
    photo.save(tmp_path / "a.clric", icc_profile=profile)
    for name, options in (("a.png", []), ("b.png", ["--strip"]), ("a.bmp", [])):
        assert run(tmp_path / "a.clric", "-o", tmp_path / name, *options).startswith("0")
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["icc_profile"] == profile


def test_a_profile_counts_more_than_codes_of_avif(photo: Image.Image, fast_profile: FastProfile) -> None:
    buffer = BytesIO()
    photo.save(buffer, "AVIF", icc_profile=display_p3())
    image = opened(buffer.getvalue())
    assert saved(image).info["icc_profile"] == display_p3()


@pytest.mark.parametrize("kind", ["png", "avif"])
def test_colours_that_are_converted_in_place(kind: str, photo: Image.Image, fast_profile: FastProfile) -> None:
    image = opened(with_code(photo, kind, 12, 13))
    profiles = ImageCms.ImageCmsProfile(BytesIO(KNOWN["Display P3"][1])), ImageCms.createProfile("sRGB")
    ImageCms.profileToProfile(image, *profiles, inPlace=True)
    assert colour.recognise(saved(image).info["icc_profile"]) == colour.SRGB


def test_codes_of_pillow_heif(photo: Image.Image, fast_profile: FastProfile) -> None:
    """They count where there is no profile, but for HDR."""
    codes = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6, "full_range_flag": 1}
    photo.info["nclx_profile"] = codes
    assert colour.recognise(saved(photo).info["icc_profile"]) == 2
    assert saved(photo, icc_profile=display_p3()).info["icc_profile"] == display_p3()
    photo.info |= {"nclx_profile": codes | {"transfer_characteristics": 16}, "icc_profile": display_p3()}
    with pytest.raises(ValueError, match="HDR"):
        saved(photo)


@pytest.mark.parametrize(
    ("name", "find", "box", "at", "flags"),
    [("AVIF", _opened.avif_told, b"av1C", 6, 0x40), ("JPEG2000", _opened.jpeg2000_told, b"ihdr", 14, 0x0F)],
)
def test_depths(
    name: str, find: _opened.Find, box: bytes, at: int, flags: int, photo: Image.Image, fast_profile: FastProfile
) -> None:
    """Of formats of which Pillow gives 8 bits of any, and writes no others."""
    buffer = BytesIO()
    photo.save(buffer, name)
    deep = bytearray(buffer.getvalue())
    deep[deep.index(box) + at] |= flags
    assert find(BytesIO(buffer.getvalue())).depth <= 8
    assert find(BytesIO(deep)).depth > 8
    image = opened(buffer.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved(image)
    image.info["bit_depth"] = 10
    with pytest.warns(pillow_clric.LossWarning, match="coded as 8 bits"):
        saved(image)


def test_depths_of_bare_codestreams(photo: Image.Image, fast_profile: FastProfile) -> None:
    buffer = BytesIO()
    photo.save(buffer, "JPEG2000", no_jp2=True)
    deep = bytearray(buffer.getvalue())
    assert _opened.jpeg2000_told(BytesIO(deep)).depth == 8
    deep[45] = 15  # the second component's
    assert _opened.jpeg2000_told(BytesIO(deep)).depth == 16
    assert _opened.jpeg2000_told(BytesIO(deep[:41])).depth == 0


@given(st.data())
def test_any_file_has_a_code_or_none(data: st.DataObject) -> None:
    """Damaged files are told from others by Pillow; here nothing is raised."""
    kind, find = data.draw(
        st.sampled_from([("png", _opened.png_told), ("avif", _opened.avif_told), ("jp2", _opened.jpeg2000_told)])
    )
    damaged = bytearray(with_code(Image.new("RGB", (4, 4)), kind, 12, 13)[:300])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    told = find(BytesIO(damaged))
    assert (len(told.codes), told.depth >= 0) == (2, True)
