"""Files that were written once decode to the same symbols and nearly the same pixels, wherever they are read.

That takes the base functions, or the model, that they were written with, too.

`tests/golden` holds them with the hashes of their symbols and the pictures; `tests/golden/make.py` made them.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reader
import torch
from latents import TINY_VQ, enhancement_of, latent_of
from lossy import numbers_of, overwritten
from numpy.typing import NDArray
from PIL import Image

import codec
from codec import Container, Section, unpack
from codec.autoencoders import store
from codec.autoencoders.autoencoder import Autoencoder
from codec.autoencoders.networks.coding_order import PRESETS
from codec.autoencoders.networks.integer_prior import STEPS
from codec.container import MODES
from codec.overfit import bitstream, initialisation, pipeline, reference_weights
from codec.overfit.lambda_conditioned_weights import LambdaConditionedWeights
from codec.profiles.clric.initialisation import step_of, universal_of
from codec.profiles.msp import bitstream as latent_bitstream
from codec.profiles.packets import Layout
from codec.profiles.vq.profile import PACKETS as INDEX_PACKETS

pytestmark = [
    pytest.mark.usefixtures("golden_models"),
    pytest.mark.filterwarnings("ignore:TF32 acceleration"),  # torch's, when oneDNN is switched off
]

FOLDER = Path(__file__).parent / "golden"
ALL = sorted(path.stem for path in FOLDER.glob("*.clric"))
LATENTS = [name for name in ALL if name.startswith(("msp", "vq"))]  # and maps of indices
NAMES = [name for name in ALL if name not in LATENTS]  # of functions
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FORMAT_MD, MODELS_MD = (FOLDER.parents[1] / "docs" / name for name in ("FORMAT.md", "MODELS.md"))


@dataclass
class Symbols:
    """All whole numbers of a file.

    Attributes:
        planes: in coding order.
        number: of the base function, or of the universal one.
        differences: by name, exponents and whole numbers.
        weights: by name, the weights that these make, in units of 2**-12.
    """

    planes: list[NDArray[np.int32]]
    number: int
    differences: dict[str, tuple[int, NDArray[np.int32]]]
    weights: dict[str, NDArray[np.int64]]


def function_of(container: Container) -> tuple[bytes, bytes, int, int, int, LambdaConditionedWeights | None]:
    """The two bodies, height, width and outputs of the function, and the universal one of the file's model."""
    header, sections = container.header, container.sections
    bodies = sections[Section.WEIGHTS], sections[Section.GRIDS]
    if not header.model:
        return *bodies, header.height, header.width, header.channels, None
    autoencoder = autoencoder_of(header.model)
    size = autoencoder.latent_size(header.height, header.width)
    return *bodies, *size, autoencoder.channels, universal_of(autoencoder.model)


@cache
def autoencoder_of(prefix: bytes) -> Autoencoder:
    return Autoencoder(store.find(prefix), torch.device("cpu"))


def symbols(data: bytes) -> Symbols:
    spec, weights, grids = bitstream.read(*function_of(unpack(data)))
    planes = [grids[p.level][p.feature] for p in spec.planes]
    differences = {name: (w.exponent, w.integers) for name, w in weights.differences.items()}
    return Symbols(planes, weights.origin.number, differences, weights.whole(spec))


def fingerprint(found: Symbols) -> dict[str, str]:
    """Hashes of all whole numbers, as int32 in little-endian order."""
    planes, differences, weights = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for plane in found.planes:
        planes.update(plane.astype("<i4").tobytes())
    differences.update(f"{found.number} ".encode())
    for name, (exponent, integers) in found.differences.items():
        differences.update(f"{name} {exponent} ".encode() + integers.astype("<i4").tobytes())
        weights.update(f"{name} ".encode() + found.weights[name].astype("<i4").tobytes())
    hashes = {"planes": planes, "differences": differences, "weights": weights}
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def latent_fingerprint(data: bytes) -> dict[str, str]:
    """Hashes of symbols of a latent and of an enhancement layer, or of indices, as int32 in little-endian order."""
    found = {"latent": latent_of(data)}
    if Section.ENHANCEMENT in unpack(data).sections:
        found["enhancement"] = enhancement_of(data)
    return {name: hashlib.sha256(numbers.astype("<i4").tobytes()).hexdigest() for name, numbers in found.items()}


def golden(name: str) -> tuple[bytes, dict[str, str], NDArray[np.uint8]]:
    """A file, the hashes of its symbols, and its picture."""
    with Image.open(FOLDER / f"{name}.png") as image:
        picture = np.asarray(image)
    hashes: dict[str, str] = json.loads((FOLDER / f"{name}.json").read_text())
    return (FOLDER / f"{name}.clric").read_bytes(), hashes, picture


@pytest.fixture(
    params=[(1, True, torch.float32), (1, False, torch.bfloat16), (2, True, torch.bfloat16), (2, False, torch.float32)],
    ids=lambda param: f"{param[0]} threads, oneDNN {param[1]}, {param[2]}",
)
def settings_of_torch(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads, whether there is oneDNN, and the default dtype: every two of them in every combination."""
    threads, onednn, dtype = request.param
    before = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    with torch.backends.mkldnn.flags(enabled=onednn):
        yield
    torch.set_num_threads(before[0])
    torch.set_default_dtype(before[1])


def test_there_are_golden_files() -> None:
    contents = [golden(name)[0] for name in NAMES]
    assert {unpack(data).header.mode for data in contents} == set(MODES)
    coded = [unpack(golden(name)[0]) for name in LATENTS]
    latents = [c for c in coded if c.header.profile == 2]
    heads = [latent_bitstream.read_head(c.sections[Section.GRIDS])[0] for c in latents if Section.GRIDS in c.sections]
    assert {latent_bitstream.PACKETS.of(c).head.spacing for c in latents if Section.PACKETS in c.sections} == {2, 4, 10}
    assert {head.preset for head in heads} == set(PRESETS)
    assert any(head.position % STEPS for head in heads)
    assert any(head.grain for head in heads)
    assert {c.header.mode for c in latents if Section.ENHANCEMENT in c.sections} == {"RGB", "LA"}
    for profile in (0, 1):
        of_profile = [data for data in contents if unpack(data).header.profile == profile]
        assert len(of_profile) >= 4
        assert {unpack(data).header.mode for data in of_profile} > {"L", "RGB"}
        found = {symbols(data).number for data in of_profile}
        assert reference_weights.PLAIN in found
        assert len(found) > 1


def test_base_functions_are_those_of_the_specification() -> None:
    """They never change: files that refer to them would show other pictures."""
    [stated] = re.findall(r"<!-- functions -->\n`([0-9a-f]{64})`", FORMAT_MD.read_text())
    assert hashlib.sha256(reference_weights.FILE.read_bytes()).hexdigest() == stated
    assert stated == "6e97f7105c0ecd145e230ec54f7f567e0080afc582e3c5a163f1247b8630c4aa"
    assert stated in MODELS_MD.read_text()
    order = FORMAT_MD.read_text().split("<!-- order -->")[1].split("```")[1].split()
    assert tuple(order) == reader.BASES_ORDER


def alike(pixels: NDArray[Any], picture: NDArray[np.uint8]) -> bool:
    """Whether pixels differ by no more than arithmetic may: by one, and seldom; on GPUs by two."""
    off = np.abs(pixels.astype(float) - picture)
    return bool(off.max() <= (2 if len(DEVICES) > 1 else 1) and off.mean() < 0.3)


@pytest.mark.parametrize("name", ALL)
def test_no_file_depends_on_what_encoders_use(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _, picture = golden(name)
    monkeypatch.setattr(initialisation, "FILE", tmp_path / "missing")
    initialisation._analysis.cache_clear()
    with pytest.raises(FileNotFoundError):
        codec.encode(picture, profile="coolchic", effort=2, device="cpu")
    assert alike(codec.decode(data, device="cpu"), picture)


@pytest.mark.usefixtures("settings_of_torch")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ALL)
def test_golden_files(name: str, device: str) -> None:
    data, hashes, picture = golden(name)
    assert (latent_fingerprint(data) if name in LATENTS else fingerprint(symbols(data))) == hashes
    decoded = codec.decode(data, device=device)
    assert (decoded.shape, decoded.dtype) == (picture.shape, picture.dtype)
    assert alike(decoded, picture)
    if unpack(data).header.has_alpha:
        assert np.array_equal(decoded[:, :, -1], picture[:, :, -1])


def read_by_another(container: Container) -> reader.Function:
    weights, grids, height, width, outputs, universal = function_of(container)
    files = {entry.prefix: entry.path for entry in store.entries()}
    other = reader.universal_function(files[container.header.model.hex()]) if universal else None
    return reader.Function(weights, grids, height, width, outputs, other)


@pytest.mark.parametrize("name", NAMES)
def test_another_reader(name: str) -> None:
    data, hashes, picture = golden(name)
    container = unpack(data)
    model = container.header.model
    function = read_by_another(container)
    planes = [np.array(grid, np.int32) for grid in function.grids]
    weights = {key: (function.exponents[key], values.astype(np.int32)) for key, values in function.integers.items()}
    assert fingerprint(Symbols(planes, function.number, weights, function.whole)) == hashes
    samples = function.output()
    if model:
        made = autoencoder_of(model).decode(torch.from_numpy(samples)[None], *picture.shape[:2])[0].numpy()
        samples = made.mean(0, keepdims=True) if container.header.channels == 1 else made
    pixels = np.rint(np.clip(samples, 0, 1) * 255).transpose(1, 2, 0)
    if container.header.has_alpha:
        alpha = np.array(reader.alpha(container.sections[Section.ALPHA], *picture.shape[:2]))
        assert np.array_equal(alpha, picture[:, :, -1])
        pixels = np.dstack([pixels, alpha])
    assert alike(pixels.reshape(picture.shape), picture)


@pytest.mark.parametrize("name", LATENTS)
def test_another_reader_of_latents(name: str) -> None:
    check_another_reader(golden(name)[0], latent_of(golden(name)[0]))


@pytest.mark.parametrize(("name", "layout"), [("msp-parity", latent_bitstream.PACKETS), ("vq-parity", INDEX_PACKETS)])
def test_lost_packets_of_golden_files_are_restored(name: str, layout: Layout) -> None:
    """By both readers: which symbols parity packets stand for never changes."""
    data, hashes, _ = golden(name)
    damaged = overwritten(data, layout, [1, 7, numbers_of(data, layout)[-1]], b"\0")
    assert len(layout.of(unpack(damaged)).restored) == 2
    assert latent_fingerprint(damaged) == hashes
    check_another_reader(damaged, latent_of(data))


def check_another_reader(data: bytes, expected: NDArray[np.int32]) -> None:
    """The second reader finds the same symbols or indices in a file."""
    container = unpack(data)
    size, patches = ([-(-side // n) for side in (container.header.height, container.header.width)] for n in (16, 8))
    in_packets = Section.PACKETS in container.sections
    section = container.sections[Section.PACKETS if in_packets else Section.GRIDS]
    if container.header.profile == 2:
        enhanced = Section.ENHANCEMENT in container.sections
        [model] = FOLDER.glob(f"*@{container.header.model.hex()}.safetensors")
        tensors = reader.model_tensors(model)
        assert np.array_equal(reader.Latent(section, tensors, *size, in_packets=in_packets).symbols, expected)
        if enhanced:
            layer = reader.Latent(container.sections[Section.ENHANCEMENT], tensors, *patches, enhancement=True)
            assert np.array_equal(layer.symbols, enhancement_of(data))
    else:
        sizes = store.find(container.header.model).config["autoencoder"]["sizes"]
        assert np.array_equal(reader.Indices(section, reader.model_tensors(TINY_VQ), sizes, *size).indices, expected)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("clric")])
def test_another_reader_has_the_same_latent(name: str) -> None:
    """More exactly than a picture shows."""
    container, cpu = unpack(golden(name)[0]), torch.device("cpu")
    weights, grids, height, width, outputs, universal = function_of(container)
    output, read = pipeline.decode(weights, grids, (height, width, outputs), cpu, universal, truncated=False)
    latent = (output * step_of(read.origin, cpu))[0].numpy()
    other = read_by_another(container).output()
    scale = np.abs(other).max()
    np.testing.assert_allclose(latent / scale, other / scale, atol=1e-5)


SCRIPT = """
import json, pickle, sys
from codec.overfit import bitstream

found = {}
for name, function in pickle.load(sys.stdin.buffer).items():
    spec, _, grids = bitstream.read(*function)
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
    told = pickle.dumps({name: function_of(unpack(golden(name)[0])) for name in NAMES})
    command = [sys.executable, "-c", SCRIPT]
    found = json.loads(subprocess.run(command, input=told, env=environment, check=True, capture_output=True).stdout)
    for name in NAMES:
        planes = b"".join(bytes.fromhex(plane) for plane in found[name])
        assert hashlib.sha256(planes).hexdigest() == golden(name)[1]["planes"]


LATENT_SCRIPT = """
import json
from test_golden import LATENTS, golden, latent_fingerprint

print(json.dumps({name: latent_fingerprint(golden(name)[0]) for name in LATENTS}))
"""


def test_latents_on_other_processors() -> None:
    """Nor do those of latents depend on the instructions that NumPy and its libraries take."""
    oldest = {
        "OPENBLAS_CORETYPE": "Nehalem",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3",
    }
    environment = {**os.environ, **oldest, "PYTHONPATH": os.pathsep.join([*sys.path, str(FOLDER.parent)])}
    command = [sys.executable, "-c", LATENT_SCRIPT]
    found = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert found == {name: golden(name)[1] for name in LATENTS}


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("rgb", Section.ENHANCEMENT), ("rgb", Section.PACKETS), ("clric-rgb", Section.ENHANCEMENT),
        ("msp-grey", Section.WEIGHTS), ("vq-photo", Section.PACKETS),
    ],
)  # fmt: skip
def test_required_sections_of_other_profiles_are_refused(name: str, section: Section) -> None:
    """A later version may give them a meaning there, which a picture would lack."""
    container = unpack((FOLDER / f"{name}.clric").read_bytes())
    data = codec.pack(container.header, {**container.sections, section: b"more"})
    for read in (codec.verify, codec.decode, codec.describe):
        with pytest.raises(
            codec.UnsupportedError, match=f"needs its section {section.name}, not known to this version"
        ):
            read(data)
