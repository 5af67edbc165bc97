"""The command `clric-convert compare`: the page that it makes, from Python and in a browser."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fast_profile import FastProfile
from PIL import Image, ImageCms
from safetensors.torch import save_file

from codec.lpips import Lpips
from codec.metrics import psnr
from codec.profiles import DEFAULT
from pillow_clric import cli

SAMPLE = Path(__file__).parent.parent / "samples" / "coffee.png"
NAME = """</script><script>alert("1")</script><!-- '&amp;{{data}}.png""".replace("/", "\u2215")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, ["compare", *map(str, arguments)])


def data_of(page: Path) -> Any:
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"))
    return json.loads(text)


def picture(url: str) -> Image.Image:
    with Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def photo_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of a sample, with a name that is dangerous where it is not escaped."""
    path = tmp_path_factory.mktemp("photos") / NAME
    with Image.open(SAMPLE) as image:
        image.crop((250, 100, 430, 270)).save(path)
    return path


@pytest.fixture(scope="module")
def page(photo_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of that photo."""
    path = tmp_path_factory.mktemp("pages") / "page.html"
    result = run(photo_path, "-o", path, "--effort", "1", "--bpp", "0.8,0.3")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    return path


@pytest.fixture
def small(photo: Image.Image, fast_profile: FastProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A photo alone in the current folder."""
    path = tmp_path / "small.png"
    photo.save(path)
    monkeypatch.chdir(tmp_path)
    return path


# What is in the page


def test_sizes_are_equal(page: Path, photo_path: Path) -> None:
    data = data_of(page)
    assert data["rates"] == [0.3, 0.8]
    names = [codec["name"] for codec in data["codecs"]]
    assert names[:4] == [DEFAULT, "AVIF", "WebP", "JPEG"]
    [photo] = data["photos"]
    assert (photo["name"], photo["width"], photo["height"]) == (NAME, 180, 170)
    assert [(file["rate"], names[file["codec"]]) for file in photo["files"]] == [
        (rate, name) for rate in data["rates"] for name in names
    ]
    for file in photo["files"]:
        assert file["target"] == int(file["rate"] * 180 * 170 / 8)
        assert file["bpp"] == pytest.approx(8 * file["bytes"] / (180 * 170))
        if file["bytes"] > file["target"]:  # only the smallest file that there is
            assert file["quality"] == 0
    ours = [file for file in photo["files"] if names[file["codec"]] == DEFAULT]
    assert 0.95 * ours[0]["target"] < ours[0]["bytes"] <= ours[0]["target"]

    [jpeg] = [file for file in photo["files"] if names[file["codec"]] == "JPEG" and file["rate"] == 0.8]
    sizes = {}
    for quality in (jpeg["quality"], jpeg["quality"] + 1):
        buffer = BytesIO()
        with Image.open(photo_path) as image:
            image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True, subsampling="4:2:0")
        sizes[quality] = len(buffer.getvalue())
    assert sizes[jpeg["quality"]] == jpeg["bytes"] <= jpeg["target"] < sizes[jpeg["quality"] + 1]


def test_pictures_are_what_was_measured(page: Path, photo_path: Path) -> None:
    data = data_of(page)
    [photo] = data["photos"]
    original = np.asarray(picture(data["pictures"][photo["picture"]]))
    with Image.open(photo_path) as image:
        assert np.array_equal(original, np.asarray(image))
    for file in photo["files"]:
        url = data["pictures"][file["picture"]]
        if data["codecs"][file["codec"]]["name"] in ("AVIF", "WebP", "JPEG"):
            assert len(base64.b64decode(url.partition(",")[2])) == file["bytes"]
        assert psnr(original, np.asarray(picture(url))) == pytest.approx(file["psnr"])
        assert 0.3 < file["msssim"] < 1
        assert min(file["encode"], file["decode"]) > 0
    assert len(set(data["pictures"])) == len(data["pictures"])


def test_nothing_but_the_page_is_needed(page: Path) -> None:
    text = page.read_text("utf-8")
    assert NAME not in text
    assert text.count("</script>") == text.count("<script") == 2
    assert set(re.findall(r"\b\w+://[^\s\"'`]*", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert set(re.findall(r"(?:src|href)=\"([^\"]*)\"", text)) == {"data:,"}
    assert "default-src 'none'" in text
    assert "unsafe" not in text


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_photos_of_other_modes(mode: str, small: Path, photo: Image.Image) -> None:
    photo.convert(mode).save("other.tiff")
    result = run("other.tiff", "--bpp", "24")
    assert result.exit_code == 0, result.output
    data = data_of(Path("compare.html"))
    shown = picture(data["pictures"][data["photos"][0]["picture"]])
    assert np.array_equal(np.asarray(shown), np.asarray(photo.convert(mode).convert("RGB")))
    assert all("msssim" not in file for file in data["photos"][0]["files"])  # too small for it


def test_photos_are_shown_as_they_are_meant(small: Path, photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    see_through = photo.convert("RGBA")
    see_through.putalpha(0)
    see_through.save("turned.png", exif=exif)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # not one of RGB: no use
    photo.save("profile.png", icc_profile=profile)
    assert run("turned.png", "profile.png", "--bpp", "24").exit_code == 0
    data = data_of(Path("compare.html"))
    turned, other = (picture(data["pictures"][shown["picture"]]) for shown in data["photos"])
    assert turned.size == photo.size[::-1]
    assert turned.getcolors() == [(photo.width * photo.height, (255, 255, 255))]
    assert other.tobytes() == photo.tobytes()


def test_lpips(small: Path, photo: Image.Image) -> None:
    save_file(Lpips().state_dict(), "weights.safetensors")
    assert run(small, "--lpips", "weights.safetensors", "--bpp", "1").exit_code == 0
    assert {file["lpips"] for file in data_of(Path("compare.html"))["photos"][0]["files"]} == {0}  # its weights are
    result = run(small, "--lpips", small, "-o", "other.html")
    assert result.exit_code == 2
    assert "no weights of LPIPS" in result.output


# What is never lost


def test_existing_pages_are_kept(small: Path) -> None:
    page = Path("compare.html")
    page.write_text("precious")
    result = run(small)
    assert result.exit_code == 2
    assert "exists" in result.output
    assert page.read_text() == "precious"
    assert run(small, "--overwrite", "--bpp", "1").exit_code == 0
    assert data_of(page)["photos"]


def test_links_to_nothing_are_found_before_the_work(small: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").symlink_to(tmp_path / "nothing")
    result = run(small, "-o", str(tmp_path / "page.html"))
    assert result.exit_code == 2
    assert "page.html exists" in result.output


def test_photos_are_not_written_over(small: Path) -> None:
    before = small.read_bytes()
    os.link(small, "linked.html")
    for output in ("small.png", "./small.png", "linked.html"):
        result = run(small, "-o", output, "--overwrite")
        assert result.exit_code == 2
        assert "over the photo" in result.output
    assert small.read_bytes() == before


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (OSError("disk full"), 1)])
def test_pages_are_written_whole_or_not_at_all(
    error: BaseException, status: int, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    Path("compare.html").write_text("precious")
    monkeypatch.setattr(os, "replace", fail)
    result = run(small, "--overwrite", "--bpp", "1")
    assert result.exit_code == status
    assert {path.name for path in Path.cwd().iterdir()} == {"compare.html", "small.png"}
    assert Path("compare.html").read_text() == "precious"


def test_bad_photos_do_not_stop_the_others(small: Path) -> None:
    Path("text.png").write_text("no photo")
    Image.new("F", (9, 9)).save("deep.tif")
    result = run("text.png", "deep.tif", small, "--bpp", "1")
    assert result.exit_code == 1
    assert "failed: text.png: cannot identify" in result.stderr
    assert "failed: deep.tif: mode F is not supported" in result.stderr
    assert [photo["name"] for photo in data_of(Path("compare.html"))["photos"]] == ["small.png"]

    result = run("text.png", "-o", "other.html")
    assert result.exit_code == 1
    assert not Path("other.html").exists()


def test_a_codec_that_fails_is_told_in_the_page(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    # AVIF takes long for this, and which others there are depends on the machine.
    monkeypatch.setattr("pillow_clric.compare.codecs.register_others", lambda: None)
    monkeypatch.setattr(Image, "SAVE", {name: Image.SAVE[name] for name in ("JPEG", "PNG", "WEBP")})
    Image.new("RGB", (16384, 1)).save("wide.png")  # WebP ends at 16383
    result = run("wide.png", "--bpp", "1")
    assert result.exit_code == 1
    assert "failed: wide.png as WebP" in result.stderr
    data = data_of(Path("compare.html"))
    failed = [data["codecs"][file["codec"]]["name"] for file in data["photos"][0]["files"] if "error" in file]
    assert failed == ["WebP"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["missing.png"],
        ["small.png", "--bpp", "0"],
        ["small.png", "--bpp", "0.1,much"],
        ["small.png", "--bpp", "nan"],
        ["small.png", "--profile", "x"],
        ["small.png", "--device", "x"],
        ["small.png", "--device", "cuda:99"],
        ["small.png", "--effort", "10"],
        ["small.png", "-o", "."],
    ],
)
def test_usage_errors(arguments: list[str], small: Path) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert [path.name for path in Path.cwd().iterdir()] == ["small.png"]


# In a browser


def browse(page: Path, fragment: str, folder: Path) -> str:
    """The document as it is after the page's script has run, which must have had nothing to complain about."""
    assert BROWSER
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--dump-dom",
            "--virtual-time-budget=5000", "--enable-logging=stderr", page.as_uri() + fragment,
        ],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    assert ":CONSOLE" not in done.stderr
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_in_a_browser(page: Path, tmp_path: Path) -> None:
    document = browse(page, "#codec=JPEG&bpp=0.8&split=30&zoom=2", tmp_path)
    [divider] = re.findall(r"<div[^>]* role=\"slider\"[^>]*>", document)
    assert 'aria-valuenow="30"' in divider
    assert 'aria-label="Divider between original and JPEG"' in divider
    [stage] = re.findall(r"<div[^>]* id=\"stage\"[^>]*>", document)
    assert "--split: 30" in stage
    assert "sharp" in stage
    pictures = re.findall(r"<img[^>]*>", document.partition('id="stage"')[2])
    assert [re.findall('src="data:(.*?);', shown) for shown in pictures] == [["image/webp"], ["image/jpeg"]]
    [jpeg] = [file for file in data_of(page)["photos"][0]["files"] if file["rate"] == 0.8 and file["codec"] == 3]
    current = document.partition('<tr aria-current="true">')[2].partition("</tr>")[0]
    assert f"<td>{jpeg['bytes']:,}</td>" in current
    assert document.count("<polyline") == 2 * len(data_of(page)["codecs"])  # PSNR, MS-SSIM
    assert NAME not in document
