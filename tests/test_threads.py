"""Threads, forked and spawned processes, and that nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import opened
from fast_profile import FastProfile
from PIL import Image

import pillow_clric
from codec import runtime

GOLDEN = Path(__file__).parent / "golden"


def in_threads(work: Callable[[], object], count: int = 8) -> list[object]:
    """Results, or errors, of calls at the same time."""
    start, found = threading.Barrier(count), list[object]()

    def run() -> None:
        start.wait()
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_threads_share_one_image(clric: bytes, photo: Image.Image, fast_profile: FastProfile) -> None:
    for _ in range(100):
        image = opened(clric)

        def pixels(image: Image.Image = image) -> bytes:
            image.load()
            return image.tobytes()

        assert in_threads(pixels) == [photo.tobytes()] * 8
    assert len(fast_profile.devices) == 100


@pytest.mark.usefixtures("golden_models")
@pytest.mark.parametrize("name", ["clric-rgb", "rgb", "msp-photo"])
def test_threads_decode_at_once(name: str) -> None:
    """Also where the default dtype, which all threads share, is another one: it is that again when all are done."""
    data = (GOLDEN / f"{name}.clric").read_bytes()
    pixels = pillow_clric.decode(data, device="cpu").tobytes()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for _ in range(3):
            assert in_threads(lambda: pillow_clric.decode(data, device="cpu").tobytes()) == [pixels] * 8
            assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)


LOADER = f"""
import sys
from pathlib import Path

import torch

import pillow_clric


class Photos(torch.utils.data.Dataset):
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        import pillow_clric

        return pillow_clric.decode(self.paths[index].read_bytes(), device="cpu").tobytes()


if __name__ == "__main__":
    paths = [Path({str(GOLDEN)!r}, name + ".clric") for name in ("clric-rgb", "rgb", "msp-photo")]
    expected = [pillow_clric.decode(path.read_bytes()).tobytes() for path in paths]
    photos = Photos(paths)
    for way in ("fork", "spawn"):
        loader = torch.utils.data.DataLoader(
            photos, batch_size=None, num_workers=1, multiprocessing_context=way, timeout=600
        )
        assert list(loader) == expected, way
"""


@pytest.mark.usefixtures("golden_models")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_data_loaders(tmp_path: Path) -> None:
    """Their workers are forked or spawned, after torch has computed here."""
    script = tmp_path / "loader.py"
    script.write_text(LOADER)
    subprocess.run([sys.executable, script], check=True, timeout=1800)


IMPORTING = """
import sys, threading
import codec
data = open(sys.argv[1], "rb").read()
codec.decode(data, device="cpu")
assert "torch" not in sys.modules
thread = threading.Thread(target=lambda: __import__("torch"))
thread.start()
while thread.is_alive():
    codec.decode(data, device="cpu")
"""


@pytest.mark.usefixtures("golden_models")
def test_decoding_while_another_thread_imports_torch() -> None:
    """It takes seconds, in which a part of torch is there."""
    subprocess.run([sys.executable, "-c", IMPORTING, str(GOLDEN / "msp-grey.clric")], check=True, timeout=600)


def test_shared_work_is_done_once_however_few_threads_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work may change what it is given. A pool that begins no thread for it may do it yet."""
    begun, start = count(), threading.Thread.start

    def few(thread: threading.Thread) -> None:
        if next(begun):
            raise RuntimeError("can't start new thread")
        start(thread)

    def work(part: slice) -> int:
        done[part] += 1
        return int(part.start)

    threads = torch.get_num_threads()
    monkeypatch.setattr(threading.Thread, "start", few)
    try:
        torch.set_num_threads(4)
        done, parts = np.zeros(100, int), [slice(i, i + 10) for i in range(0, 100, 10)]
        with runtime.numpy_computing():
            assert runtime.shared(work, parts) == [part.start for part in parts]
    finally:
        torch.set_num_threads(threads)
    assert (done == 1).all()
    assert next(begun) > 1


def test_errors_of_shared_work_are_raised() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with runtime.numpy_computing(), pytest.raises(ZeroDivisionError):
            runtime.shared(lambda part: 1 // part, [2, 1, 0, 3])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_copies_wait_for_no_property_that_is_being_computed() -> None:
    """Properties of functools wait for each other before Python 3.12, in all objects."""

    class Slow:
        @runtime.cached_property
        def value(self) -> int:
            begun.set()
            ended.wait(60)
            return 7

    begun, ended, slow = threading.Event(), threading.Event(), Slow()
    thread = threading.Thread(target=lambda: slow.value)
    thread.start()
    begun.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        ended = threading.Event()
        ended.set()
        os._exit(Slow().value != 7)
    assert os.waitpid(pid, 0)[1] == 0
    ended.set()
    thread.join()
    assert slow.value == 7


LATE = """
import atexit, sys, threading, time
import codec
from codec import runtime
import numpy as np

def late():
    threading.main_thread().join()
    with runtime.numpy_computing():
        parts = runtime.pieces(10, 1)
        assert runtime.shared(lambda part: part.start, parts) == [part.start for part in parts]
    codec.decode(data)
    print("decoded", flush=True)

import torch
torch.set_num_threads(2)
data = open(sys.argv[1], "rb").read()
if "before" in sys.argv:
    codec.decode(data)
threading.Thread(target=late).start()
"""


@pytest.mark.usefixtures("golden_models")
@pytest.mark.parametrize("when", ["before", "late"])
def test_threads_decode_while_python_ends(when: str) -> None:
    """No pool of threads can be begun then, nor used."""
    command = [sys.executable, "-c", LATE, str(GOLDEN / "msp-photo.clric"), when]
    found = subprocess.run(command, check=True, timeout=600, capture_output=True, text=True)
    assert found.stdout == "decoded\n", found.stderr


FORK = """
import os, signal, torch
from codec import device
with device._float32._lock:  # as another thread may hold it for a moment
    if not os.fork():
        signal.alarm(60)
        with device.computing(torch.device("cpu")):
            os._exit(0)
assert os.wait()[1] == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_copies_of_a_process_wait_for_no_thread_of_the_other() -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=600)


@pytest.mark.usefixtures("golden_models")
@pytest.mark.parametrize(
    "options",
    [{"profile": "clric"}, {"profile": "msp", "model": "tiny"}, {"profile": "vq", "model": "tinyvq"}],
    ids=str,
)
def test_memory_is_given_back(options: dict[str, Any], photo: Image.Image) -> None:
    """No tensor stays behind, and next to nothing of what NumPy and Python take."""
    photo.putalpha(photo.convert("L"))

    def there_and_back() -> None:
        pillow_clric.decode(pillow_clric.encode(photo, **options, effort=1, device="cpu"), device="cpu")

    there_and_back()  # what is kept is made more slowly when it is traced
    tracemalloc.start()
    tensors, used = [], []
    for _ in range(3):
        for _ in range(15):
            there_and_back()
        gc.collect()
        tensors.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
        used.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert tensors[2] == tensors[1]
    assert used[2] - used[1] < 2**16
