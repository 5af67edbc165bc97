"""Animations, pages, gain maps: what a file of one picture does not hold is said to be lost."""

from __future__ import annotations

import json
import re
import struct
import warnings
from io import BytesIO
from pathlib import Path
from xml.dom import minidom
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from conftest import run, same, saved
from fast_profile import FastProfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, IptcImagePlugin, TiffImagePlugin, TiffTags

from pillow_clric import LossWarning, cli, encode_batch
from pillow_clric._losses import without_promises
from pillow_clric.convert import run as conversion

ORIENTATION = 0x0112
# As a phone writes it: attributes and an element of the gain map and its place in the file, among others
GAIN_MAP = """<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
 xmlns:C="http://ns.google.com/photos/1.0/container/" xmlns:I="http://ns.google.com/photos/1.0/container/item/"
 xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 hdrgm:Version="1.0" GCamera:MotionPhoto="1" GCamera:Mode="a &gt; b" dc:format="image/jpeg">
<C:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><C:Item I:Mime="image/jpeg" I:Semantic="GainMap"/></rdf:li>
</rdf:Seq></C:Directory><dc:title>Café</dc:title></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='w'?>""".encode()


def frames(photo: Image.Image, name: str) -> bytes:
    """Three pictures in one file."""
    others = [photo.rotate(90), photo.rotate(180)]
    buffer = BytesIO()
    photo.save(buffer, name, save_all=True, append_images=others)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO"])
@pytest.mark.parametrize("loaded", [False, True])
def test_pictures_that_are_lost(name: str, loaded: bool, photo: Image.Image, fast_profile: FastProfile) -> None:
    image = Image.open(BytesIO(frames(photo, name)))
    if loaded:
        image.load()
    with pytest.warns(LossWarning, match="^only the first of 3 pictures is kept"):
        first = saved(image)
    image.seek(1)
    chosen = image.convert("RGB")
    with warnings.catch_warnings():  # a picture that was chosen is what is meant
        warnings.simplefilter("error")
        second = saved(image)
        saved(photo)
    assert same(second.convert("RGB"), chosen)
    assert not same(first.convert("RGB"), chosen)


def test_closed_files(photo: Image.Image, fast_profile: FastProfile, tmp_path: Path) -> None:
    """Of TIFF files with several pictures Pillow reads groups of tags when it is asked, which is too late then."""
    buffer = BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x829A] = 0.5
    photo.save(buffer, "JPEG", exif=exif)
    photo.save(tmp_path / "a.tif", save_all=True, append_images=[photo], exif=Image.open(buffer).getexif())
    with Image.open(tmp_path / "a.tif") as image:
        image.load()
    with pytest.warns(LossWarning, match="only one of several pictures is kept, and of its EXIF what was read before"):
        found = saved(image)
    assert found.getexif()[0x010F] == "Maker"


@pytest.mark.parametrize("name", ["GIF", "TIFF"])
def test_counting_changes_nothing(name: str, photo: Image.Image, fast_profile: FastProfile) -> None:
    image = Image.open(BytesIO(frames(photo.convert("L"), name)))
    image.paste(7, (0, 0, 20, 20))
    image.info["comment"] = b"mine"
    expected = image.copy()
    with pytest.warns(LossWarning):
        assert same(saved(image), expected.convert("L"))
    assert image.info["comment"] == b"mine"
    assert same(image, expected)


def test_counting_leaves_what_was_turned_upright(photo: Image.Image, fast_profile: FastProfile) -> None:
    buffer = BytesIO()
    photo.save(buffer, "TIFF", tiffinfo={ORIENTATION: 6}, save_all=True, append_images=[photo])
    image = Image.open(buffer)
    for _ in range(2):
        with pytest.warns(LossWarning, match="^only the first of 2 pictures"):
            coded = saved(image)
        assert coded.size == photo.size[::-1]
        assert ORIENTATION not in coded.getexif()
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    assert image.n_frames == 2


def test_small_versions(photo: Image.Image, fast_profile: FastProfile) -> None:
    """As raw files of cameras have them first, which are TIFF files for Pillow."""
    buffer = BytesIO()
    photo.save(buffer, "TIFF", tiffinfo={254: 1}, save_all=True, append_images=[photo])
    image = Image.open(buffer)
    with pytest.warns(LossWarning, match="only a small version of the picture"):
        saved(image)
    image.seek(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved(image)


def test_files_are_named(photo: Image.Image, fast_profile: FastProfile, tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(frames(photo, "GIF"))
    with Image.open(tmp_path / "a.gif") as image, pytest.warns(LossWarning, match=r"a\.gif: only the first"):
        encode_batch([photo, image])


def test_gain_map(photo: Image.Image, fast_profile: FastProfile) -> None:
    buffer = BytesIO()
    photo.save(buffer, "JPEG", xmp=GAIN_MAP)
    with pytest.warns(LossWarning, match="gain map"):
        xmp = saved(Image.open(buffer)).info["xmp"]
    for promise in (b"hdrgm:", b"GainMap", b"Directory", b"MotionPhoto="):
        assert promise not in xmp.replace(b"xmlns:hdrgm", b"")
    for kept in ("W5M0MpCehiHzreSzNTczkc9d", 'GCamera:Mode="a &gt; b"', 'dc:format="image/jpeg"', "Café"):
        assert kept.encode() in xmp
    ElementTree.fromstring(xmp)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert saved(saved(photo, xmp=xmp)).info["xmp"] == xmp


def avif(photo: Image.Image, *, items: bytes = b"", properties: bytes = b"") -> bytes:
    """An AVIF file with more boxes: the box `meta` comes last, so that all others stay where they were."""
    buffer = BytesIO()
    photo.save(buffer, "AVIF")
    data = buffer.getvalue()
    at = data.index(b"meta") - 4
    size = int.from_bytes(data[at : at + 4], "big")
    meta = bytearray(data[at : at + size])
    for name, outer, added in ((b"iinf", [], items), (b"ipco", [b"iprp"], properties)):
        start = meta.index(name) - 4
        length = int.from_bytes(meta[start : start + 4], "big")
        meta[start + length : start + length] = added
        for box in (name, *outer, b"meta"):
            place = meta.index(box) - 4
            grown = int.from_bytes(meta[place : place + 4], "big") + len(added)
            meta[place : place + 4] = grown.to_bytes(4, "big")
    if items:
        meta[meta.index(b"iinf") + 9] += 1
    return data[:at] + data[at : at + 4] + b"free" + data[at + 8 :] + bytes(meta)


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + name + body


APPLE = b"urn:com:apple:photo:2020:aux:hdrgainmap"


@pytest.mark.parametrize(
    ("boxes", "told"),
    [
        ({"items": box(b"infe", bytes([2, 0, 0, 0, 0, 9, 0, 0]) + b"tmap\0")}, "gain map"),
        ({"items": box(b"infe", bytes([3, 0, 0, 0, 0, 0, 0, 9, 0, 0]) + b"tmap\0")}, "gain map"),
        ({"properties": box(b"auxC", bytes(4) + APPLE + b"\0")}, "gain map"),
        ({"properties": box(b"auxC", bytes(4) + b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth\0")}, "depth map"),
        ({"properties": box(b"auxC", bytes(4) + b"urn:other\0")}, r"auxiliary picture \(urn:other\)"),
    ],
)
def test_beside_a_picture_in_avif(
    boxes: dict[str, bytes], told: str, photo: Image.Image, fast_profile: FastProfile, tmp_path: Path
) -> None:
    path = tmp_path / "a.avif"
    path.write_bytes(avif(photo, **boxes))
    with Image.open(path) as image, pytest.warns(LossWarning, match=f"a.avif: what .* is not kept: {told}$"):
        image.save(tmp_path / "a.clric")
    result = run(path, "--json", "--overwrite")
    [record] = map(json.loads, result.stdout.splitlines())
    assert len(record["warnings"]) == 1
    assert re.search(told, record["warnings"][0])
    assert re.search(f"warning: {re.escape(str(path))}: .*{told}", result.stderr)


def test_nothing_is_beside_alpha_in_avif(photo: Image.Image, fast_profile: FastProfile) -> None:
    photo.putalpha(99)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert saved(Image.open(BytesIO(avif(photo)))).mode == "RGBA"


def test_beside_a_picture_by_pillow_heif(photo: Image.Image, fast_profile: FastProfile) -> None:
    photo.info |= {"aux": {}, "depth_images": []}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved(photo)
    photo.info |= {"aux": {APPLE.decode(): [7]}, "depth_images": [object()]}
    with pytest.warns(LossWarning, match="gain map, depth map$"):
        saved(photo)


def iptc(*texts: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack(">3BH", 0x1C, 2, number, len(text)) + text for number, text in texts)


CAPTION = iptc((0, b"\0\2"), (120, b"The caption."))  # of whole words of 4 bytes


def with_iptc(photo: Image.Image, name: str, data: bytes) -> bytes:
    buffer = BytesIO()
    if name == "JPEG":
        resource = b"8BIM\4\4\0\0" + struct.pack(">I", len(data)) + data
        segment = b"Photoshop 3.0\0" + resource
        photo.save(buffer, "JPEG", extra=struct.pack(">BBH", 0xFF, 0xED, 2 + len(segment)) + segment)
        return buffer.getvalue()
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[33723] = TiffTags.UNDEFINED
    tags[33723] = data
    photo.save(buffer, "TIFF", tiffinfo=tags)
    bytes_, numbers = (struct.pack("<HHI", 33723, *kind) for kind in ((7, len(data)), (4, len(data) // 4)))
    return buffer.getvalue().replace(bytes_, numbers if "Photoshop" in name else bytes_)


@pytest.mark.parametrize("name", ["JPEG", "TIFF", "Photoshop's TIFF"])
def test_iptc(name: str, photo: Image.Image, fast_profile: FastProfile, tmp_path: Path) -> None:
    """It is said to be lost, but for what has no text, and where no metadata are wanted."""
    image = Image.open(BytesIO(with_iptc(photo, name, CAPTION)))
    assert (IptcImagePlugin.getiptcinfo(image) or {})[2, 120] == b"The caption."
    with pytest.warns(LossWarning, match="IPTC"):
        saved(image)
    path = tmp_path / f"a.{name[-4:].lower()}"
    path.write_bytes(with_iptc(photo, name, CAPTION))
    for options, count in (([], 1), (["--strip"], 0)):
        [record] = map(json.loads, run(path, "--json", "--overwrite", *options).stdout.splitlines())
        assert len(record["warnings"]) == count
    empty = Image.open(BytesIO(with_iptc(photo, name, iptc((0, b"\0\2\0")))))
    with warnings.catch_warnings():
        warnings.simplefilter("error", LossWarning)
        saved(image, exif=None, icc_profile=None, xmp=None)
        saved(empty)


@given(st.binary(), st.integers(0, len(GAIN_MAP)), st.integers(0, 9))
def test_damaged_xmp(inserted: bytes, start: int, count: int) -> None:
    damaged = GAIN_MAP[:start] + inserted + GAIN_MAP[start + count :]
    found = without_promises(damaged)
    assert found == damaged or minidom.parseString(found)
    assert without_promises(found) == found


def test_deep_xmp() -> None:
    deep = b"<a xmlns:b='http://ns.adobe.com/hdr-gain-map/1.0/'>" + b"<a>" * 10**5
    for xmp in (deep, deep + b"</a>" * (10**5 + 1)):
        assert without_promises(xmp) == xmp


def test_large_xmp(photo: Image.Image, fast_profile: FastProfile) -> None:
    """It could take gigabytes to look into."""
    xmp = GAIN_MAP.replace(b"<dc:title>", b"<a/>" * 2**18 + b"<dc:title>")
    photo.info["xmp"] = xmp
    with pytest.warns(LossWarning, match="too large to be looked into"):
        assert saved(photo).info["xmp"] == xmp


@pytest.mark.parametrize("together", [False, True])
def test_what_the_tool_says(
    together: bool, photo: Image.Image, fast_profile: FastProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "cores", lambda: 1)
    monkeypatch.setattr(conversion, "on_gpu", lambda device: together)
    (tmp_path / "a.gif").write_bytes(frames(photo, "GIF"))
    photo.save(tmp_path / "b.jpg", xmp=GAIN_MAP)
    photo.save(tmp_path / "c.png")
    for options in ([], ["--strip"]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = CliRunner().invoke(cli.main, [str(tmp_path), "--json", "--overwrite", *options])
        assert result.exit_code == 0, result.stderr
        told = {
            Path(record["source"]).name: record["warnings"] for record in map(json.loads, result.stdout.splitlines())
        }
        assert [len(told[name]) for name in ("a.gif", "b.jpg", "c.png")] == [1, 1, 0]
        assert f"warning: {tmp_path / 'a.gif'}: only the first of 3 pictures is kept" in result.stderr
        assert (
            f"warning: {tmp_path / 'b.jpg'}: what its file has beside the picture is not kept: gain map, film"
            in result.stderr
        )
