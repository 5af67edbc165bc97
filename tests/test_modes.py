"""Images of all modes and sizes: what is kept, what is converted, what is refused; and alpha."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reader
from conftest import METADATA, cmyk_profile, opened, same, saved
from fast_profile import FastProfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFile

import codec
import pillow_clric
from codec import CorruptError, FormatError, Header, Section, UnsupportedError, alpha, container, pack, unpack

Samples = NDArray[np.uint8]


@pytest.fixture
def cutout(photo: Image.Image) -> Image.Image:
    """`photo` in RGBA: a disc with a soft edge, transparent around it."""
    y, x = np.mgrid[: photo.height, : photo.width]
    disc = np.clip(60 * (14 - np.hypot(y - 16, x - 24)), 0, 255).astype(np.uint8)
    image = photo.convert("RGBA")
    image.putalpha(Image.fromarray(disc))
    return image


# Kept


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 5), (48, 32)])
def test_modes_and_sizes(mode: str, size: tuple[int, int], photo: Image.Image, fast_profile: FastProfile) -> None:
    photo.putalpha(photo.convert("L").point(lambda v: max(v, 1)))
    picture = photo.crop((0, 0, *size)).convert(mode)
    for image in (saved(picture), pillow_clric.decode(pillow_clric.encode(picture))):
        assert same(image, picture)
    assert pillow_clric.info(pillow_clric.encode(picture)).mode == mode


def test_transparent_colours_are_filled(cutout: Image.Image, fast_profile: FastProfile) -> None:
    """Colours that nobody sees are smooth: they take fewer bytes than those that were there."""
    image = saved(cutout)
    mask = np.asarray(cutout)[:, :, 3]
    before, after = np.asarray(cutout), np.asarray(image)
    assert np.array_equal(after[:, :, 3], mask)
    assert np.array_equal(after[mask > 0], before[mask > 0])
    seen, hidden = after[mask > 0][:, :3], after[mask == 0][:, :3]
    assert (seen.min(0) <= hidden.min(0)).all()
    assert (seen.max(0) >= hidden.max(0)).all()
    steps = np.abs(np.diff(after[:, :, :3].astype(int), axis=1))
    assert steps[mask[:, 1:] == 0].mean() < steps[mask[:, 1:] == 255].mean()

    cutout.putalpha(0)
    assert saved(cutout).convert("RGB").getcolors() == [(48 * 32, (0, 0, 0))]


def test_opaque_alpha_is_kept_for_two_bytes(photo: Image.Image, fast_profile: FastProfile) -> None:
    for mode, opaque in (("RGB", "RGBA"), ("L", "LA")):
        plain = photo.convert(mode)
        data = pillow_clric.encode(plain.convert(opaque))
        assert same(opened(data), plain.convert(opaque))
        assert len(data) == len(pillow_clric.encode(plain)) + 2


@pytest.mark.parametrize("profile", ["clric", "coolchic", "msp"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_real_profiles(mode: str, profile: str, cutout: Image.Image) -> None:
    cutout = cutout.crop((8, 4, 32, 20))
    data = pillow_clric.encode(cutout.convert(mode), profile=profile, effort=1, quality=90, device="cpu", **METADATA)
    image = opened(data)
    assert image.mode == mode
    assert image.info == METADATA
    image.verify()
    image = opened(data)
    assert same(image.getchannel("A"), cutout.getchannel("A"))
    seen = np.asarray(cutout)[:, :, 3] == 255
    grey, decoded = (np.asarray(one.convert("L"))[seen].astype(float) for one in (cutout, image))
    assert np.sqrt(np.mean((grey - decoded) ** 2)) < 12


# Converted


def transparent(image: Image.Image, transparency: object) -> Image.Image:
    image.info["transparency"] = transparency
    return image


def palette(colours: list[int], **options: object) -> Image.Image:
    image = Image.frombytes("P", (3, 2), bytes([0, 1, 2, 2, 1, 0]))
    image.putpalette(colours)
    return transparent(image, options["transparency"]) if options else image


def pa() -> Image.Image:
    image = Image.merge("PA", (palette(COLOURS), Image.linear_gradient("L").resize((3, 2))))
    image.putpalette(COLOURS)
    return image


COLOURS, GREYS = [200, 10, 30, 0, 90, 250, 5, 6, 7], [0, 0, 0, 99, 99, 99, 255, 255, 255]
RAMP = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * i).resize((9, 7)) for i in range(3)])
CONVERTED: dict[str, tuple[str, Callable[[], Image.Image]]] = {
    "1": ("L", lambda: RAMP.convert("1")),
    "1 transparent": ("LA", lambda: transparent(RAMP.convert("1"), 0)),
    "L transparent": ("LA", lambda: transparent(RAMP.convert("L"), RAMP.convert("L").getpixel((4, 3)))),
    "RGB transparent": ("RGBA", lambda: transparent(RAMP.copy(), RAMP.getpixel((4, 3)))),
    "P": ("RGB", lambda: palette(COLOURS)),
    "P transparent": ("RGBA", lambda: palette(COLOURS, transparency=1)),
    "P translucent": ("RGBA", lambda: palette(COLOURS, transparency=b"\x80\x00")),
    "P grey": ("L", lambda: palette(GREYS)),
    "P grey transparent": ("LA", lambda: palette(GREYS, transparency=2)),
    "PA": ("RGBA", pa),
    "La": ("LA", lambda: RAMP.convert("LA").convert("La")),
    "RGBa": ("RGBA", lambda: RAMP.convert("RGBA").convert("RGBa")),
    **{mode: ("RGB", lambda mode=mode: RAMP.convert(mode)) for mode in ("RGBX", "CMYK", "YCbCr", "HSV", "LAB")},  # type: ignore[misc]
}


@pytest.mark.parametrize("name", CONVERTED)
def test_conversions(name: str, fast_profile: FastProfile) -> None:
    mode, make = CONVERTED[name]
    image = make()
    assert image.mode == name.split()[0]
    expected, found = image.convert(mode), saved(image)
    assert (found.mode, found.size) == (mode, image.size)
    if mode.endswith("A"):
        assert found.getchannel("A").getextrema() == expected.getchannel("A").getextrema()
    seen = np.asarray(expected.getchannel("A")) > 0 if mode.endswith("A") else ...
    assert np.array_equal(np.asarray(found)[seen], np.asarray(expected)[seen])


def test_cmyk_by_its_profile(fast_profile: FastProfile) -> None:
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    assert saved(cyan).getpixel((0, 0)) == (0, 255, 255)
    cyan.info["icc_profile"] = cmyk_profile()
    found = saved(cyan)
    red, green, blue = found.getpixel((0, 0))  # type: ignore[misc]
    assert red == green == blue  # as the profile has it
    assert found.info == {}
    cyan.info["icc_profile"] = b"no profile at all"
    assert saved(cyan).getpixel((0, 0)) == (0, 255, 255)


def test_the_image_is_left_as_it_was(fast_profile: FastProfile) -> None:
    for _, make in CONVERTED.values():
        image = make()
        pixels, info = image.tobytes(), dict(image.info)
        saved(image)
        assert (image.tobytes(), image.info) == (pixels, info)


# More than 8 bits

DEEP = np.array([[0, 128, 129, 257 * 100 + 128], [257 * 100 + 129, 257 * 200, 65406, 65535]], np.uint16)
ROUNDED = [[0, 0, 1, 100], [101, 200, 254, 255]]


def deep_png(channels: int) -> bytes:
    """A PNG file of 16 bits."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = np.repeat(DEEP[:, :, None], channels, axis=2).astype(">u2")
    head = struct.pack(">2I5B", 4, 2, 16, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def deep_tiff(planes: bool = False) -> bytes:
    """A TIFF file of RGB with 16 bits, plane by plane or pixel by pixel."""
    place = 158  # of bits of samples; in planes, of where these are, and of their bytes
    pixels = b"".join(DEEP.astype("<u2").tobytes() for _ in range(3))
    if not planes:
        pixels = np.repeat(DEEP[:, :, None], 3, axis=2).astype("<u2").tobytes()
    strips = [place + 30, place + 46, place + 62]
    tags = {256: (1, 4), 257: (1, 2), 258: (3, place), 259: (1, 1), 262: (1, 2), 273: (1, strips[0])}
    tags |= {277: (1, 3), 278: (1, 2), 279: (1, 48)}
    if planes:
        tags |= {273: (3, place + 6), 279: (3, place + 18), 284: (1, 2)}
    entries = [struct.pack("<HHII", tag, 3 if tag == 258 else 4, *value) for tag, value in tags.items()]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4)
    return head.ljust(place, b"\0") + struct.pack("<3H6I", 16, 16, 16, *strips, 16, 16, 16) + pixels


def deep_ppm(kind: int) -> bytes:
    samples = np.repeat(DEEP[:, :, None], 3 if kind == 6 else 1, axis=2)
    return b"P%d 4 2 65535\n" % kind + samples.astype(">u2").tobytes()


DEEP_FILES = {f"{channels} channels": deep_png(channels) for channels in (1, 2, 3, 4)}
DEEP_FILES |= {"TIFF": deep_tiff(), "PGM": deep_ppm(5), "PPM": deep_ppm(6)}
DEEP_IMAGES: dict[str, Callable[[], Image.Image]] = {
    "I;16": lambda: Image.fromarray(DEEP),
    "I;16B": lambda: Image.frombytes("I;16B", (4, 2), DEEP.astype(">u2").tobytes()),
    "I": lambda: Image.fromarray(DEEP.astype(np.int32)),
    **{name: lambda data=data: opened(data) for name, data in DEEP_FILES.items()},  # type: ignore[misc]
}


@pytest.mark.parametrize("name", DEEP_IMAGES)
def test_deep_images_are_coded_as_eight_bits(name: str, fast_profile: FastProfile) -> None:
    with pytest.warns(pillow_clric.LossWarning, match="coded as 8 bits"):
        found = opened(pillow_clric.encode(DEEP_IMAGES[name]()))
    grey = np.asarray(found.convert("RGBA"))[:, :, 0].astype(int)
    seen = np.asarray(found.convert("RGBA"))[:, :, 3] > 0
    assert np.abs(grey - ROUNDED)[seen].max() <= 1  # Pillow cuts samples of colours off
    if found.mode == "L":
        assert grey.tolist() == ROUNDED
    with pytest.warns(pillow_clric.LossWarning, match="coded as 8 bits"):
        saved(DEEP_IMAGES[name]())


def white_is_zero() -> bytes:
    """A grey TIFF file of 16 bits that is a negative of its samples."""
    buffer = BytesIO()
    Image.fromarray(DEEP).save(buffer, "TIFF")
    entry, value = struct.pack("<HHI", 262, 3, 1), struct.pack("<I", 1)
    assert entry + value in buffer.getvalue()
    return buffer.getvalue().replace(entry + value, entry + bytes(4))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (deep_tiff(planes=True), "in planes: save it pixel by pixel"),
        (white_is_zero(), "in which white is zero: save it with black as zero"),
    ],
)
def test_samples_that_pillow_misreads_are_refused(
    data: bytes, problem: str, tmp_path: Path, fast_profile: FastProfile
) -> None:
    (tmp_path / "a.tif").write_bytes(data)
    with Image.open(tmp_path / "a.tif") as image:
        for code in (pillow_clric.encode, saved):
            with pytest.raises(ValueError, match=problem):
                code(image)


def test_images_of_eight_bits_are_no_loss(photo: Image.Image, fast_profile: FastProfile) -> None:
    for image in (photo, Image.new("L", (2, 2)), opened(b"P6 1 1 255\nabc"), opened(b"P5 1 1 15\n\1")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            saved(image)


@pytest.mark.filterwarnings("ignore::pillow_clric.LossWarning")
def test_small_numbers_are_taken_as_they_are(fast_profile: FastProfile) -> None:
    image = Image.fromarray(np.array([[0, 1, 255]], np.int32))
    assert np.asarray(saved(image)).tolist() == [[0, 1, 255]]
    assert np.asarray(saved(image.convert("I;16"))).tolist() == [[0, 0, 1]]


@pytest.mark.filterwarnings("ignore::pillow_clric.LossWarning")
def test_a_transparent_sample_of_sixteen_bits(fast_profile: FastProfile) -> None:
    buffer = BytesIO()
    Image.fromarray(DEEP).save(buffer, "PNG", transparency=129)
    found = saved(opened(buffer.getvalue()))
    assert found.mode == "LA"
    assert np.asarray(found.getchannel("A")).tolist() == [[255, 255, 0, 255], [255] * 4]


# Refused

WAYS: dict[str, Callable[[Any], object]] = {
    "encode": pillow_clric.encode,
    "encode_batch": lambda image: pillow_clric.encode_batch([Image.new("L", (4, 4)), image]),
    "save": saved,
}


@pytest.mark.parametrize("way", WAYS)
def test_floating_point_is_refused(way: str, fast_profile: FastProfile) -> None:
    with pytest.raises(ValueError, match=r"mode F .*convert to L"):
        WAYS[way](Image.new("F", (4, 4)))
    assert fast_profile.used == []


@pytest.mark.parametrize("sample", [-1, 65536])
@pytest.mark.filterwarnings("ignore::pillow_clric.LossWarning")
def test_other_numbers_are_refused(sample: int, fast_profile: FastProfile) -> None:
    with pytest.raises(ValueError, match=rf"samples from {min(sample, 0)} to {max(sample, 0)}: scale them"):
        saved(Image.fromarray(np.array([[0, sample]], np.int32)))
    assert fast_profile.used == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(0, 0), (0, 4), (4, 0)])
def test_no_pixels(way: str, size: tuple[int, int], fast_profile: FastProfile) -> None:
    with pytest.raises(ValueError, match="without pixels"):
        WAYS[way](Image.new("RGB", size))
    assert fast_profile.used == []


@pytest.mark.parametrize("way", ["encode", "encode_batch"])
@pytest.mark.parametrize("size", [(2**16, 1), (1, 2**16), (2**14, 2**14 + 1)])
def test_too_many_pixels(
    way: str, size: tuple[int, int], fast_profile: FastProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ValueError, match="at most 268435456 pixels, and 65535 a side"):
        WAYS[way](Image.open(BytesIO(b"P5 %d %d 255\n" % size)))  # whose pixels are not even there


def test_too_many_pixels_to_save(fast_profile: FastProfile) -> None:
    with pytest.raises(ValueError, match="65535 a side"):
        saved(Image.new("L", (2**16, 1)))
    assert fast_profile.used == []


def test_no_image(fast_profile: FastProfile) -> None:
    for nothing in ("photo.png", None, np.zeros((4, 4), np.uint8)):
        with pytest.raises(TypeError, match="image must be"):
            pillow_clric.encode(nothing)  # type: ignore[arg-type]


# The section


def masks() -> list[Samples]:
    y, x = np.mgrid[:40, :60]
    disc, noise = Image.new("L", (480, 320)), np.random.default_rng(0).integers(0, 256, (40, 60))
    ImageDraw.Draw(disc).ellipse((80, 40, 400, 300), fill=255)
    found = [x // 7 % 2 * 255, x * (y * y % 7), 6 * y, 2 * x + 3 * y, noise, 0 * x, np.asarray(disc.reduce(8))]
    return [mask.astype(np.uint8) for mask in found]


def test_all_kinds_of_alpha_are_read_by_another() -> None:
    kinds = set()
    for mask in [*masks(), *(np.random.default_rng(1).integers(0, 256, (n, m), np.uint8) for n, m in ((1, 9), (9, 1)))]:
        body = alpha.encode(mask)
        kinds.add(body[0])
        assert reader.alpha(body, *mask.shape) == mask.tolist()
        assert np.array_equal(alpha.decode(unpack(with_alpha(body, *mask.shape[::-1]))), mask)  # type: ignore[arg-type]
        assert len(body) <= len(zlib.compress(mask.tobytes(), 9))
    assert kinds == {0, 1, 2, 3}
    assert alpha.encode(np.full((4, 4), 255, np.uint8)) == b""
    assert reader.alpha(b"", 2, 3) == [[255] * 3] * 2


def with_alpha(body: bytes, width: int = 48, height: int = 32) -> bytes:
    sections = {Section.ALPHA: body, Section.WEIGHTS: b"w", Section.GRIDS: zlib.compress(bytes(3 * width * height))}
    return pack(Header(width, height, "RGBA", 15), sections)


def deflated(data: bytes) -> bytes:
    return zlib.compress(data, 9, -15)


BAD = {
    "kind only": b"\0",
    "garbage": b"\0garbage",
    "too few": b"\0" + deflated(bytes(48 * 32 - 1)),
    "too many": b"\0" + deflated(bytes(48 * 32 + 1)),
    "other size": alpha.encode(np.zeros((48, 48), np.uint8)),
    "no end": alpha.encode(masks()[4])[:-1],
    "more behind": b"\0" + deflated(bytes(48 * 32)) + b"?",
    "bomb": b"\0" + deflated(bytes(10**8)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_alpha_is_refused(name: str, fast_profile: FastProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_alpha(BAD[name])
    tracemalloc.start()
    for do in ("load", "verify"):
        image = opened(data)
        with pytest.raises(CorruptError, match=r"alpha channel.*get the file again"):
            getattr(image, do)()
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert fast_profile.devices == []
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(CorruptError):
        opened(data).load()


@settings(max_examples=60)
@given(st.integers(0, 5), st.data())
def test_any_alpha_is_a_picture_or_an_error(kind: int, data: st.DataObject) -> None:
    """Streams that are valid but for some bytes, and others."""
    body = bytearray(alpha.encode(masks()[-1][:32, :48])[1:])
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        found = alpha.decode(unpack(with_alpha(bytes([kind]) + bytes(body))))
    except FormatError as error:
        assert "get the file again" in str(error) or kind > 3
    else:
        assert found is not None
        assert found.shape == (32, 48)


def test_unknown_alpha_is_refused(fast_profile: FastProfile) -> None:
    for kind in (4, 255):
        with pytest.raises(UnsupportedError, match="update"):
            opened(with_alpha(bytes([kind]) + deflated(bytes(48 * 32)))).load()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_mode_and_section_agree(mode: str, fast_profile: FastProfile) -> None:
    sections = dict(unpack(with_alpha(b"")).sections)
    if mode.endswith("A"):
        del sections[Section.ALPHA]
    data = pack(Header(48, 32, mode, 15), sections)
    for do in ("load", "verify"):
        image = opened(data)
        with pytest.raises(CorruptError, match=f"mode is {mode}"):
            getattr(image, do)()


def test_truncated_alpha_is_opaque(
    cutout: Image.Image, fast_profile: FastProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alpha that a writer put last, which readers must take."""
    found = unpack(pillow_clric.encode(cutout))
    monkeypatch.setattr(container, "_ORDER", (Section.WEIGHTS, Section.GRIDS, Section.ALPHA))
    data = pack(replace(found.header, directory=()), found.sections)
    assert same(opened(data), opened(pack(found.header, found.sections)))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for missing in (1, len(found.sections[Section.ALPHA])):
        image = opened(data[:-missing])
        assert image.getchannel("A").getextrema() == (255, 255)
        assert same(image.convert("RGB"), opened(data).convert("RGB"))


@pytest.mark.parametrize("profile", ["clric", "msp"])
def test_target_size_counts_alpha(profile: str, photo: Image.Image) -> None:
    photo.putalpha(Image.effect_noise(photo.size, 90))
    taken = len(alpha.encode(np.asarray(photo)[:, :, 3]))
    data = pillow_clric.encode(photo, profile=profile, target_size=taken + 150, effort=1, device="cpu")
    assert taken < len(data) <= taken + 150
    with pytest.raises(ValueError, match=r"the smallest file possible has \d+, of which \d+ are"):
        pillow_clric.encode(photo, profile=profile, target_size=taken, effort=1, device="cpu")


def test_arrays() -> None:
    """The codec without Pillow."""
    for shape in ((5, 6, 1), (5, 6, 5), (6,), (0, 6, 4)):
        with pytest.raises(ValueError, match="pixels must be"):
            codec.encode(np.zeros(shape, np.uint8))
