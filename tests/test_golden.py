"""Files that were written once decode to the same symbols and nearly the same pixels, wherever they are read.

`tests/golden` holds them with the hashes of their symbols and the pictures; `tests/golden/make.py` made them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import reader
import torch
from numpy.typing import NDArray
from PIL import Image

import codec
from codec import Section, unpack
from codec.overfit import bitstream

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch's, when oneDNN is switched off

FOLDER = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.clric"))
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
OUTPUTS = {"L": 1, "RGB": 3}

# Planes in coding order; exponents and whole numbers of the weights, by name.
Symbols = tuple[list[NDArray[np.int32]], dict[str, tuple[int, NDArray[np.int32]]]]


def function_of(data: bytes) -> tuple[bytes, bytes, int, int, int]:
    """The two bodies, height, width and outputs."""
    container = unpack(data)
    header, sections = container.header, container.sections
    return sections[Section.WEIGHTS], sections[Section.GRIDS], header.height, header.width, OUTPUTS[header.mode]


def symbols(data: bytes) -> Symbols:
    spec, weights, grids = bitstream.read(*function_of(data))
    planes = [grids[p.level][p.feature] for p in spec.planes]
    return planes, {name: (w.exponent, w.integers) for name, w in weights.items()}


def fingerprint(found: Symbols) -> dict[str, str]:
    """Hashes of all whole numbers, as int32 in little-endian order."""
    planes, weights = hashlib.sha256(), hashlib.sha256()
    for plane in found[0]:
        planes.update(plane.astype("<i4").tobytes())
    for name, (exponent, integers) in found[1].items():
        weights.update(f"{name} {exponent} ".encode() + integers.astype("<i4").tobytes())
    return {"planes": planes.hexdigest(), "weights": weights.hexdigest()}


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
    assert len(NAMES) >= 3


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
    assert fingerprint((planes, weights)) == hashes
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
