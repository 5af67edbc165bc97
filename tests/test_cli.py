"""The command `clric-convert`."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from conftest import no_space, run
from fast_profile import FastProfile
from PIL import Image

import pillow_clric
from codec.profiles import DEFAULT
from pillow_clric import cli
from pillow_clric.convert import inputs, one_file
from pillow_clric.convert.formats import to_format
from pillow_clric.convert.report import Report

SAMPLES = Path(__file__).parent.parent / "samples"

EXIF = Image.Exif()
EXIF[0x010F] = "Maker"
METADATA: dict[str, Any] = {"exif": EXIF.tobytes(), "icc_profile": b"a colour profile", "xmp": b"<x:xmpmeta/>"}


pytestmark = pytest.mark.usefixtures("one_core")


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


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def tree(folder: Path) -> set[str]:
    """The files in a folder and below it, also hidden ones."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


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


def test_photos_that_pillow_does_not_read_are_named(folder: Path) -> None:
    """They are not left out of a folder without a word."""
    (folder / "IMG.HEIC").write_bytes(b"a photo")
    (folder / "more.png" / "raw.dng").write_bytes(b"a photo")
    result = run(folder, "-r")
    assert result.exit_code == 0
    assert f"2 photos like {folder / 'IMG.HEIC'} are left out" in result.stderr
    assert "left out" not in run(folder, "-r", "--quiet").stderr


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


# Trees


@pytest.fixture
def trees(folder: Path) -> Path:
    """`folder`, with photos below it, a link that goes round in circles, and a pipe."""
    (folder / "sub" / "deep").mkdir(parents=True)
    shutil.copy(folder / "a.png", folder / "sub" / "a.png")
    shutil.copy(folder / "a.png", folder / "sub" / "deep" / "-x.tif.png")
    os.symlink("..", folder / "sub" / "up")
    os.mkfifo(folder / "sub" / "pipe.png")
    return folder


TREE = {"a.clric", "b.clric", "sub/a.clric", "sub/deep/-x.tif.clric"}


def test_recursive_mirrors_the_tree(trees: Path, tmp_path: Path) -> None:
    assert run(trees, "-r", "-o", tmp_path / "out").exit_code == 0
    assert tree(tmp_path / "out") == TREE
    assert run("-r", tmp_path / "out", "-o", tmp_path / "back").exit_code == 0
    assert tree(tmp_path / "back") == {name.replace(".clric", ".png") for name in TREE}


@pytest.mark.parametrize("output", [None, "new"])
def test_recursive_twice(output: str | None, trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trees)
    where = ["-o", output] if output else []
    assert run(".", "-r", *where).exit_code == 0
    before = tree(trees)
    assert {str(Path(output or "", name)) for name in TREE} < before
    result = run(".", "-r", *where)
    assert result.exit_code == 0
    assert "0 converted; 4 skipped" in result.stderr
    assert tree(trees) == before


def test_output_folder_in_the_tree_is_no_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, "-o", folder / "coded")
    monkeypatch.chdir(folder / "coded")
    for _ in range(2):
        assert run(".", "-r", "-o", "png").exit_code == 0
    assert tree(folder / "coded") == {"a.clric", "b.clric", "png/a.png", "png/b.png"}


def test_folders_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    place = os.open(folder, os.O_RDONLY)
    for _ in range(20):  # the path becomes too long to be given
        os.mkdir("d" * 250, dir_fd=place)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    result = run(folder, "-r", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert re.search(r"failed: .*d: File name too long", result.stderr)
    assert [record["status"] for record in records(result)] == ["failed", "converted", "converted"]


def test_broken_links_are_told(folder: Path) -> None:
    os.symlink("loop.png", folder / "loop.png")
    os.symlink("missing.png", folder / "c.png")
    result = run(folder)
    assert result.exit_code == 1
    assert f"failed: {folder / 'loop.png'}: Too many levels of symbolic links\n" in result.stderr
    assert f"failed: {folder / 'c.png'}: No such file or directory\n" in result.stderr
    assert "2 converted" in result.stderr


# Names


def test_threads_wait_without_spinning() -> None:
    """Torch reads it when it is imported, which the command does later."""
    program = "import os, sys, pillow_clric.cli; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    for told in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | told
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert run.stdout.split() == [told.get("OMP_WAIT_POLICY", "PASSIVE"), "False"]


@pytest.mark.parametrize(
    "name", ["-q.png", "--help.png", "ä ö.png", "new\nline.png", "\x1b[31mred.png", "odd\udcff.png"]
)
def test_odd_names(name: str, folder: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    os.rename("a.png", name)
    result = run("--json", "--", name)
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == 2
    assert "\x1b" not in result.stderr
    [record] = records(result)
    unicode = name.encode(errors="backslashreplace").decode()  # a lone surrogate is no text for strict readers of JSON
    assert (record["source"], Path(record["target"])) == (unicode, Path(unicode).with_suffix(".clric"))
    assert same(Path(name).with_suffix(".clric"), photo)


def test_files_named_like_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in ("info", "-"):
        shutil.copy("a.png", f"./{name}")
        result = run(f"./{name}", "-o", f"x{name}.clric")
        assert result.exit_code == 0
        assert "1 converted" in result.stderr


def test_names_of_any_length(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    os.rename("a.png", "a" * 249 + ".png")
    os.rename("b.PNG", "b" * 251 + ".png")
    result = run(".")
    assert result.exit_code == 1
    assert "1 converted" in result.stderr
    assert "cannot be written: File name too long" in result.stderr
    assert "a" * 249 + ".clric" in names(folder)


# Standard input and output


def pipe(data: bytes, *arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], input=data)


def test_names_that_the_output_cannot_hold(folder: Path) -> None:
    """As on Windows, where what goes to a file has an encoding of few letters."""
    run(folder / "a.png", "-o", folder / "日é.clric")
    result = CliRunner(charset="cp1252").invoke(cli.main, ["info", str(folder / "日é.clric")])
    assert result.exit_code == 0
    assert r"\u65e5é.clric" in result.stdout


def test_stdin_to_stdout(folder: Path, photo: Image.Image) -> None:
    coded = pipe((folder / "a.png").read_bytes(), "-", "-q", "30")
    assert coded.exit_code == 0
    assert "- -> -" in coded.stderr
    decoded = pipe(coded.stdout_bytes, "-", "-o", "-")
    with Image.open(BytesIO(decoded.stdout_bytes), formats=["PNG"]) as image:
        assert image.tobytes() == photo.tobytes()


def test_stdin_to_a_file_and_file_to_stdout(folder: Path, photo: Image.Image) -> None:
    assert pipe((folder / "a.png").read_bytes(), "-", "-o", folder / "x.clric").exit_code == 0
    result = run(folder / "x.clric", "-o", "-")
    with Image.open(BytesIO(result.stdout_bytes), formats=["PNG"]) as image:
        assert image.tobytes() == photo.tobytes()


def test_stdin_of_other_commands(folder: Path, photo: Image.Image) -> None:
    photo.save(folder / "t.clric")
    data = (folder / "t.clric").read_bytes()
    assert pipe(data, "info", "-").stdout.startswith("/dev/stdin\n  picture")
    assert pipe(data, "verify", "-").stderr == "1 good, 0 bad\n"
    assert pipe(data[:-1], "verify", "-").exit_code == 1
    assert pipe(data, "thumbnail", "-", folder / "small.png").exit_code == 0
    assert same(folder / "small.png", photo)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_turned_tiff(mode: str, folder: Path, photo: Image.Image) -> None:
    """Pillow would map it into memory, if it were to open it by its name, and then show noise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.convert(mode).save(folder / "turned.tif", exif=exif)
    assert run("thumbnail", folder / "turned.tif", folder / "small.png").exit_code == 0
    assert same(folder / "small.png", photo.convert(mode).transpose(Image.Transpose.ROTATE_270))


def test_stdin_that_is_no_image(fast_profile: FastProfile) -> None:
    result = pipe(b"", "-")
    assert (result.exit_code, result.stdout_bytes) == (1, b"")
    assert "failed: -: cannot identify" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["-", "a.png"], ["-", "-o", "out/"], ["-", "-o", "x.png"], [".", "-o", "-"], ["a.png", "-o", "-", "--json"]],
)
def test_usage_of_streams(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before = names(folder)
    result = pipe((folder / "a.png").read_bytes(), *arguments)
    assert (result.exit_code, result.stdout_bytes) == (2, b"")
    assert names(folder) == before


def test_streams_by_the_names_that_shells_give_them(folder: Path, photo: Image.Image) -> None:
    script = """
clric <(cat a.png) -o x.clric
clric <(cat a.png) <(cat b.PNG) -o out/
cat a.png | clric /dev/stdin -o /dev/stdout >y.clric
clric x.clric -o /dev/stdout | clric /dev/stdin -o /dev/fd/3 3>z.clric
clric a.png -o >(cat >w.clric); wait $!
clric a.png -o /dev/null --overwrite
clric verify <(cat w.clric) && clric info --detail --json <(cat w.clric) >info.json
"""
    shell(script, folder)
    assert all(same(path, photo) for path in map(folder.joinpath, ("x.clric", "y.clric", "z.clric", "w.clric")))
    assert len(names(folder / "out")) == 2
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert json.loads((folder / "info.json").read_text())["width"] == photo.width


def test_pipes_by_name(folder: Path, photo: Image.Image) -> None:
    for name in ("in", "out", "out.jpg"):
        os.mkfifo(folder / name)
    with ThreadPoolExecutor() as others:
        others.submit((folder / "in").write_bytes, (folder / "a.png").read_bytes())
        written = others.submit((folder / "out").read_bytes)
        assert run(folder / "in", "-o", folder / "out").exit_code == 0
        others.submit((folder / "in").write_bytes, written.result())
        written = others.submit((folder / "out.jpg").read_bytes)
        assert run(folder / "in", "-o", folder / "out.jpg").exit_code == 0
    with Image.open(BytesIO(written.result()), formats=["JPEG"]) as image:
        assert image.size == photo.size
    assert (folder / "out").is_fifo()


@contextmanager
def terminal() -> Iterator[tuple[int, list[bytes]]]:
    """A terminal, and what is written to it, which is complete in the end."""
    ours, theirs = pty.openpty()
    written = list[bytes]()

    def read() -> None:
        try:
            while data := os.read(ours, 2**16):
                written.append(data)
        except OSError:  # it is closed
            pass

    reading = threading.Thread(target=read)
    reading.start()
    try:
        yield theirs, written
    finally:
        os.close(theirs)
        reading.join()
        os.close(ours)


def test_no_picture_on_a_terminal(folder: Path) -> None:
    with terminal() as (screen, written):
        command = [sys.executable, "-m", "pillow_clric.cli", str(folder / "a.png"), "-o", "-"]
        result = subprocess.run(command, stdout=screen, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 2
    assert "terminal" in result.stderr
    assert written == []


# A program with the fast profile
FAST = """
import fast_profile
fast_profile.alone()
from pillow_clric import cli
from pillow_clric.convert import run
run.cores = lambda: 1
cli.main()
"""


def fast(*arguments: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    """`FAST` with pipes for what is not in `how`."""
    environment = {
        **os.environ,
        "TERM": "xterm",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    command = [sys.executable, "-c", FAST, "--device", "cpu", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(command, text=True, env=environment, check=False, **{**pipes, **how})


def shell(script: str, folder: Path, **how: Any) -> subprocess.CompletedProcess[str]:
    """A script of bash in which `clric` is a program with the fast profile."""
    own = ["-c", FAST.replace("cli.main()", "cli.main(prog_name='clric')")]
    start = f'set -e; clric() {{ {shlex.join([sys.executable, *own])} "$@"; }}\n'
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    options = {"check": True, "capture_output": True, **how}
    command = ["bash", "-c", start + script]
    return subprocess.run(command, text=True, cwd=folder, env=os.environ | {"PYTHONPATH": path}, **options)


def test_records_beside_a_progress_bar(folder: Path) -> None:
    with terminal() as (screen, written):
        result = fast(folder / "a.png", "--json", stderr=screen)
    assert result.returncode == 0
    assert json.loads(result.stdout)["status"] == "converted"
    assert b"1 converted" in b"".join(written)
    assert b"source" not in b"".join(written)


@pytest.mark.parametrize("arguments", [("-o", "zero.clric"), ("verify",)])
def test_streams_that_do_not_end(arguments: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MOST", 1 << 20)
    monkeypatch.chdir(folder)
    result = run(*arguments, "/dev/zero")
    assert result.exit_code == 1
    assert "/dev/zero: it gives more than 0 GiB" in result.stderr
    assert not list(folder.glob("zero.*"))


def test_closed_pipe(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = fast(folder / "a.png", "-o", "-", stdout=writing)
    os.close(writing)
    assert result.returncode == 1
    assert result.stderr.startswith(f"failed: {folder / 'a.png'}: stdout cannot be written: Broken pipe\n0 converted")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("2>/dev/full", 1, ""),
        ("2>&-", 1, ""),
        ("--quiet >&- 2>&-", 0, ""),  # nothing was to be said
        ("-j2 <&- >&- 2>&-", 1, ""),
        ("--json >/dev/full", 1, "\nstdout cannot be written: No space left on device\n"),
        ("--json >&-", 1, "\nstdout cannot be written: Bad file descriptor\n"),
        ("--json | true; exit ${PIPESTATUS[0]}", 1, "2 converted"),
    ],
)
def test_conversion_goes_on_where_nothing_can_be_said(arguments: str, status: int, said: str, folder: Path) -> None:
    result = shell(f"clric a.png b.PNG -e1 {arguments}", folder, check=False)
    assert {"a.clric", "b.clric"} <= names(folder)
    assert result.returncode == status
    assert said in result.stderr
    assert "rror" not in result.stderr


@pytest.mark.parametrize("command", ["--help", "info *.clric", "verify --json *.clric", "models list"])
def test_what_cannot_be_said(command: str) -> None:
    for target, why in (
        (">/dev/full", "No space left on device"),
        (">&-", "Bad file descriptor"),
        ("| true; exit ${PIPESTATUS[0]}", ""),
    ):
        result = shell(f"clric {command} {target}", SAMPLES, check=False)
        said = why and f"stdout cannot be written: {why}\n"
        assert (result.returncode, result.stderr) == (1, said)


@pytest.mark.parametrize("streams", ["<&-", "0>/dev/null"])
def test_stdin_that_cannot_be_read(streams: str, folder: Path) -> None:
    result = shell(f"clric - -o x.clric {streams}", folder, check=False)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert "Error: stdin " in result.stderr


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
    (tmp_path / "other").mkdir()
    photo.save(tmp_path / "other" / "a.png")
    result = run(folder, tmp_path / "other", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert str(folder / "a.png") in result.stderr
    assert str(tmp_path / "other" / "a.png") in result.stderr
    assert not (tmp_path / "out").exists()


def test_inputs_that_differ_in_the_ends_of_their_names(folder: Path, tmp_path: Path, photo: Image.Image) -> None:
    out = tmp_path / "out"
    for name in ("a.jpg", "a.jpg.png"):  # the second is called like the first one's output
        photo.save(folder / name)
    result = run(folder, "-o", out)
    assert result.exit_code == 0
    assert names(out) == {"a.jpg.clric", "a.png.clric", "a.jpg.png.clric", "b.clric"}
    assert f"3 outputs are named like {out / 'a.jpg.clric'}: " in result.stderr
    assert result.stderr.count(" are named ") == 1
    assert "4 skipped" in run(folder, "-o", out).stderr
    assert " are named " not in run(folder, "-o", out, "--quiet").stderr

    run(out, "-o", tmp_path / "back")
    assert names(tmp_path / "back") == {"a.jpg.png", "a.png.png", "a.jpg.png.png", "b.png"}
    run(out, "-o", tmp_path / "back", "--overwrite")
    assert len(names(tmp_path / "back")) == 4


def test_names_that_are_one_on_some_disks(tmp_path: Path, photo: Image.Image, fast_profile: FastProfile) -> None:
    """Where letters may be small or not, and accents are composed or not: the outputs can be copied to any disk."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in ("A.jpg", "a.png", "é.jpg", "e\u0301.png", "I.png", "i.png", "i.png-2.bmp", "X/b.png", "x/b.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(photos / name)
    result = run(photos, "-r", "-o", out)
    assert result.exit_code == 0
    found = [path.relative_to(out).as_posix() for path in out.rglob("*.clric")]
    assert len({unicodedata.normalize("NFC", path.casefold()) for path in found}) == 9
    assert {"A.jpg.clric", "a.png.clric", "I.png.clric", "i.png-2.clric", "i.png-2.bmp.clric"} < {*found}
    assert {"X/b.png.clric", "x/b.jpg.clric"} < {*found}
    assert f"9 outputs are named like {out / 'A.jpg.clric'}: " in result.stderr
    assert "9 skipped" in run(photos, "-r", "-o", out).stderr


def test_inputs_that_are_targets_on_some_disks(tmp_path: Path, photo: Image.Image, fast_profile: FastProfile) -> None:
    photo.save(tmp_path / "a.png")
    photo.rotate(180).save(tmp_path / "A.clric")
    before = (tmp_path / "A.clric").read_bytes()
    assert run(tmp_path / "a.png", tmp_path / "A.clric", "-n", "--overwrite").exit_code == 0
    (tmp_path / "a.clric").hardlink_to(tmp_path / "A.clric")  # as if there were one name for both
    result = run(tmp_path / "a.png", tmp_path / "A.clric", "--overwrite")
    assert result.exit_code == 2
    assert "written over the input" in result.stderr
    assert (tmp_path / "a.clric").read_bytes() == before


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
    photo.save(folder / "c.jpg")
    result = run(folder / "a.clric", folder / "c.jpg", "--importance", folder / "a.png", "--overwrite")
    assert result.exit_code == 2
    assert "written over the input" in result.stderr
    (folder / "c.jpg").unlink()
    assert run("thumbnail", folder / "a.clric", folder / "link" / "a.clric").exit_code == 2
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_inputs_that_links_lead_to_are_not_written_over(folder: Path) -> None:
    run(folder / "a.png")
    (folder / "photos").mkdir()
    real = folder / "photos" / "real.clric"
    (folder / "a.clric").rename(real)
    os.symlink(real, folder / "link.clric")
    before = real.read_bytes()
    result = run("--repair", folder / "link.clric", "-o", real, "--overwrite")
    assert result.exit_code == 2
    assert "written over the input" in result.stderr
    for arguments in (("link.clric", real), ("a.png", real)):
        result = run("thumbnail", folder / arguments[0], arguments[1])
        assert result.exit_code == 2
        assert "the thumbnail would be written over" in result.stderr
    assert real.read_bytes() == before


def test_misnamed_files_of_a_folder_do_not_stop_the_others(folder: Path) -> None:
    run(folder / "a.png")
    (folder / "a.clric").rename(folder / "c.png")
    result = run(folder)
    assert result.exit_code == 1
    assert f"failed: {folder / 'c.png'}: it is a .clric file and named like a photo: rename it" in result.stderr
    assert names(folder) >= {"a.clric", "b.clric"}
    assert run(folder / "c.png").exit_code == 2  # named itself, it needs another output


@pytest.mark.parametrize("number", ["9" * 400, "9" * 400 + "kB"])
def test_huge_targets_are_as_none(number: str, folder: Path) -> None:
    assert run(folder / "a.png", "--target-size", number).exit_code == 0


def test_numbers_that_are_none(folder: Path) -> None:
    run(folder / "a.png")
    for option in ("-q", "--target-bpp"):
        result = run(folder / "a.clric", option, "nan", "-o", folder / "x.jpg")
        assert result.exit_code == 2
        assert "'nan' is no number" in result.stderr


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


def test_what_is_written_over_keeps_its_permissions(folder: Path) -> None:
    (folder / "a.clric").write_bytes(b"old")
    (folder / "a.clric").chmod(0o600)
    assert run(folder / "a.png", "--overwrite").exit_code == 0
    assert stat.S_IMODE((folder / "a.clric").stat().st_mode) == 0o600


def test_full_disk(folder: Path) -> None:
    (folder / "a.clric").write_bytes(b"old")
    before = names(folder)
    with no_space(100):
        result = run(folder, "--overwrite")
    assert result.exit_code == 1
    assert f"failed: {folder / 'a.png'}: {folder / 'a.clric'} cannot be written: File too large\n" in result.stderr
    assert "2 failed" in result.stderr
    assert names(folder) == before
    assert (folder / "a.clric").read_bytes() == b"old"


@pytest.mark.parametrize("arguments", ["thumbnail a.png new", "compare a.png -o new"])
def test_full_disk_of_other_commands(arguments: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with no_space(100):
        result = run(*arguments.split())
    assert result.exit_code == 1
    assert "Error: new cannot be written: File too large\n" in result.stderr
    assert not Path("new").exists()


def test_targets_that_cannot_be_written(folder: Path, fast_profile: FastProfile) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "a.clric").mkdir()
    os.symlink("loop", folder / "loop")
    for output, why in {
        folder / "out": "a.clric is a folder",
        folder / "notes.txt" / "out": "notes.txt is no folder",
        folder / "loop" / "x.clric": "Too many levels of symbolic links",
    }.items():
        result = run(folder / "a.png", "-o", output)
        assert result.exit_code == 1
        assert why in result.stderr
    assert not fast_profile.used  # found before the slow work


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_what_is_forbidden(folder: Path) -> None:
    for name, mode in {"closed": 0o000, "read-only": 0o555}.items():
        (folder / name).mkdir()
        shutil.copy(folder / "a.png", folder / name)
        (folder / name).chmod(mode)
    (folder / "b.PNG").chmod(0)
    result = run(folder, "-r")
    for name in ("closed", "read-only"):
        (folder / name).chmod(0o755)
    assert result.exit_code == 1
    assert f"failed: {folder / 'closed'}: Permission denied" in result.stderr
    assert f"failed: {folder / 'b.PNG'}: Permission denied" in result.stderr
    assert "nothing can be written to the folder" in result.stderr
    assert "1 converted" in result.stderr
    assert "3 failed" in result.stderr


def test_inputs_that_are_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode_and_remove(image: Image.Image, **options: Any) -> bytes:
        for name in ("a.png", "b.PNG"):
            (folder / name).unlink()
        return pillow_clric.encode(image, **options)

    monkeypatch.setattr(one_file, "encode", encode_and_remove)
    result = run(folder)
    assert result.exit_code == 1
    assert f"failed: {folder / 'b.PNG'}: No such file or directory\n" in result.stderr
    assert "1 converted" in result.stderr
    assert (folder / "a.clric").exists()


def test_outputs_that_others_wrote_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode_late(image: Image.Image, **options: Any) -> bytes:
        (folder / "a.clric").write_bytes(b"precious")
        return pillow_clric.encode(image, **options)

    monkeypatch.setattr(one_file, "encode", encode_late)
    result = run(folder / "a.png")
    assert result.exit_code == 1
    assert "meanwhile" in result.stderr
    assert (folder / "a.clric").read_bytes() == b"precious"
    assert run(folder / "a.png", "--overwrite").exit_code == 0


def test_leftovers_of_killed_processes_are_removed(folder: Path) -> None:
    run(folder)
    script = """
import os, signal, sys
from pathlib import Path
from pillow_clric.convert import outputs
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
outputs.write(Path(sys.argv[1]), b"half")
"""
    before = names(folder)
    subprocess.run([sys.executable, "-c", script, str(folder / "z.clric")], check=False)
    [left] = names(folder) - before
    assert left.startswith(".")
    assert "2 skipped" in run(folder).stderr
    assert names(folder) == before


def test_what_others_are_writing_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def clean_and_replace(*paths: Path) -> None:
        script = "import sys; from pathlib import Path; from pillow_clric.convert import outputs; "
        script += "outputs.remove_leftovers(Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
        replace(*paths)

    monkeypatch.setattr(os, "replace", clean_and_replace)
    assert run(folder / "a.png").exit_code == 0
    assert "a.clric" in names(folder)


# What is kept


@pytest.mark.parametrize("name", ["x.clric", "x.png"])
def test_preserve(name: str, folder: Path) -> None:
    run(folder / "a.png", "-o", folder / "y.clric")
    source = folder / ("a.png" if name == "x.clric" else "y.clric")
    source.chmod(0o640)
    os.utime(source, (10**9, 10**9))
    run(source, "-o", folder / name, "-p")
    state = (folder / name).stat()
    assert (state.st_mtime, state.st_mode & 0o777) == (10**9, 0o640)


def turned(photo: Image.Image, path: Path) -> Image.Image:
    """Write `photo` so that it is to be turned when it is shown; returns what it then looks like."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(path, exif=exif, icc_profile=b"a colour profile")
    return photo.transpose(Image.Transpose.ROTATE_270)


def test_orientation_is_kept(folder: Path, photo: Image.Image) -> None:
    turned(photo, folder / "t.png")
    run(folder / "t.png", "-o", folder / "t.clric")
    for name in ("t.clric", "u.png", "u.jpg", "u.webp", "u.avif"):
        assert "warning" not in run(folder / "t.clric", "-o", folder / name).stderr
        with Image.open(folder / name) as image:
            assert (image.size, image.getexif()[0x0112]) == (photo.size, 6)
    run(folder / "t.clric", "-o", folder / "u.tiff")
    with Image.open(folder / "u.tiff") as image:
        assert image.tag_v2[0x0112] == 6  # type: ignore[attr-defined]


def test_pictures_are_turned_where_nothing_says_so(folder: Path, photo: Image.Image) -> None:
    upright = turned(photo, folder / "t.png")
    run(folder / "t.png", "-o", folder / "t.clric")
    for suffix in ("gif", "bmp", "ico", "jp2", "tga", "ppm", "sgi"):
        result = run(folder / "t.clric", "-o", folder / f"u.{suffix}")
        assert result.exit_code == 0
        assert f"warning: {folder / 't.clric'}: EXIF left out" in result.stderr
        with Image.open(folder / f"u.{suffix}") as image:
            assert (image.width < image.height) == (upright.width < upright.height)
            assert 0x0112 not in image.getexif()
    run(folder / "t.clric", "-o", folder / "u.pdf")
    box = re.search(rb"/MediaBox \[ 0 0 (\S+) (\S+) \]", (folder / "u.pdf").read_bytes())
    assert box
    assert float(box[1]) < float(box[2])


def odd_exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF with entries of tag, type, count and value."""
    packed = b"".join(struct.pack(">HHI4s", *entry) for entry in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + packed + bytes(4)


LARGE = Image.Exif()
LARGE[0x010F] = "M" * 70_000
LARGE.get_ifd(0x8769)[0x829A] = 0.5


@pytest.mark.parametrize(
    ("suffix", "metadata", "why"),
    [
        ("jpg", {"exif": LARGE.tobytes()}, "JPEG files cannot hold its EXIF of 70"),
        ("jpg", {"xmp": bytes(70_000)}, "JPEG files cannot hold its XMP of 70000 bytes: "),
        ("avif", {"exif": b"Exif\0\0garbage"}, "AVIF files cannot hold its EXIF, which is damaged: "),
        ("tiff", {"exif": b"Exif\0\0garbage"}, "TIFF files cannot hold its EXIF, which is damaged: "),
        (
            "avif",
            {"exif": odd_exif((0x0112, 2, 4, b"top"))},
            "AVIF files cannot hold its EXIF tag Orientation, 'top': ",
        ),
        (
            "tiff",
            {"exif": odd_exif((0x0112, 2, 4, b"top"))},
            "TIFF files cannot hold its EXIF tag Orientation, 'top': ",
        ),
        (
            "tiff",
            {"exif": odd_exif((0x011A, 2, 4, b"abc"))},
            "TIFF files cannot hold its EXIF tag XResolution, 'abc': ",
        ),
    ],
)
def test_metadata_that_a_format_cannot_hold(
    suffix: str, metadata: dict[str, Any], why: str, folder: Path, photo: Image.Image
) -> None:
    photo.save(folder / "t.clric", **metadata)
    result = run(folder / "t.clric", "-o", folder / f"t.{suffix}")
    assert result.exit_code == 1
    assert f"failed: {folder / 't.clric'}: {why}" in result.stderr
    assert "--strip" in result.stderr
    for arguments in ([f"t.{suffix}", "--strip"], ["t.pdf"], ["t.gif"], ["t.png"]):
        name, *strip = arguments
        assert run(folder / "t.clric", "-o", folder / name, *strip).exit_code == 0
    with Image.open(folder / "t.png") as image:
        image.load()
        assert image.info.items() >= metadata.items()


def test_damaged_photos(folder: Path, photo: Image.Image) -> None:
    """Readers of damaged files may fail in Python's words alone."""
    photo.save(folder / "t.bmp")
    (folder / "t.bmp").write_bytes((folder / "t.bmp").read_bytes()[:-7])
    (folder / "t.ppm").write_bytes(b"P6 4 four 255\n" + bytes(48))
    for name in ("t.bmp", "t.ppm"):
        result = run(folder / name)
        assert result.exit_code == 1
        assert f"failed: {folder / name}: it is damaged, or of a kind that Pillow cannot read: " in result.stderr


def test_xmp_that_is_no_utf8(folder: Path, photo: Image.Image) -> None:
    """PNG files hold text: what is none is not changed without a word."""
    text = "<x:xmpmeta>é</x:xmpmeta>"
    photo.save(folder / "t.clric", xmp=text.encode("utf-16"))
    assert run(folder / "t.clric", "-o", folder / "t.png").exit_code == 0
    with Image.open(folder / "t.png") as image:
        assert image.info["xmp"] == text.encode()
    photo.save(folder / "t.clric", xmp=text.encode("latin-1"))
    result = run(folder / "t.clric", "-o", folder / "t.png", "--overwrite")
    assert result.exit_code == 1
    assert "PNG files cannot hold its XMP, which is no UTF-8: --strip leaves metadata out\n" in result.stderr
    for arguments in (["u.jpg"], ["u.png", "--strip"]):
        assert run(folder / "t.clric", "-o", folder / arguments[0], *arguments[1:]).exit_code == 0


@pytest.mark.parametrize(("suffix", "size"), [(".xbm", (8, 8)), (".webp", (20000, 1)), (".blp", (8, 8))])
def test_pictures_that_a_format_cannot_hold(suffix: str, size: tuple[int, int], folder: Path) -> None:
    Image.new("RGB", size).save(folder / "t.clric")
    result = run(folder / "t.clric", "-o", folder / f"t{suffix}")
    assert result.exit_code == 1
    assert f"failed: {folder / 't.clric'}: {suffix[1:].upper()} files cannot hold it (" in result.stderr
    assert "): choose another format, such as PNG\n" in result.stderr


def test_turned_though_other_tags_are_odd(folder: Path, photo: Image.Image) -> None:
    photo.save(folder / "t.clric", exif=odd_exif((0x0112, 3, 1, b"\0\6"), (0x011A, 2, 4, b"abc")))
    for arguments in (["u.bmp"], ["u.png", "--strip"]):
        run(folder / "t.clric", "-o", folder / arguments[0], *arguments[1:])
        assert same(folder / arguments[0], photo.transpose(Image.Transpose.ROTATE_270))
    assert run("thumbnail", folder / "t.clric", folder / "small.png").exit_code == 0
    assert same(folder / "small.png", photo.transpose(Image.Transpose.ROTATE_270))
    photo.save(folder / "t.clric", exif=b"Exif\0\0garbage")
    assert run("thumbnail", folder / "t.clric", folder / "small.png").exit_code == 0
    assert same(folder / "small.png", photo)


def test_warnings_of_pillow_are_not_shown(
    folder: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """They name lines of its code; what matters of them is told otherwise."""
    odd = odd_exif((0x010F, 2, 100, struct.pack(">I", 9999)), (0x0112, 3, 1, b"\0\6"))
    photo.save(folder / "odd.clric", exif=odd)
    photo.save(folder / "odd.png", exif=odd)
    recwarn.clear()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for arguments in (["odd.clric", "-o", "odd.bmp"], ["odd.png", "-o", "new.clric", "--strip"]):
        places = [folder / name if "odd" in name or "new" in name else name for name in arguments]
        told = run(*places, "--json", "--overwrite")
        assert told.exit_code == 0
        assert not [each for each in json.loads(told.stdout)["warnings"] if "bomb" in each]
    assert run("thumbnail", folder / "odd.png", folder / "small.png").exit_code == 0
    assert not recwarn.list


def test_strip(folder: Path, photo: Image.Image) -> None:
    upright = turned(photo, folder / "t.png")
    run(folder / "t.png", "-o", folder / "bare.clric", "--strip")
    run(folder / "t.png", "-o", folder / "t.clric")
    run(folder / "t.clric", "-o", folder / "bare.png", "--strip")
    for name in ("bare.clric", "bare.png"):
        with Image.open(folder / name) as image:
            assert image.info == {}
        assert same(folder / name, upright)


def test_strip_with_exif_that_cannot_be_read(folder: Path, photo: Image.Image) -> None:
    photo.save(folder / "t.png", exif=b"Exif\0\0broken")
    assert run(folder / "t.png", "--strip").exit_code == 0
    assert same(folder / "t.clric", photo)


def test_tiff_keeps_no_layout(folder: Path, photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[256], exif[257], exif[0x010F] = 4000, 3000, "Maker"  # of before it was made smaller
    photo.save(folder / "t.png", exif=exif)
    run(folder / "t.png", "-o", folder / "t.clric")
    run(folder / "t.clric", "-o", folder / "t.tif")
    assert same(folder / "t.tif", photo)
    with Image.open(folder / "t.tif") as image:
        assert image.getexif()[0x010F] == "Maker"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_are_white_where_there_is_no_alpha(mode: str) -> None:
    image = Image.new(mode, (8, 8))
    for suffix, kept in {
        ".png": True,
        ".webp": True,
        ".tif": True,
        ".jpg": False,
        ".bmp": False,
        ".ppm": False,
    }.items():
        with Image.open(BytesIO(to_format(image, suffix, 95))) as written:
            assert written.has_transparency_data == kept
            assert kept or set(written.convert("L").tobytes()) == {255}


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_metadata_are_kept(mode: str, folder: Path, photo: Image.Image) -> None:
    photo.putalpha(200)
    photo.convert(mode).save(folder / "m.webp", lossless=True, exact=True, **METADATA)
    run(folder / "m.webp", "-o", folder / "m.clric")
    with Image.open(folder / "m.clric") as image:
        assert image.info == METADATA
    for name in ("m.png", "m.jpg", "n.webp", "m.avif", "m.tiff"):
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
    Image.new("F", (4, 4)).save(folder / "2.tif")
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
        ["x.clric", "-o", "y.heic"],
        ["x.clric", "--target-size", "1kB"],
        ["x.clric", "-o", "y.jpg", "--effort", "9"],
        ["a.png", "--device", "cuda:99"],
        ["verify", "empty"],
        ["a.png", "-o", "notes.txt"],
        ["a.png", "b.PNG", "-o", "both.clric"],
        [".", "-o", "all.clric"],
    ],
)
def test_usage_errors(arguments: list[str], folder: Path, clric: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("x.clric").write_bytes(clric)
    Path("empty").mkdir()
    before = names(folder)
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error" in result.stderr
    assert names(folder) == before


def test_a_folder_without_photos_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty", "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "no photos and no .clric files are there: --recursive looks" in result.stderr


def test_quality_of_what_is_decoded_to(folder: Path, tmp_path: Path) -> None:
    assert run(folder / "a.png", "-o", tmp_path / "a.clric").exit_code == 0
    for quality in ("10", "90"):
        assert run(tmp_path / "a.clric", "-q", quality, "-o", tmp_path / f"{quality}.jpg").exit_code == 0
    assert (tmp_path / "10.jpg").stat().st_size < 0.8 * (tmp_path / "90.jpg").stat().st_size


def test_options_arrive(folder: Path, tmp_path: Path, fast_profile: FastProfile) -> None:
    run(folder / "a.png", "-q", "12.5", "-e", "6", "--device", "cpu", "--profile", DEFAULT, "--model", "transform")
    settings = fast_profile.used[-1]
    assert (settings.quality, settings.effort, settings.device, settings.model) == (12.5, 6, "cpu", "transform")
    run(folder / "a.clric", "-o", tmp_path / "a.png", "--device", "cpu")
    assert fast_profile.devices[-1] == "cpu"

    run(folder / "b.PNG")
    settings = fast_profile.used[-1]
    assert (settings.quality, settings.effort, settings.device) == (75, 3, "auto")


def test_samples_of_sixteen_bits(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Of what is lost of a photo, in a line and in a list."""
    for name, arguments in (("deep.png", []), ("stripped.png", ["--strip"])):
        Image.new("I;16", (4, 4), 65535).save(folder / name)
        result = run(folder / name, "--json", *arguments)
        [record] = records(result)
        assert record["warnings"] == ["it has more than 8 bits a sample: coded as 8 bits"]
        assert f"warning: {folder / name}: it has more than 8 bits a sample: coded as 8 bits\n" in result.stderr
        assert "warning" not in run(folder / name, "--overwrite", "--quiet", *arguments).stderr
        with Image.open((folder / name).with_suffix(".clric")) as image:
            assert image.getextrema() == (255, 255)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("arguments", "quality", "size", "bpp"),
    [
        ([], None, None, None),
        (["-q", "0"], 0, None, None),
        (["--target-bpp", "0.25"], None, None, 0.25),
        (["--target-size", "5000"], None, 5000, None),
        (["--target-size", "200kB"], None, 200_000, None),
        (["--target-size", "1.5 MB"], None, 1_500_000, None),
        (["--target-size", "64KiB"], None, 65_536, None),
        (["--target-size", "0.5m"], None, 500_000, None),
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
        found = (options.get("quality"), options.get("target_size"), options.get("target_bpp"))
        assert found == (quality, size, bpp)
        return b"coded"

    monkeypatch.setattr(one_file, "encode", encode)
    result = run(folder / "a.png", *arguments)
    assert result.exit_code == 0, result.stderr


def test_dry_run(folder: Path, tmp_path: Path) -> None:
    run(folder / "a.png")
    before = names(folder)
    result = run(folder, "-n")
    assert result.exit_code == 0
    assert f"{folder / 'b.PNG'} -> {folder / 'b.clric'}\n1 to be converted; 1 skipped" in result.stderr
    assert run(folder, "--dry-run", "-o", tmp_path / "out").exit_code == 0
    assert names(folder) == before
    assert not (tmp_path / "out").exists()
    assert run(folder, "-n", "--model", "none").exit_code == 2


def test_records(folder: Path) -> None:
    run(folder / "a.png")
    (folder / "c.png").write_bytes(b"not a photo")
    result = run(folder, "--json", "--quiet")
    skipped, done, failed = records(result)
    assert len(result.stderr.splitlines()) == 1
    keys = "source status target bytes_in bytes_out width height bpp seconds error warnings"
    assert tuple(done) == tuple(skipped) == tuple(failed) == tuple(keys.split())
    size = (folder / "b.clric").stat().st_size
    assert done.pop("seconds") > 0
    assert done == {
        "source": str(folder / "b.PNG"),
        "status": "converted",
        "target": str(folder / "b.clric"),
        "bytes_in": (folder / "b.PNG").stat().st_size,
        "bytes_out": size,
        "width": 48,
        "height": 32,
        "bpp": 8 * size / (48 * 32),
        "error": None,
        "warnings": [],
    }
    assert (skipped["status"], skipped["error"]) == ("skipped", None)
    assert (failed["status"], failed["bytes_out"]) == ("failed", None)
    assert "cannot identify" in failed["error"]

    [back] = records(run(folder / "b.clric", "-o", folder / "new.png", "--json"))
    assert (back["bytes_in"], back["bpp"]) == (size, 8 * size / (48 * 32))
    assert [record["status"] for record in records(run(folder / "b.PNG", "-n", "--overwrite", "--json"))] == ["planned"]


def test_fail_fast(folder: Path) -> None:
    for name in ("0.png", "aa.png"):
        (folder / name).write_bytes(b"not a photo")
    result = run(folder, "--fail-fast")
    assert result.exit_code == 1
    assert "0 converted; 1 failed" in result.stderr
    assert not (folder / "a.clric").exists()


@pytest.mark.parametrize(("arguments", "lines"), [([], 3), (["-v"], 4), (["--quiet"], 1)])
def test_verbosity(arguments: list[str], lines: int, folder: Path) -> None:
    run(folder / "a.png")
    (folder / "c.png").write_bytes(b"not a photo")
    assert len(run(folder, *arguments).stderr.splitlines()) == lines


def test_interrupt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> bytes:
        raise KeyboardInterrupt

    before = names(folder)
    monkeypatch.setattr(one_file, "encode", interrupt)
    assert run(folder).exit_code == 130
    assert names(folder) == before


def test_interrupt_that_a_library_makes_another_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def converted(*_: Any) -> Iterator[Any]:
        try:
            signal.raise_signal(signal.SIGTERM)
            yield
        except KeyboardInterrupt as error:
            raise click.ClickException("it was cancelled") from error

    monkeypatch.setattr(cli, "_converted", converted)
    result = run(folder)
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_progress_on_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    seen: list[tuple[Any, ...]] = []

    class Stage(Report):
        def begin(self, name: str) -> Any:
            show = super().begin(name)

            def shown(done: int, total: int) -> None:
                show(done, total)
                task = self._progress.tasks[1]
                seen.append((task.description, task.completed, task.total, task.visible))

            return shown

    monkeypatch.setattr(cli, "Report", Stage)
    run(folder)
    assert seen == [(name, done, 3, True) for name in ("a.png", "b.PNG") for done in (1, 2, 3)]


# As a program


def program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pillow_clric.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_is_written_in_part_is_an_error(unbuffered: str, tmp_path: Path) -> None:
    """As by a disk that becomes full, whether or not Python has a buffer."""
    script = "ulimit -f 1; exec $0 -m pillow_clric.cli --help > $1"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = ["sh", "-c", script, sys.executable, str(tmp_path / "help")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "stdout cannot be written: File too large\n")


def test_a_folder_that_is_gone() -> None:
    """Errors that concern no file are a line, too."""
    script = "cd $(mktemp -d) && rmdir $PWD && exec $0 -m pillow_clric.cli - -o a.clric </dev/null"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = ["sh", "-c", script, sys.executable]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "Error: No such file or directory\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["info", str(SAMPLES / "coffee.clric")],
        ["verify", str(SAMPLES)],
        ["models", "list"],
        [str(SAMPLES), "-n", "--overwrite"],
    ],
)
def test_imports_nothing_heavy(arguments: list[str]) -> None:
    script = """
import sys
from pillow_clric.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
    heavy = {"torch", "constriction"} | ({"numpy"} if sys.argv[1] != "verify" else set())
    heavy &= set(sys.modules)
    assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_help_tells_all() -> None:
    told = run("--help").stdout
    for param in cli.main.params:
        assert not isinstance(param, click.Option) or all(name in told for name in param.opts)
    for name in cli.main.commands:
        assert re.search(rf"^  {name}  +[A-Z]", told, re.MULTILINE)
    assert max(map(len, told.splitlines())) <= 80
    assert "-h, --help" in run("info", "-h").stdout


def test_help_without_docstrings() -> None:
    script = """
from click.testing import CliRunner
from pillow_clric.cli import main
for command in ("", "info", "compare", "models", "models add"):
    print(CliRunner().invoke(main, [*command.split(), "--help"]).stdout)
"""
    told, same = (subprocess.check_output([sys.executable, *flags, "-c", script]) for flags in ([], ["-OO"]))
    assert told == same
    assert told.count(b"Usage:") == 5


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--rec", {"--recursive"}),
        ("--re", {"--recursive", "--repair", "--resilience"}),
        ("models re", {"remove"}),
        ("ver", {"verify", "ver"}),
        (f"{SAMPLES} ver", {"ver"}),  # a file
        ("info --", {"--detail", "--recursive", "--json", "--help"}),
    ],
)
def test_completion(words: str, expected: set[str]) -> None:
    environment = {
        "_CLRIC_CONVERT_COMPLETE": "bash_complete",
        "COMP_WORDS": f"clric-convert {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    result = CliRunner().invoke(cli.main, prog_name="clric-convert", env=environment)
    assert {line.partition(",")[2] for line in result.stdout.splitlines()} == expected


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(number: signal.Signals, folder: Path) -> None:
    script = """
import signal, time
from pillow_clric import cli
from pillow_clric.convert import one_file, run
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
def slow(*_, **__):
    print("started", flush=True)
    time.sleep(600)
one_file.encode, run.cores, cli._check = slow, lambda: 1, lambda options: None
cli.main()
"""
    before = names(folder)
    command = [sys.executable, "-c", script, str(folder), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.communicate(timeout=600) == (b"", b"interrupted\n")
        assert process.returncode == 130
    assert names(folder) == before


def test_real_conversion(tmp_path: Path, photo: Image.Image) -> None:
    photo.crop((0, 0, 24, 16)).save(tmp_path / "a.png")
    clric = shlex.join([sys.executable, "-m", "pillow_clric.cli"])
    silent = f"{clric} {tmp_path}/a.png -e1 -q80 --quiet -o {tmp_path}/a.clric <&- >&- 2>&-"  # torch takes no offence
    assert subprocess.run(["sh", "-c", silent], check=False).returncode == 0
    result = program(tmp_path / "a.clric", "-o", tmp_path / "b.png")
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "b.png") as image:
        assert (image.size, image.mode) == ((24, 16), "RGB")
