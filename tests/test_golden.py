"""Files that were written once decode to the same symbols and nearly the same pixels, wherever they are read.

That takes the base functions that they were written with, too.

`tests/golden` holds them with the hashes of their symbols and the pictures; `tests/golden/make.py` made them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import reader
import torch
from numpy.typing import NDArray
from PIL import Image

import codec
from codec import Section, unpack
from codec.overfit import bases, bitstream, initial

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch's, when oneDNN is switched off

FOLDER = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.clric"))
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
OUTPUTS = {"L": 1, "RGB": 3}
FORMAT_MD, MODELS_MD = (FOLDER.parents[1] / "docs" / name for name in ("FORMAT.md", "MODELS.md"))


@dataclass
class Symbols:
    """All whole numbers of a file.

    Attributes:
        planes: in coding order.
        base: number of the base function.
        differences: by name, exponents and whole numbers.
        weights: by name, the weights that these make, in units of 2**-12.
    """

    planes: list[NDArray[np.int32]]
    base: int
    differences: dict[str, tuple[int, NDArray[np.int32]]]
    weights: dict[str, NDArray[np.int64]]


def function_of(data: bytes) -> tuple[bytes, bytes, int, int, int]:
    """The two bodies, height, width and outputs."""
    container = unpack(data)
    header, sections = container.header, container.sections
    return sections[Section.WEIGHTS], sections[Section.GRIDS], header.height, header.width, OUTPUTS[header.mode]


def symbols(data: bytes) -> Symbols:
    spec, weights, grids = bitstream.read(*function_of(data))
    planes = [grids[p.level][p.feature] for p in spec.planes]
    differences = {name: (w.exponent, w.integers) for name, w in weights.differences.items()}
    return Symbols(planes, weights.base, differences, weights.whole(spec))


def fingerprint(found: Symbols) -> dict[str, str]:
    """Hashes of all whole numbers, as int32 in little-endian order."""
    planes, differences, weights = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for plane in found.planes:
        planes.update(plane.astype("<i4").tobytes())
    differences.update(f"{found.base} ".encode())
    for name, (exponent, integers) in found.differences.items():
        differences.update(f"{name} {exponent} ".encode() + integers.astype("<i4").tobytes())
        weights.update(f"{name} ".encode() + found.weights[name].astype("<i4").tobytes())
    hashes = {"planes": planes, "differences": differences, "weights": weights}
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def golden(name: str) -> tuple[bytes, dict[str, str], NDArray[np.uint8]]:
    """A file, the hashes of its symbols, and its picture."""
    with Image.open(FOLDER / f"{name}.png") as image:
        picture = np.asarray(image)
    hashes: dict[str, str] = json.loads((FOLDER / f"{name}.json").read_text())
    return (FOLDER / f"{name}.clric").read_bytes(), hashes, picture


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[True, False], ids=["oneDNN", "no oneDNN"])
def onednn(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.backends.mkldnn.flags(enabled=request.param):
        yield


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(before)


def test_there_are_golden_files() -> None:
    assert len(NAMES) >= 4
    contents = [golden(name)[0] for name in NAMES]
    assert {unpack(data).header.mode for data in contents} == set(OUTPUTS)
    found = {symbols(data).base for data in contents}
    assert bases.PLAIN in found
    assert len(found) > 1


def test_base_functions_are_those_of_the_specification() -> None:
    """They never change: files that refer to them would show other pictures."""
    [stated] = re.findall(r"<!-- functions -->\n`([0-9a-f]{64})`", FORMAT_MD.read_text())
    assert hashlib.sha256(bases.FILE.read_bytes()).hexdigest() == stated
    assert stated == "6e97f7105c0ecd145e230ec54f7f567e0080afc582e3c5a163f1247b8630c4aa"
    assert stated in MODELS_MD.read_text()
    order = FORMAT_MD.read_text().split("<!-- order -->")[1].split("```")[1].split()
    assert tuple(order) == reader.BASES_ORDER


@pytest.mark.parametrize("name", NAMES)
def test_no_file_depends_on_the_analysis(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _, picture = golden(name)
    monkeypatch.setattr(initial, "FILE", tmp_path / "missing")
    initial._analysis.cache_clear()
    with pytest.raises(FileNotFoundError):
        codec.encode(picture, effort=1, device="cpu")
    assert np.abs(codec.decode(data, device="cpu").astype(float) - picture).mean() <= 1


@pytest.mark.usefixtures("threads", "onednn", "default_dtype")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_golden_files(name: str, device: str) -> None:
    data, hashes, picture = golden(name)
    assert fingerprint(symbols(data)) == hashes
    decoded = codec.decode(data, device=device)
    assert (decoded.shape, decoded.dtype) == (picture.shape, picture.dtype)
    assert np.abs(decoded.astype(float) - picture).mean() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_another_reader(name: str) -> None:
    data, hashes, picture = golden(name)
    function = reader.Function(*function_of(data))
    planes = [np.array(grid, np.int32) for grid in function.grids]
    weights = {key: (function.exponents[key], values.astype(np.int32)) for key, values in function.integers.items()}
    assert fingerprint(Symbols(planes, function.base, weights, function.whole)) == hashes
    pixels = np.rint(np.clip(function.output(), 0, 1) * 255).transpose(1, 2, 0)
    assert np.abs(pixels.reshape(picture.shape) - picture).mean() <= 1


SCRIPT = """
import json, sys
from pathlib import Path
from codec import Section, unpack
from codec.overfit import bitstream

found = {}
for name in sys.argv[2:]:
    container = unpack((Path(sys.argv[1]) / f"{name}.clric").read_bytes())
    header, sections = container.header, container.sections
    outputs = {"L": 1, "RGB": 3}[header.mode]
    shape = header.height, header.width, outputs
    spec, _, grids = bitstream.read(sections[Section.WEIGHTS], sections[Section.GRIDS], *shape)
    found[name] = [grids[p.level][p.feature].astype("<i4").tobytes().hex() for p in spec.planes]
assert "torch" not in sys.modules
print(json.dumps(found))
"""


@pytest.mark.parametrize("core", ["", "Nehalem"])
def test_other_processors(core: str) -> None:
    """Symbols do not depend on the instructions that NumPy and its BLAS take; and torch is not needed for them."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "2"}
    if core:
        environment["OPENBLAS_CORETYPE"] = core
    command = [sys.executable, "-c", SCRIPT, str(FOLDER), *NAMES]
    found = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    for name in NAMES:
        planes = b"".join(bytes.fromhex(plane) for plane in found[name])
        assert hashlib.sha256(planes).hexdigest() == golden(name)[1]["planes"]
