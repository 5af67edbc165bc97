"""The command `clric-convert`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import FastProfile
from PIL import Image

import pillow_clric
from pillow_clric import batches, cli

EXIF = Image.Exif()
EXIF[0x010F] = "Maker"
METADATA: dict[str, Any] = {"exif": EXIF.tobytes(), "icc_profile": b"a colour profile", "xmp": b"<x:xmpmeta/>"}


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are converted in this process, the only one that knows the fast profile."""
    monkeypatch.setattr(batches, "cores", lambda: 1)


@pytest.fixture
def folder(tmp_path: Path, photo: Image.Image, fast_profile: FastProfile) -> Path:
    """A folder with two photos, a hidden one, a text and a folder."""
    path = tmp_path / "in"
    path.mkdir()
    photo.save(path / "a.png")
    photo.convert("L").save(path / "b.PNG")
    photo.save(path / ".hidden.png")
    (path / "notes.txt").write_text("no photo")
    (path / "more.png").mkdir()
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def same(path: Path, image: Image.Image) -> bool:
    with Image.open(path) as other:
        return other.mode == image.mode and other.tobytes() == image.tobytes()


# What is converted into what


def test_there_and_back_beside_the_input(folder: Path, photo: Image.Image) -> None:
    result = run(folder / "a.png")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "a.clric" in result.stderr
    assert "1 converted" in result.stderr
    assert same(folder / "a.clric", photo)

    (folder / "a.png").unlink()
    assert run(folder / "a.clric").exit_code == 0
    assert same(folder / "a.png", photo)


def test_to_a_file(folder: Path, photo: Image.Image) -> None:
    assert run(folder / "a.png", "-o", folder / "new" / "x.clric").exit_code == 0
    for name in ("y.png", "y.webp", "y.JPG", "y.tiff"):
        assert run(folder / "new" / "x.clric", "-o", folder / name).exit_code == 0
        with Image.open(folder / name) as image:
            assert image.size == photo.size
    assert same(folder / "y.png", photo)


@pytest.mark.parametrize("output", ["new", "new/", "new/deeper", "v1.5", "named.png/"])
def test_to_a_folder(output: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert run("a.png", "-o", output).exit_code == 0
    assert names(folder / output) == {"a.clric"}


def test_folder_is_its_photos(folder: Path, tmp_path: Path) -> None:
    assert run(folder, "-o", tmp_path / "out").exit_code == 0
    assert names(tmp_path / "out") == {"a.clric", "b.clric"}


def test_folder_without_photos_is_its_clric_files(folder: Path, tmp_path: Path) -> None:
    run(folder, "-o", tmp_path / "out")
    assert run(tmp_path / "out", "-o", tmp_path / "back").exit_code == 0
    assert names(tmp_path / "back") == {"a.png", "b.png"}


def test_folder_in_place_twice(folder: Path) -> None:
    os.rename(folder / "a.png", folder / "a.bmp")
    assert run(folder).exit_code == 0
    before = names(folder)
    result = run(folder)
    assert result.exit_code == 0
    assert "2 skipped" in result.stderr
    assert names(folder) == before


def test_empty_folder(tmp_path: Path) -> None:
    assert run(tmp_path).exit_code == 0


def test_files_of_both_kinds(folder: Path, tmp_path: Path) -> None:
    run(folder / "b.PNG")
    assert run(folder / "a.png", folder / "b.clric", "-o", tmp_path / "out").exit_code == 0
    assert names(tmp_path / "out") == {"a.clric", "b.png"}


def test_renamed_clric_file(folder: Path, photo: Image.Image) -> None:
    run(folder / "a.png", "-o", folder / "a.clric")
    os.rename(folder / "a.clric", folder / "download")
    assert run(folder / "download").exit_code == 0
    assert same(folder / "download.png", photo)


def test_same_input_twice(folder: Path, tmp_path: Path) -> None:
    result = run(folder, folder / "a.png", folder / ".." / "in" / "b.PNG", "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "2 converted" in result.stderr


# What is never lost


def test_existing_outputs_are_skipped(folder: Path) -> None:
    (folder / "a.clric").write_bytes(b"precious")
    result = run(folder)
    assert result.exit_code == 0
    assert "1 converted" in result.stderr
    assert "1 skipped" in result.stderr
    assert (folder / "a.clric").read_bytes() == b"precious"


def test_overwrite(folder: Path, photo: Image.Image) -> None:
    (folder / "a.clric").write_bytes(b"old")
    assert run(folder, "--overwrite").exit_code == 0
    assert same(folder / "a.clric", photo)


def test_collisions_are_found_before_the_start(folder: Path, tmp_path: Path, photo: Image.Image) -> None:
    photo.save(folder / "a.jpg")
    result = run(folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "a.jpg" in result.stderr
    assert "a.png" in result.stderr
    assert not (tmp_path / "out").exists()


def test_inputs_are_not_written_over(folder: Path, photo: Image.Image) -> None:
    run(folder / "a.png")
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    assert run(folder / "a.png", folder / "a.clric").exit_code == 0  # both outputs exist
    result = run(folder / "a.png", folder / "a.clric", "--overwrite")
    assert result.exit_code == 2
    assert "written over the input" in result.stderr

    os.symlink(folder, folder / "link")
    result = run(folder / "a.clric", folder / "a.png", "-o", folder / "link", "--overwrite")
    assert result.exit_code == 2
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_links_are_replaced_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    os.symlink(tmp_path / "precious", folder / "a.clric")
    assert run(folder / "a.png", "--overwrite").exit_code == 0
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_outputs_are_atomic(error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.clric").write_bytes(b"old")
    before = names(folder)

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)  # when the temporary file is there
    result = run(folder / "a.png", "--overwrite")
    assert result.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert names(folder) == before
    assert (folder / "a.clric").read_bytes() == b"old"


def test_new_files_have_the_usual_permissions(folder: Path) -> None:
    run(folder / "a.png")
    assert (folder / "a.clric").stat().st_mode == (folder / "notes.txt").stat().st_mode


def test_metadata_are_kept(folder: Path, photo: Image.Image) -> None:
    photo.save(folder / "m.webp", lossless=True, exact=True, **METADATA)
    run(folder / "m.webp", "-o", folder / "m.clric")
    with Image.open(folder / "m.clric") as image:
        assert image.info == METADATA
    for name in ("m.png", "m.jpg", "n.webp"):
        run(folder / "m.clric", "-o", folder / name)
        with Image.open(folder / name) as image:
            image.load()
            assert image.getexif()[0x010F] == "Maker"
            assert image.info["icc_profile"] == METADATA["icc_profile"]
            assert image.info["xmp"] == METADATA["xmp"]


# Errors and options


def test_a_bad_file_does_not_stop_the_batch(folder: Path) -> None:
    (folder / "0.png").write_bytes(b"not a photo")
    (folder / "1.clric").write_bytes(b"not a file of ours")
    Image.new("I;16", (4, 4)).save(folder / "2.png")
    result = run(folder, folder / "1.clric")
    assert result.exit_code == 1
    assert "2 converted" in result.stderr
    assert "3 failed" in result.stderr
    assert "convert to L first" in result.stderr
    assert "not a .clric file" in result.stderr
    assert not (folder / "0.clric").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["missing.png"],
        ["a.png", "-q", "101"],
        ["a.png", "-e", "0"],
        ["a.png", "-j", "0"],
        ["a.png", "--target-size", "0"],
        ["a.png", "--target-size", "1 GB"],
        ["a.png", "--target-bpp", "0"],
        ["a.png", "--target-bpp", "1", "--target-size", "1kB"],
        ["a.png", "--target-bpp", "1", "-q", "75"],
        ["a.png", "--profile", "jpeg"],
        ["a.png", "-o", "a.jpg"],
        ["x.clric", "-o", "y.clric"],
        ["x.clric", "-o", "y.psd"],
        ["a.png", "-o", "notes.txt"],
        ["a.png", "b.PNG", "-o", "both.clric"],
        [".", "-o", "all.clric"],
    ],
)
def test_usage_errors(arguments: list[str], folder: Path, clric: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("x.clric").write_bytes(clric)
    before = names(folder)
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error" in result.stderr
    assert names(folder) == before


def test_options_arrive(folder: Path, tmp_path: Path, fast_profile: FastProfile) -> None:
    run(folder / "a.png", "-q", "12.5", "-e", "3", "--device", "cpu", "--profile", "clric", "--model", "base")
    settings = fast_profile.settings[-1]
    assert (settings.quality, settings.effort, settings.device, settings.model) == (12.5, 3, "cpu", "base")
    run(folder / "a.clric", "-o", tmp_path / "a.png", "--device", "cpu")
    assert fast_profile.devices[-1] == "cpu"

    run(folder / "b.PNG")
    settings = fast_profile.settings[-1]
    assert (settings.quality, settings.effort, settings.device) == (75, 5, "auto")


@pytest.mark.parametrize(
    ("arguments", "quality", "size", "bpp"),
    [
        ([], 75, None, None),
        (["-q", "0"], 0, None, None),
        (["--target-bpp", "0.25"], 75, None, 0.25),
        (["--target-size", "5000"], 75, 5000, None),
        (["--target-size", "200kB"], 75, 200_000, None),
        (["--target-size", "1.5 MB"], 75, 1_500_000, None),
        (["--target-size", "64KiB"], 75, 65_536, None),
        (["--target-size", "0.5m"], 75, 500_000, None),
    ],
)
def test_quality_or_a_target(
    arguments: list[str],
    quality: float,
    size: int | None,
    bpp: float | None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def encode(image: Image.Image, **options: Any) -> bytes:
        assert (options["quality"], options["target_size"], options["target_bpp"]) == (quality, size, bpp)
        return b"coded"

    monkeypatch.setattr(batches, "encode", encode)
    result = run(folder / "a.png", *arguments)
    assert result.exit_code == 0, result.stderr


def test_interrupt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> bytes:
        raise KeyboardInterrupt

    before = names(folder)
    monkeypatch.setattr(batches, "encode", interrupt)
    assert run(folder).exit_code == 130
    assert names(folder) == before


def test_progress_on_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    seen: list[tuple[Any, ...]] = []

    class Stage(cli.Reporter):
        def begin(self, name: str) -> Any:
            show = super().begin(name)

            def shown(done: int, total: int) -> None:
                show(done, total)
                task = self._progress.tasks[1]
                seen.append((task.description, task.completed, task.total, task.visible))

            return shown

    monkeypatch.setattr(cli, "Reporter", Stage)
    run(folder)
    assert seen == [(name, done, 3, True) for name in ("a.png", "b.PNG") for done in (1, 2, 3)]


# As a program


def program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pillow_clric.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from pillow_clric.cli import main
try:
    main(["--help"])
except SystemExit:
    heavy = {"torch", "numpy", "constriction", "rich"} & set(sys.modules)
    assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "INPUT..." in result.stdout


def test_version() -> None:
    result = program("--version")
    assert result.returncode == 0
    assert pillow_clric.__version__ in result.stdout


def test_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "bad.clric").write_bytes(b"bad")
    result = program(tmp_path / "bad.clric")
    assert (result.returncode, result.stdout) == (1, "")
    assert "failed" in result.stderr
    assert program().returncode == 2


def test_ctrl_c(folder: Path) -> None:
    script = """
import signal, time
from pillow_clric import batches, cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
def slow(*_, **__):
    print("started", flush=True)
    time.sleep(60)
batches.encode, batches.cores, cli.check_profile = slow, lambda: 1, lambda *names: None
cli.main()
"""
    before = names(folder)
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
    assert names(folder) == before


def test_real_conversion(tmp_path: Path, photo: Image.Image) -> None:
    photo.crop((0, 0, 24, 16)).save(tmp_path / "a.png")
    result = program(tmp_path / "a.png", "-e", "1", "-o", tmp_path / "a.clric")
    assert result.returncode == 0, result.stderr
    result = program(tmp_path / "a.clric", "-o", tmp_path / "b.png")
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "b.png") as image:
        assert (image.size, image.mode) == ((24, 16), "RGB")
