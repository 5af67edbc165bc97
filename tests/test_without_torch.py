"""Profile msp decodes small pictures without torch, and as torch would."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pictures
import pytest
import torch
from PIL import Image
from threadpoolctl import threadpool_info

import codec
from codec import device, runtime
from codec.autoencoders import store
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.learned_transform import LearnedTransform, on_device
from codec.autoencoders.transform_networks import to_symbols
from codec.tensors import to_tensor

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
ROUNDING = 0.1 / 255  # what pictures of two libraries may differ by
photo = partial(pictures.photo, top=60, left=90)


def run(script: str, *arguments: str | Path, **environment: str) -> str:
    """What a new process prints, which must not have imported torch in the end."""
    told = {**os.environ, "PYTHONPATH": str(ROOT), "CLRIC_DEVICE": "cpu", store.VARIABLE: str(GOLDEN), **environment}
    script += '\nassert "torch" not in sys.modules, [n for n in sys.modules if n.startswith("torch")][:3]'
    command = [sys.executable, "-c", "import sys\n" + script, *map(str, arguments)]
    result = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


OPENED = """
from io import BytesIO
from pathlib import Path
from warnings import simplefilter
from PIL import Image, ImageFile
import codec, pillow_clric

simplefilter("ignore")
for path in map(Path, sys.argv[1:]):
    data = path.read_bytes()
    Image.open(path).load()
    Image.open(path).verify()
    for made in (Image.open(path), Image.open(path)):
        made.draft(None, (20, 10))
        made.thumbnail((13, 13))
    print(pillow_clric.info(path).mode, codec.describe(data, device="cpu")["preset"])
    if "packets" in path.name:
        damaged = bytes([*data[:-40], data[-40] ^ 1, *data[-39:]])
        codec.decode(codec.repair(damaged, device="cpu"), device="cpu")
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    Image.open(BytesIO(data[:-9])).load()
    ImageFile.LOAD_TRUNCATED_IMAGES = False
"""


def test_all_that_readers_do() -> None:
    """With alpha and without, in packets, damaged, truncated, smaller, or only looked at."""
    files = sorted(GOLDEN.glob("msp-*.clric"))
    modes = {line.split()[0] for line in run(OPENED, *files).splitlines()}
    assert modes >= {"L", "RGB", "RGBA"}


def test_the_command(tmp_path: Path) -> None:
    script = """
from pillow_clric.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
"""
    run(script, GOLDEN / "msp-alpha.clric", GOLDEN / "msp-photo.clric", "-o", tmp_path, "--device", "cpu")
    with Image.open(GOLDEN / "msp-alpha.png") as expected, Image.open(tmp_path / "msp-alpha.png") as found:
        assert np.abs(np.asarray(found).astype(float) - np.asarray(expected)).mean() < 1


def test_pictures_are_the_same_whatever_is_imported(tmp_path: Path) -> None:
    data = codec.encode(photo("coffee.png", 133, 202), quality=70, effort=1, device="cpu", profile="msp")
    path = tmp_path / "x.clric"
    path.write_bytes(data)
    script = """
from zlib import crc32
import codec
print(crc32(codec.decode(open(sys.argv[1], "rb").read(), device="cpu").tobytes()))
"""
    assert int(run(script, path)) == crc32(codec.decode(data, device="cpu").tobytes())


# Torch and NumPy


@cache
def transform() -> LearnedTransform:
    return on_device(store.load("transform"), "cpu")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize(
    ("name", "size"), [("astronaut.png", (200, 310)), ("coffee.png", (97, 33)), ("rocket.jpg", (1, 50))]
)
def test_pictures_are_those_of_torch(
    name: str, size: tuple[int, int], part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_cpu_has_bfloat16", lambda: False)
    position = round(part * transform().positions)
    picture = to_tensor([photo(name, *size)], torch.device("cpu"))
    symbols = np.rint(to_symbols(transform().networks.encode(picture, position)))
    for scale in (1, *codec.SCALES):
        found = transform().decode(symbols, position, *size, scale)
        expected = transform().networks.picture(symbols, position, *size, scale, grain=False)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert np.abs(found - expected).max() < ROUNDING


def test_torch_makes_what_is_larger_than_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    own = LearnedTransform(store.load(GOLDEN / "tiny@e02287ff4f582a9e.safetensors"), "cpu")
    monkeypatch.setattr(own.networks, "picture", lambda symbols, *_: symbols.shape)
    for rows, columns in ((65, 1), (1, 65)):
        symbols = np.zeros((rows, columns, own.channels), np.float32)
        assert own.decode(symbols, 0, 16 * rows, 16 * columns) == symbols.shape
    assert own.decode(np.zeros((64, 64, own.channels), np.float32), 0, 1024, 1024).shape == (3, 1024, 1024)


@pytest.mark.parametrize("shape", [None, (3, 5)])
def test_weights_that_do_not_fit(shape: tuple[int, ...] | None) -> None:
    model = store.load(GOLDEN / "tiny@e02287ff4f582a9e.safetensors")
    tensors: dict[str, Any] = dict(model.tensors)
    del tensors["decoder.up.weight"]
    if shape:
        tensors["decoder.up.weight"] = torch.zeros(shape)
    own = LearnedTransform(replace(model, tensors=tensors), "cpu")
    with pytest.raises(ModelFileError, match=r"weights decoder\.up\.weight are not there, or not of shape \(16, 12\)"):
        own.decode(np.zeros((1, 1, own.channels), np.float32), 0, 16, 16)


# Devices and threads


@pytest.mark.parametrize(
    ("libraries", "devices", "asked"),
    [(["none.so"], ["/none"], False), ([], [], False), (["none.so"], ["/none", os.devnull], True), (None, [], True)],
)
def test_torch_is_asked_where_there_may_be_a_gpu(
    libraries: list[str] | None, devices: list[str], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is not a system that drivers are known of."""
    monkeypatch.setattr(runtime, "_LIBRARIES", {} if libraries is None else {sys.platform: libraries})
    monkeypatch.setattr(runtime, "_DEVICES", devices)
    monkeypatch.setattr(runtime, "resolve", lambda name: torch.device("cuda", 3))
    monkeypatch.delitem(sys.modules, "torch")
    runtime._may_have_gpu.cache_clear()
    try:
        assert runtime.resolved("auto") == ("cuda:3" if asked else "cpu")
    finally:
        runtime._may_have_gpu.cache_clear()


def test_names_of_devices() -> None:
    assert runtime.resolved("cpu") == runtime.resolved("cpu:0") == "cpu"
    assert runtime.resolved("auto") == str(runtime.resolve("auto"))


def test_unknown_devices() -> None:
    with pytest.raises(ValueError, match='device must be "auto"'):
        runtime.resolved("gpu")
    with pytest.raises(TypeError, match='device must be "auto"'):
        runtime.resolved(3)  # type: ignore[arg-type]


def blas_threads() -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads of torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("copied", [False, True])
def test_threads_are_those_of_torch(copied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of products, and of what is shared: there, each makes products of its own."""
    before = blas_threads()
    monkeypatch.setattr(runtime, "forked", copied)
    both = threading.Barrier(1 if copied else 2)

    def part(name: str) -> tuple[str, set[int], list[str]]:
        both.wait(60)
        return name, blas_threads(), runtime.shared(str, [name])  # threads would wait for each other for ever

    with runtime.numpy_computing():
        assert blas_threads() == {1 if copied else 2}
        assert runtime.shared(part, "abcd") == [(name, {1}, [name]) for name in "abcd"]
        assert len(runtime.pieces(100, 10)) == (1 if copied else 2)
        assert blas_threads() == {1 if copied else 2}
    assert blas_threads() == before


@pytest.mark.usefixtures("two_threads")
def test_errors_of_threads() -> None:
    """One of several is raised, and threads of products are as many as before."""
    before = blas_threads()
    with runtime.numpy_computing(), pytest.raises(ValueError, match="invalid literal"):
        runtime.shared(int, "1x2y")
    assert blas_threads() == before


@pytest.mark.parametrize("quality", [40, 90])
def test_pictures_depend_on_no_number_of_threads(quality: int) -> None:
    """Neither without an enhancement layer nor with one."""
    data = codec.encode(photo("coffee.png", 260, 200), quality=quality, effort=1, device="cpu")
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(codec.decode(data, device="cpu"))
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_copies_of_a_process_know_that_they_are() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("there are no copies of processes on this system")
    script = """
import os, signal
from codec import runtime
assert not runtime.forked
if not os.fork():
    os._exit(not runtime.forked)
assert os.wait()[1] == 0
with runtime._products._lock:  # as another thread may hold it for a moment
    if not os.fork():
        signal.alarm(60)
        with runtime.numpy_computing():
            os._exit(0)
assert os.wait()[1] == 0
"""
    run(script)
