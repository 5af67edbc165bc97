"""Benchmarks that figures in the docs come from: they run, as anyone would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: str | Path) -> str:
    """Output of a script of `benchmarks/`."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def photos(tmp_path: Path, photo: Image.Image) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo.convert("RGB").crop((0, 0, 48, 40)).save(folder / "one.png")
    return folder


def test_rate_and_distortion(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "rd.json"
    options = "--profile", "coolchic", "--effort", "1", "--qualities", "30,60", "--json", out
    assert "| 60 " in run("rd.py", photos, *options)
    first = json.loads(out.read_text())
    assert [(point["image"], point["quality"]) for point in first["points"]] == [("one", 30), ("one", 60)]
    assert first["points"][0]["bytes"] < first["points"][1]["bytes"]
    assert first["points"][0]["psnr"] < first["points"][1]["psnr"]
    run("rd.py", photos, *options)  # nothing is left to do
    assert json.loads(out.read_text()) == first


def test_stages(photos: Path) -> None:
    output = run("stages.py", photos / "one.png", "--profile", "coolchic", "--effort", "1", "--qualities", "30")
    assert "encode, s" in output
    assert "Image.open" in output
