"""EXIF, ICC profiles and XMP: kept, given, stripped, from and to other formats."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import EXIF, METADATA, cmyk_profile, display_p3, icc_profile, opened, same, saved
from fast_profile import FastProfile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

import pillow_clric

EXIF_BYTES: bytes = METADATA["exif"]
SAMPLES = Path(__file__).parent.parent / "samples"


def test_metadata_given(photo: Image.Image, fast_profile: FastProfile) -> None:
    image = saved(photo, **METADATA)
    assert image.info == METADATA
    assert image.getexif()[0x0112] == 6
    assert same(image, photo)
    assert image.info == METADATA


def test_metadata_kept(photo: Image.Image, fast_profile: FastProfile) -> None:
    first = saved(photo, **METADATA)
    assert saved(first).info == METADATA
    assert saved(first.resize((8, 8))).info == METADATA


@pytest.mark.parametrize("none", [None, b""])
def test_metadata_stripped(none: bytes | None, photo: Image.Image, fast_profile: FastProfile) -> None:
    image = saved(photo, **METADATA)
    assert saved(image, exif=none, icc_profile=none, xmp=none).info == {}
    assert saved(image, exif=none).info == {key: METADATA[key] for key in ("icc_profile", "xmp")}


def test_exif_forms(photo: Image.Image, fast_profile: FastProfile) -> None:
    for form in (EXIF, EXIF_BYTES, EXIF_BYTES.removeprefix(b"Exif\0\0")):
        assert saved(photo, exif=form).info["exif"] == EXIF_BYTES
    assert "exif" not in saved(photo, exif=Image.Exif()).info


def test_xmp_as_text(photo: Image.Image, fast_profile: FastProfile) -> None:
    assert saved(photo, xmp="<x>é</x>").info["xmp"] == "<x>é</x>".encode()


@pytest.mark.parametrize("name", ["exif", "icc_profile", "xmp"])
def test_metadata_of_wrong_type(name: str, photo: Image.Image, fast_profile: FastProfile) -> None:
    with pytest.raises(TypeError, match=name):
        saved(photo, **{name: 5})


def test_changed_exif_is_saved(photo: Image.Image, fast_profile: FastProfile) -> None:
    image = saved(photo, **METADATA)
    image.getexif()[0x0112] = 1
    image.getexif().get_ifd(0x8769)[0x829A] = 0.25
    exif = saved(image).getexif()
    assert exif[0x0112] == 1
    assert exif.get_ifd(0x8769)[0x829A] == 0.25

    photo.getexif()[0x0112] = 8
    assert saved(photo).getexif()[0x0112] == 8

    for tag in list(image.getexif()):
        del image.getexif()[tag]
    assert "exif" not in saved(image).info


@pytest.mark.parametrize("read", [False, True])
def test_what_info_says_counts_whenever_tags_were_read(
    read: bool, photo: Image.Image, fast_profile: FastProfile
) -> None:
    """Pillow reads and keeps tags as it opens a photo whose JFIF has no density."""
    buffer = BytesIO()
    photo.save(buffer, "JPEG", exif=EXIF)
    data = bytearray(buffer.getvalue())
    data[data.index(b"JFIF\0") + 7] = 0
    other = Image.Exif()
    other[0x010F] = "Other"
    for change in ("remove", "replace", "empty"):
        image = opened(bytes(data))
        if read:
            assert image.getexif()[0x010F] == "Maker"
        if change == "replace":
            image.info["exif"] = other.tobytes()
        elif change == "remove":
            del image.info["exif"]
        else:
            image.info = {}
        found = saved(image).getexif()
        assert found.get(0x010F) == ("Other" if change == "replace" else None)
        assert not found.get_ifd(0x8769)
    image = opened(bytes(data))
    image.getexif()[0x010F] = "Changed"
    del image.info["exif"]
    assert saved(image).getexif()[0x010F] == "Changed"


@pytest.mark.parametrize("own", [None, 3])
def test_orientation_of_xmp_stays_there(own: int | None, photo: Image.Image, fast_profile: FastProfile) -> None:
    """It is no tag of EXIF, though Pillow counts it among these where they have none."""
    photo.info["xmp"] = b'<x tiff:Orientation="6"/>'
    if own:
        photo.getexif()[0x0112] = own
    image = saved(photo)
    assert ("exif" in image.info) == bool(own)
    assert image.getexif()[0x0112] == (own or 6)
    assert image.info["xmp"] == photo.info["xmp"]


def test_values_that_exif_cannot_have(photo: Image.Image, fast_profile: FastProfile, tmp_path: Path) -> None:
    """They are not left out without a word, whoever gives them."""
    wrong = Image.Exif()
    wrong[0x0112] = "top"
    with pytest.raises(ValueError, match="change its EXIF tag Orientation, 'top'"):
        saved(photo, exif=wrong)
    photo.save(tmp_path / "a.jpg", exif=EXIF)
    with Image.open(tmp_path / "a.jpg") as image:
        image.getexif()[0x0112] = "top"
        with pytest.raises(ValueError, match="change its EXIF tag Orientation, 'top'"):
            saved(image)
    group = Image.Exif()
    group.get_ifd(0x8769)[0x8827] = (1, "short")
    with pytest.raises(ValueError, match="change its "):
        saved(photo, exif=group)


def test_odd_tags_of_tiff_files(photo: Image.Image, fast_profile: FastProfile) -> None:
    """They are no reason to lose the others."""
    buffer = BytesIO()
    photo.save(buffer, "TIFF", exif=METADATA["exif"])
    data = bytearray(buffer.getvalue())
    at = data.index(struct.pack("<HHI", 0x0112, 3, 1))
    data[at + 2 : at + 4] = struct.pack("<H", 2)  # orientation becomes a text
    image = opened(bytes(data))
    assert image.getexif()[0x0112] == "\6"
    found = saved(image).getexif()
    assert found[0x010F] == "Maker"
    assert found.get_ifd(0x8769)[0x829A] == 0.5
    assert image.getexif()[0x0112] == "\6"


def test_groups_of_tags_alone_are_kept(photo: Image.Image, fast_profile: FastProfile) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x829A] = 0.5
    assert saved(photo, exif=exif).getexif().get_ifd(0x8769)[0x829A] == 0.5
    assert "exif" not in saved(photo, exif=Image.Exif()).info


def test_unparsable_exif_is_kept(photo: Image.Image, fast_profile: FastProfile) -> None:
    photo.info["exif"] = b"Exif\0\0no TIFF header"
    assert saved(photo).info["exif"] == photo.info["exif"]


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_metadata_from_and_to_other_formats(name: str, photo: Image.Image, fast_profile: FastProfile) -> None:
    buffer = BytesIO()
    photo.save(buffer, name, **METADATA)
    image = saved(opened(buffer.getvalue()))
    exif = image.getexif()
    assert exif[0x010F] == "Maker"
    assert exif.get_ifd(0x8769)[0x829A] == 0.5
    assert 0x0111 not in exif  # where a TIFF file has its pixels
    assert image.info["icc_profile"] == METADATA["icc_profile"]

    buffer = BytesIO()
    image.save(buffer, name, exif=image.info["exif"])
    assert opened(buffer.getvalue()).getexif()[0x010F] == "Maker"


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><é/></x:xmpmeta>'


def source(name: str, photo: Image.Image) -> Image.Image:
    """A photo of another format with XMP, as programs write it."""
    buffer, options = BytesIO(), dict[str, Any]()
    if name == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP)
    elif name == "TIFF":
        options["tiffinfo"] = {700: XMP.encode()}
    else:
        options["xmp"] = XMP.encode()
    photo.save(buffer, name, **options)
    return opened(buffer.getvalue())


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_xmp_of_other_formats(name: str, photo: Image.Image, fast_profile: FastProfile) -> None:
    image = saved(source(name, photo))
    assert image.info["xmp"] == XMP.encode()
    assert "exif" not in image.info


def test_orientation_is_left_alone(photo: Image.Image, fast_profile: FastProfile) -> None:
    for orientation in range(1, 9):
        photo.getexif()[0x0112] = orientation
        image = saved(photo)
        assert same(image, photo)
        assert image.getexif()[0x0112] == orientation


def test_what_is_no_metadata_is_left_out(photo: Image.Image, fast_profile: FastProfile) -> None:
    """Other plugins may put anything there; it is no reason to fail."""
    photo.info.update(exif="text", icc_profile=["list"], xmp={"a": "dict"})
    assert saved(photo).info == {}


# ICC profiles

GREY_PROFILE = icc_profile(b"GRAY", b"mntr", {})


def test_the_profiles_of_these_tests_are_such() -> None:
    for data, space in ((display_p3(), "RGB"), (cmyk_profile(), "CMYK"), (GREY_PROFILE, "GRAY")):
        assert ImageCms.ImageCmsProfile(BytesIO(data)).profile.xcolor_space.strip() == space


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "1", "P"])
@pytest.mark.parametrize("space", ["GRAY", "RGB", "CMYK"])
def test_only_fitting_profiles_are_kept(mode: str, space: str, photo: Image.Image, fast_profile: FastProfile) -> None:
    profile = {"GRAY": GREY_PROFILE, "RGB": display_p3(), "CMYK": cmyk_profile()}[space]
    image = photo.convert(mode)
    image.info["icc_profile"] = profile
    fits = space == ("GRAY" if mode in ("1", "L", "LA") else "RGB")
    assert saved(image).info.get("icc_profile") == (profile if fits else None)

    image.info.clear()
    if fits:
        assert saved(image, icc_profile=profile).info["icc_profile"] == profile
    else:
        with pytest.raises(ValueError, match=f"icc_profile is for {space} colours, .*: leave it out"):
            saved(image, icc_profile=profile)


def test_wide_gamut(tmp_path: Path) -> None:
    """Samples are coded as they are, and mean what the profile says that they mean."""
    with Image.open(SAMPLES / "coffee.png") as image:
        picture = image.convert("RGB").crop((150, 100, 246, 164))
    picture.save(tmp_path / "p3.jpg", icc_profile=display_p3(), quality=95)
    with Image.open(tmp_path / "p3.jpg") as photo:
        coded = opened(pillow_clric.encode(photo, quality=90, effort=1, device="cpu"))
        assert coded.info["icc_profile"] == display_p3()
        assert np.abs(np.asarray(coded).astype(float) - np.asarray(photo)).mean() < 8
        to_srgb = ImageCms.profileToProfile(coded, BytesIO(display_p3()), ImageCms.createProfile("sRGB"))
    assert to_srgb is not None
    assert not same(to_srgb, coded)
