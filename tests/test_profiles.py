"""A new profile is one folder and one name in the registry: everything else finds it and its option by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec.profiles import names, profiles
from codec.profiles.options import Amount, Choice, Function, Number, Options, Text, Whole
from pillow_clric._option_docs import options, table

ROOT = Path(__file__).parent.parent

# Each block of pixels as its mean, deflated.
TOY = """
import zlib
from dataclasses import dataclass

import numpy as np

from codec.container import CorruptError, Section
from codec.profiles import options
from codec.profiles.base import Budget, Decoder, Encoder, Profile
from codec.profiles.options import Whole, option


@dataclass(frozen=True, kw_only=True)
class Options(options.Options):
    side: int = option(4, Whole(1, 16), "Pixels along a side of each block.")


class ToyEncoder(Encoder):
    bytes_per_pixel = 4

    def __init__(self, side):
        self.side = side

    def encode(self, pictures, importance, goal, progress=None):
        budgets = goal.sizes if isinstance(goal, Budget) else [2**30] * len(pictures)
        return [self._smallest(*each) for each in zip(pictures, budgets)]

    def _smallest(self, pixels, budget):
        for side in range(self.side, 256):
            body = bytes([side]) + zlib.compress(np.ascontiguousarray(pixels[::side, ::side]).tobytes())
            if len(body) <= budget:
                break
        return {Section.WEIGHTS: b"", Section.GRIDS: body}


class ToyDecoder(Decoder):
    def decode(self, container, scale=1, tune=None):
        height, width, channels = container.header.shape
        body = container.sections[Section.GRIDS]
        side = body[0]
        samples = np.frombuffer(zlib.decompress(body[1:]), np.uint8)
        small = samples.reshape(-(-height // side), -(-width // side), channels)
        pixels = small.repeat(side, 0).repeat(side, 1)[:height:scale, :width:scale]
        return pixels if channels == 3 else pixels[:, :, 0]


class Toy(Profile):
    id = 9
    name = "toy"
    options = Options
    cost = 1

    def encoder(self, options, device):
        return ToyEncoder(options.side)

    def decoder(self, header, device):
        return ToyDecoder()

    def check(self, container):
        if not container.sections[Section.GRIDS]:
            raise CorruptError("file has no blocks")


PROFILE = Toy()
"""

REGISTERED = """
import sys
import codec.profiles
codec.profiles._FOLDERS += ("toy",)
codec.profiles.__path__.append({folder!r})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with the toy's folder, and a photo of 48 x 32."""
    (tmp_path / "profiles" / "toy").mkdir(parents=True)
    (tmp_path / "profiles" / "toy" / "profile.py").write_text(TOY)
    y, x = np.mgrid[:32, :48]
    Image.fromarray(np.stack([5 * x, 7 * y, 2 * (x + y)], axis=-1).astype(np.uint8)).save(tmp_path / "photo.png")
    return tmp_path


def python(folder: Path, program: str) -> str:
    """Output of a program in which the toy is registered."""
    code = REGISTERED.format(folder=str(folder / "profiles")) + program
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def clric_convert(folder: Path, *arguments: str) -> str:
    return python(folder, f"from pillow_clric.cli import main\nmain({list(arguments)!r}, standalone_mode=False)")


def test_a_toy_reaches_the_library(folder: Path) -> None:
    told = python(
        folder,
        """
import io, json, pillow_clric, codec
from PIL import Image
image, files = Image.open("photo.png"), {}
for side in (1, 8):
    image.save(f"{side}.clric", profile="toy", side=side)
    files[side] = len(open(f"{side}.clric", "rb").read())
assert Image.open("1.clric").tobytes() == image.tobytes()
batch = pillow_clric.encode_batch([image, image.convert("L")], profile="toy", side=1, target_size=200)
assert all(len(data) <= 200 for data in batch)
assert pillow_clric.decode(batch[1]).mode == "L"
try:
    pillow_clric.encode_batch([image, Image.new("L", (4, 4))], profile="toy", target_size=45)
except pillow_clric.BatchError as error:
    assert "cannot be coded in 45 bytes" in str(error), error
    assert [type(result) for result in error.results] == [ValueError, bytes]
wrong, model = {}, {"model": "base"}
for name, options in {"range": {"side": 99}, "type": {"side": "x"}, "none": model, "save": model}.items():
    try:
        if name == "save":
            image.save(io.BytesIO(), "CLRIC", profile="toy", **options)
        pillow_clric.encode(image, profile="toy", **options)
    except (TypeError, ValueError) as error:
        wrong[name] = f"{type(error).__name__}: {error}"
print(json.dumps([files, wrong, pillow_clric.info("8.clric").profile, "side=4" in pillow_clric.encode.__doc__]))
""",
    )
    files, wrong, name, documented = json.loads(told)
    assert files["8"] < files["1"]
    assert name == "toy"
    assert documented
    assert wrong["range"] == "ValueError: side must be a whole number from 1 to 16, not 99"
    assert wrong["type"] == "TypeError: side must be a whole number from 1 to 16, not 'x'"
    assert wrong["none"] == wrong["save"]
    assert wrong["none"].startswith("TypeError: profile toy has no option 'model', but quality,")


def test_a_toy_reaches_the_command(folder: Path) -> None:
    assert "--side N" in clric_convert(folder, "--help")
    clric_convert(folder, "photo.png", "--profile", "toy", "--side", "2")
    told = json.loads(clric_convert(folder, "info", "--json", "photo.clric"))
    assert (told["profile"], told["width"]) == ("toy", 48)
    clric_convert(folder, "photo.clric", "-o", "back.png")
    with Image.open(folder / "back.png") as back, Image.open(folder / "photo.png") as photo:
        assert np.array_equal(np.asarray(back)[::2, ::2], np.asarray(photo)[::2, ::2])
    python(
        folder,
        "from click.testing import CliRunner\nfrom pillow_clric.compare import compare\n"
        "arguments = ['photo.png', '--profile', 'toy', '--bpp', '0.5']\n"
        "result = CliRunner().invoke(compare, arguments)\nassert result.exit_code == 0, result.output",
    )
    assert "toy" in (folder / "compare.html").read_text()


# Options


def test_the_readme_lists_all_options() -> None:
    assert table() in (ROOT / "README.md").read_text()


def test_options_are_declared_well() -> None:
    for profile in profiles():
        for declared in profile.options.declared():
            assert isinstance(declared.kind, (Amount, Choice, Function, Number, Text, Whole))
            assert declared.default is None or declared.default == getattr(profile.options(), declared.name)
            assert declared.help.endswith(".")
    told = {(option.name, option.default): option.help for option in options()}
    assert "Only of profile clric." in told["model", "patch"]
    assert "Only of profile msp." in told["model", "transform"]
    assert "Only" not in told["quality", 75]
    assert names() == [profile.name for profile in profiles()]
    assert Options().budget(10, 10) is None
    assert Options(target_bpp=1).budget(10, 10) == 12
