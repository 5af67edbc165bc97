"""`clric-convert info` and `clric-convert verify`."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import run

from codec.autoencoders import store
from codec.container import Header, Section, pack

SAMPLES = Path(__file__).parent.parent / "samples"


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a good file, and another below it; damaged, truncated and other files."""
    good = (SAMPLES / "rocket.clric").read_bytes()
    (tmp_path / "sub").mkdir()
    for name, data in {
        "good.clric": good,
        "sub/good.clric": good,
        "damaged.clric": good[:-9] + b"damaged!!",
        "truncated.clric": good[:-1],
        "text.clric": b"not a picture",
        "notes.txt": b"notes",
    }.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_info() -> None:
    size = (SAMPLES / "rocket.clric").stat().st_size
    result = run("info", SAMPLES / "rocket.clric")
    assert (result.exit_code, result.stderr) == (0, "")
    for told in (
        "640 x 427, RGB",
        f"{size} bytes, {8 * size / (640 * 427):.3f} bpp",
        "msp",
        "transform",
        "colour 1",
        "Adobe RGB (1998)",
        "1.0",
    ):
        assert told in result.stdout
    assert "quality" not in result.stdout


def test_info_in_detail() -> None:
    result = run("info", "--detail", SAMPLES / "rocket.clric", Path(__file__).parent / "golden" / "rgb.clric")
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.search(
        r"preset +normal\n +tune +fidelity\n +quality +40\.\d\n"
        r" +scales +1/128 \d+, 1/64 \d+, 1/32 \d+, 1/16 \d+\n",
        result.stdout,
    )
    assert result.stdout.count("quality") == 1  # other profiles say no more than their headers do
    [told] = records(run("info", "--detail", "--json", SAMPLES / "rocket.clric"))
    assert told["coding"]["quality"] == pytest.approx(40, abs=0.2)


def test_info_for_programs() -> None:
    result = run("info", "--json", SAMPLES)
    assert [Path(record["source"]).name for record in records(result)] == [
        "astronaut.clric",
        "coffee.clric",
        "rocket.clric",
    ]
    told = records(result)[2]
    assert told.pop("source") == str(SAMPLES / "rocket.clric")
    sections = told.pop("sections")
    size = (SAMPLES / "rocket.clric").stat().st_size
    assert list(sections) == ["header", "colour", "grids"]
    assert sum(sections.values()) == size
    assert told == {
        "status": "ok",
        "error": None,
        "width": 640,
        "height": 427,
        "mode": "RGB",
        "bytes": size,
        "bpp": 8 * size / (640 * 427),
        "profile": "msp",
        "model": store.EMBEDDED["transform"].prefix,
        "model_name": "transform",
        "colour": "Adobe RGB (1998)",
        "metadata": ["colour"],
        "version": "1.0",
    }


def test_info_of_other_models(tmp_path: Path) -> None:
    for name, profile, model in (("a", 1, b"12345678"), ("b", 0, b"")):
        header = Header(4, 4, "L", profile, model)
        (tmp_path / f"{name}.clric").write_bytes(pack(header, {Section.GRIDS: b"", Section.EXIF: b"e"}))
    missing, none = records(run("info", "--json", tmp_path))
    assert (missing["model"], missing["model_name"]) == (b"12345678".hex(), None)
    assert (none["profile"], none["model"], none["metadata"]) == ("coolchic", None, ["exif"])
    told = run("info", tmp_path).stdout
    assert "(not here)" in told
    assert told.count("\n  model") == 1


def test_info_of_bad_files(folder: Path) -> None:
    result = run("info", folder / "text.clric", folder / "good.clric")
    assert result.exit_code == 1
    assert (
        result.stderr
        == f"bad: {folder / 'text.clric'}: not a .clric file: it does not begin with the format's signature\n"
    )
    assert "640 x 427" in result.stdout


def test_verify(folder: Path) -> None:
    result = run("verify", folder)
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert [line.partition(".clric: ")[0] for line in lines[:-1]] == [
        f"bad: {folder / name}" for name in ("damaged", "text", "truncated")
    ]
    for line, why in zip(lines, ("checksum", "not a .clric file", "truncated"), strict=False):
        assert why in line
    assert lines[-1] == "1 good, 3 bad"


def test_verify_for_programs(folder: Path) -> None:
    found = records(run("verify", folder, "-r", "--json"))
    good = {str(folder / "good.clric"), str(folder / "sub" / "good.clric")}
    assert {record["source"] for record in found if record["status"] == "ok"} == good
    assert all(bool(record["error"]) == (record["status"] == "bad") for record in found)
    assert len(found) == 5


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff")
    shutil.copy(SAMPLES / "rocket.clric", path)
    for command in ("info", "verify"):
        [record] = records(run(command, "--json", path))
        assert record["source"] == str(tmp_path / r"\udcff")


def test_verify_what_is_good(folder: Path) -> None:
    shutil.copy(folder / "good.clric", folder / "renamed")
    result = run("verify", folder / "renamed", SAMPLES, folder / "sub" / ".." / "renamed")
    assert (result.exit_code, result.stderr) == (0, "4 good, 0 bad\n")
    assert run("verify", SAMPLES / "coffee.png").exit_code == 1
    assert run("verify", folder / "missing.clric").exit_code == 2
