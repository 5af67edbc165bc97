"""Files that tell desktops of the format, and the command that they call for thumbnails."""

from __future__ import annotations

import shlex
import struct
import xml.etree.ElementTree as ElementTree
from configparser import ConfigParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import display_p3, png, run
from PIL import Image

import pillow_clric
from codec.container import MAGIC
from pillow_clric.cli import main

DESKTOP = Path(__file__).parent.parent / "desktop"
MIME = "{http://www.freedesktop.org/standards/shared-mime-info}"


def thumbnailer() -> dict[str, str]:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DESKTOP / "clric.thumbnailer")
    return dict(parser["Thumbnailer Entry"])


def test_mime_type() -> None:
    [mime] = ElementTree.parse(DESKTOP / "clric.xml").getroot()
    [match] = mime.findall(f"{MIME}magic/{MIME}match")
    [glob] = mime.findall(f"{MIME}glob")
    assert mime.get("type") == Image.MIME["CLRIC"]
    assert (match.get("type"), match.get("offset")) == ("string", "0")
    assert match.attrib["value"].encode().decode("unicode_escape").encode("latin-1") == MAGIC
    assert Image.registered_extensions()[glob.attrib["pattern"].removeprefix("*")] == "CLRIC"


def test_thumbnailer(photo: Image.Image, fast_profile: object, tmp_path: Path) -> None:
    entry = thumbnailer()
    assert entry["MimeType"] == f"{Image.MIME['CLRIC']};"
    source, target = tmp_path / "a photo.clric", tmp_path / "thumbnail"
    source.write_bytes(pillow_clric.encode(photo, exif=orientation(6)))
    fields = {"%s": "16", "%i": str(source), "%o": str(target)}
    program, *arguments = [fields.get(word, word) for word in shlex.split(entry["Exec"])]
    assert program == entry["TryExec"] == "clric-convert"
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    with Image.open(target) as image:
        assert (image.format, image.size) == ("PNG", (11, 16))


def test_thumbnails_need_no_profile(fast_profile: object, tmp_path: Path) -> None:
    """Programs that show them know of none."""
    picture = Image.new("RGB", (8, 8), (40, 90, 160))
    (tmp_path / "a.clric").write_bytes(pillow_clric.encode(picture, icc_profile=display_p3()))
    result = CliRunner().invoke(main, ["thumbnail", str(tmp_path / "a.clric"), str(tmp_path / "thumbnail")])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "thumbnail") as image:
        assert "icc_profile" not in image.info
        assert image.getpixel((0, 0)) == pytest.approx((0, 91, 167), abs=1)


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def test_thumbnails_of_damaged_files(clric: bytes, tmp_path: Path) -> None:
    (tmp_path / "damaged.clric").write_bytes(clric[:-1])
    result = CliRunner().invoke(main, ["thumbnail", str(tmp_path / "damaged.clric"), str(tmp_path / "thumbnail")])
    assert result.exit_code == 1
    assert "truncated" in result.output
    assert not (tmp_path / "thumbnail").exists()


def test_thumbnails_of_damaged_photos(tmp_path: Path) -> None:
    """Of which Pillow raises errors of many kinds."""
    data = png(Image.effect_noise((64, 64), 50))
    at = data.index(b"IDAT")
    head = data[: at - 4] + struct.pack(">I", 100)
    (tmp_path / "damaged.png").write_bytes(head + data[at : at + 104] + bytes(4) + b"\0\0\0\5\xff\xfe\0\1" + data[at:])
    result = run("thumbnail", tmp_path / "damaged.png", tmp_path / "thumbnail")
    assert result.exit_code == 1
    assert result.output.startswith("Error: broken PNG file")
    (tmp_path / "damaged.png").write_text("no photo")
    result = run("thumbnail", tmp_path / "damaged.png", tmp_path / "thumbnail")
    assert result.output.startswith("Error: cannot identify its format")
    assert not (tmp_path / "thumbnail").exists()
