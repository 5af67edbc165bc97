"""`clric-convert` with many files: in processes, and together on a GPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import hostile_folder
from fast_profile import FastProfile
from numpy.typing import NDArray
from PIL import Image

import pillow_clric
from codec.container import unpack
from codec.profiles import DEFAULT
from codec.profiles.base import Goal, Progress, Sections
from pillow_clric import cli
from pillow_clric.convert import one_file, outputs
from pillow_clric.convert import run as conversion
from pillow_clric.convert.plan import Job

# A profile that takes no time, for the command and for the processes that it starts. Photos that are wider than high
# take long, those that are higher than wide kill the process that they are in, square black ones only once.
CUSTOMISED = """
import os, signal, time
from pathlib import Path
import codec.profiles
from fast_profile import FastProfile

class Profile(FastProfile):
    def encode(self, pictures, goal, progress):
        pixels = pictures[0]
        height, width = pixels.shape
        once = Path(__file__).with_name("once")
        if height > width or not (pixels.any() or once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if width > height:
            time.sleep(float(os.environ["SECONDS"]))
        return super().encode(pictures, goal, progress)

codec.profiles.profiles = lambda: (Profile(),)
"""
# Without asking whether it is the program itself, which no process of the command may run again
PROGRAM = """
import signal
from pillow_clric import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
cli.main()
"""

Process = subprocess.Popen[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


def gray(folder: Path, **sizes: tuple[int, int]) -> None:
    for name, size in sizes.items():
        Image.new("L", size, 128).save(folder / f"{name}.png")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def start(folder: Path, seconds: float = 0, cwd: Path | None = None) -> Process:
    """`PROGRAM` with two processes on a folder, in a process group of its own."""
    script = folder.parent / "program.py"
    script.write_text(PROGRAM)
    (folder.parent / "sitecustomize.py").write_text(CUSTOMISED)
    tests = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, [folder.parent, tests, tests.parent])),
        "SECONDS": str(seconds),
    }
    command = [sys.executable, str(script), str(folder), "-o", str(folder.parent / "out"), "--jobs", "2"]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=cwd
    )


def wait_for(process: Process, text: str) -> None:
    assert process.stderr is not None
    assert any(text in line for line in process.stderr)


def rest(process: Process) -> str:
    """Text on stderr, when all processes that could write there have ended."""
    _, errors = process.communicate(timeout=600)
    return errors


# In processes


def test_same_bytes_with_any_number_of_processes(folder: Path, photo: Image.Image, tmp_path: Path) -> None:
    for i in range(3):
        photo.crop((i, 0, i + 24, 16)).save(folder / f"{i}.png")
    (folder / "bad.png").write_bytes(b"not a photo")
    for jobs in ("1", "2"):
        arguments = [str(folder), "-e", "1", "-j", jobs, "-o", str(tmp_path / jobs)]
        command = [sys.executable, "-m", "pillow_clric.cli", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 1, result.stderr
        assert f"failed: {folder / 'bad.png'}: cannot identify" in result.stderr
        assert "3 converted" in result.stderr
        assert "; 1 failed; " in result.stderr
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert contents(tmp_path / "1").keys() == {"0.clric", "1.clric", "2.clric"}


def test_killed_processes(folder: Path, tmp_path: Path) -> None:
    gray(folder, a=(8, 8), c=(8, 9), d=(8, 8), e=(8, 8))
    Image.new("L", (8, 8)).save(folder / "b.png")
    with start(folder) as process:
        errors = rest(process)
    assert process.returncode == 1
    assert f"failed: {folder / 'c.png'}: its process was killed" in errors
    assert "4 converted" in errors
    assert contents(tmp_path / "out").keys() == {"a.clric", "b.clric", "d.clric", "e.clric"}


def test_nothing_in_the_current_directory_is_executed(folder: Path, tmp_path: Path) -> None:
    gray(folder, a=(8, 8), b=(8, 8))
    hostile = hostile_folder(tmp_path)
    with start(folder, cwd=hostile) as process:
        errors = rest(process)
    assert (process.returncode, "2 converted" in errors) == (0, True), errors
    assert not (hostile / "executed").exists()


def test_other_processes_of_the_program_go_on(tmp_path: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=True)
    other.start()
    try:
        jobs = [Job(tmp_path / f"{i}.clric", tmp_path / f"{i}.png", encoding=False) for i in range(2)]
        options = one_file.Settings(DEFAULT, {"device": "cpu"}, strip=False)
        found = list(conversion.results_of(jobs, options, 2, lambda name: lambda done, total: None))
        assert all("No such file" in result.error for result in found)
        assert {result.job for result in found} == set(jobs)
        assert other.is_alive()
    finally:
        other.kill()


@pytest.mark.parametrize(
    ("number", "status", "told"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGKILL, -9, "")]
)
def test_ended_and_again(number: signal.Signals, status: int, told: str, folder: Path, tmp_path: Path) -> None:
    gray(folder, a=(8, 8), b=(9, 8), c=(9, 8), d=(9, 8))
    inputs = contents(folder)
    with start(folder, seconds=600) as process:
        wait_for(process, "a.clric")
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.kill()
        assert rest(process) == told  # the processes that it started have ended, too
    assert process.returncode == status
    assert contents(tmp_path / "out").keys() == {"a.clric"}

    with start(folder) as process:
        errors = rest(process)
    assert process.returncode == 0
    assert "3 converted" in errors
    assert "1 skipped" in errors
    assert contents(tmp_path / "out").keys() == {"a.clric", "b.clric", "c.clric", "d.clric"}
    assert contents(folder) == inputs
    for path in (tmp_path / "out").iterdir():
        unpack(path.read_bytes())


@pytest.mark.parametrize(
    ("files", "jobs", "cores", "device", "processes"),
    [
        (1, None, 8, "auto", []),
        (3, None, 1, "auto", []),
        (3, None, 8, "auto", [3]),
        (9, None, 8, "cpu", [8]),
        (9, 3, 1, "auto", [2]),
        (9, 64, 8, "auto", [9]),
        (9, 1, 8, "auto", []),
        (3, 2, 8, "cuda", []),  # which processes would only contend for
    ],
)
def test_number_of_processes(
    files: int, jobs: int | None, cores: int, device: str, processes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def side_by_side(jobs: list[Job], settings: one_file.Settings, processes: int) -> list[one_file.Result]:
        used.append(processes)
        return [one_file.Result(job, 0) for job in jobs]

    monkeypatch.setattr(conversion, "cores", lambda: cores)
    monkeypatch.setattr(conversion, "_side_by_side", side_by_side)
    todo = [Job(Path(f"{i}.clric"), Path(f"{i}.png"), encoding=False) for i in range(files)]
    settings = one_file.Settings(DEFAULT, {"device": device}, strip=False)
    results = conversion.results_of(todo, settings, jobs, lambda name: lambda done, total: None)
    assert [result.job for result in results] == todo
    assert used == processes


def test_processes_start_when_files_have_taken_as_long_as_that_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    done, shared = [0], []

    def convert(job: Job, *_: object) -> one_file.Result:
        done[0] += 1
        return one_file.Result(job, 0)

    def side_by_side(jobs: list[Job], settings: one_file.Settings, processes: int) -> list[one_file.Result]:
        shared.extend(jobs)
        return [one_file.Result(job, 0) for job in jobs]

    monkeypatch.setattr(conversion, "PRICE", 3)
    monkeypatch.setattr(time, "monotonic", lambda: done[0])  # a file takes a second
    monkeypatch.setattr(conversion, "convert", convert)
    monkeypatch.setattr(conversion, "_side_by_side", side_by_side)
    todo = [Job(Path(f"{i}.clric"), Path(f"{i}.png"), encoding=False) for i in range(9)]
    settings = one_file.Settings(DEFAULT, {"device": "cpu"}, strip=False)
    results = conversion.results_of(todo, settings, 2, lambda name: lambda done, total: None)
    assert [result.job for result in results] == todo
    assert shared == todo[3:]


# Together on a GPU: what matters is that the command believes there is one


class Gpu:
    """Encodes photos together, and notes of which sizes they were."""

    def __init__(self) -> None:
        self.sizes: list[list[tuple[int, int]]] = []

    def encode_batch(self, images: Sequence[Image.Image], **options: Any) -> list[bytes]:
        self.sizes.append([image.size for image in images])
        return pillow_clric.encode_batch(images, **options)


@pytest.fixture
def gpu(fast_profile: FastProfile, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu()
    monkeypatch.setattr(conversion, "encode_batch", made.encode_batch)
    monkeypatch.setattr(conversion, "on_gpu", lambda device: True)
    monkeypatch.setattr(conversion, "cores", lambda: 1)
    monkeypatch.setattr(conversion, "_PIXELS_AT_ONCE", 128)
    return made


def run(folder: Path, *more: Path) -> Result:
    arguments = [str(path) for path in (folder, *more, "-o", folder.parent / "out")]
    return CliRunner().invoke(cli.main, arguments)


def test_photos_of_similar_size_are_encoded_together(folder: Path, tmp_path: Path, gpu: Gpu) -> None:
    gray(folder, a=(8, 8), b=(16, 8), c=(8, 8), d=(16, 16), e=(8, 8))
    (tmp_path / "x.clric").write_bytes(pillow_clric.encode(Image.new("L", (8, 8))))
    assert run(folder, tmp_path / "x.clric").exit_code == 0
    assert gpu.sizes == [[(8, 8), (8, 8)], [(8, 8)], [(16, 8)], [(16, 16)]]
    assert contents(tmp_path / "out").keys() == {"x.png", *(f"{name}.clric" for name in "abcde")}
    for name in "abcde":
        with Image.open(folder / f"{name}.png") as photo, Image.open(tmp_path / "out" / f"{name}.clric") as coded:
            assert (coded.size, coded.tobytes()) == (photo.size, photo.tobytes())


def test_photos_fail_alone(folder: Path, tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    code = FastProfile.encode

    def encode(
        self: FastProfile, pictures: Sequence[NDArray[np.uint8]], goal: Goal, progress: Progress | None
    ) -> list[Sections]:
        if not all(pixels.any() for pixels in pictures):
            raise RuntimeError("too dark")
        return code(self, pictures, goal, progress)

    monkeypatch.setattr(FastProfile, "encode", encode)
    gray(folder, a=(8, 8), c=(8, 8), d=(8, 8), f=(8, 8))
    Image.new("L", (8, 8)).save(folder / "b.png")
    (folder / "d.png").write_bytes((folder / "d.png").read_bytes()[:-30])
    (folder / "e.png").write_bytes(b"not a photo")
    result = run(folder)
    assert result.exit_code == 1
    assert f"failed: {folder / 'b.png'}: too dark" in result.stderr
    assert f"failed: {folder / 'd.png'}: " in result.stderr
    assert f"failed: {folder / 'e.png'}: cannot identify" in result.stderr
    assert contents(tmp_path / "out").keys() == {"a.clric", "c.clric", "f.clric"}


def test_impossible_photos_fail_alone(folder: Path, tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "encode_batch", pillow_clric.encode_batch)
    monkeypatch.setattr(one_file, "encode", lambda *_, **__: pytest.fail("it was encoded again"))
    gray(folder, a=(8, 8), c=(8, 8))
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(noise).save(folder / "b.png")
    arguments = [str(folder), "-o", str(tmp_path / "out"), "--target-size", "60"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 1
    assert f"failed: {folder / 'b.png'}: a picture of 8 x 8 cannot be coded in 60 bytes" in result.stderr
    assert contents(tmp_path / "out").keys() == {"a.clric", "c.clric"}


def test_photos_that_cannot_be_coded_are_left_out(
    folder: Path, tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_PIXELS_AT_ONCE", 1024)
    gray(folder, a=(8, 8), c=(8, 8))
    Image.new("F", (8, 8)).save(folder / "b.tif")
    Image.new("I;16", (8, 8)).save(folder / "d.png")
    result = run(folder)
    assert result.exit_code == 1
    assert gpu.sizes == [[(8, 8)] * 3]
    assert f"failed: {folder / 'b.tif'}: " in result.stderr
    assert f"warning: {folder / 'd.png'}: " in result.stderr
    assert contents(tmp_path / "out").keys() == {"a.clric", "c.clric", "d.clric"}


def test_reading_and_writing_while_the_gpu_works(
    folder: Path, tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_read = {name: threading.Event() for name in "abc"}
    was_written = {name: threading.Event() for name in "abc"}
    load, write = conversion._read, outputs.write

    def read(job: Job, settings: one_file.Settings) -> conversion.Photo | None:
        was_read[job.source.stem].set()
        return load(job, settings)

    def save(target: Path, data: bytes, **how: Any) -> None:
        write(target, data, **how)
        was_written[target.stem].set()

    def encode_batch(images: Sequence[Image.Image], **options: Any) -> list[bytes]:
        if images[0].width == 8:
            assert was_read["b"].wait(600)
            assert not was_read["c"].is_set()  # or all would be in memory
        if images[0].width == 9:
            assert was_written["a"].wait(600)
            assert was_read["c"].wait(600)
        return gpu.encode_batch(images, **options)

    monkeypatch.setattr(conversion, "_read", read)
    monkeypatch.setattr(outputs, "write", save)
    monkeypatch.setattr(conversion, "encode_batch", encode_batch)
    gray(folder, a=(8, 8), b=(9, 9), c=(10, 10))
    assert run(folder).exit_code == 0
    assert gpu.sizes == [[(8, 8)], [(9, 9)], [(10, 10)]]  # an assertion that fails would have them encoded alone
    assert contents(tmp_path / "out").keys() == {"a.clric", "b.clric", "c.clric"}


def test_interrupt_while_the_gpu_works(folder: Path, tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    working, stopped = threading.Event(), threading.Event()

    def encode_batch(images: Sequence[Image.Image], *, progress: one_file.Progress, **options: Any) -> list[bytes]:
        if images[0].width == 8:
            return gpu.encode_batch(images, **options)
        working.set()
        try:
            while True:
                progress(1, 2)
        finally:
            stopped.set()

    def save(target: Path, data: bytes, **how: Any) -> None:
        assert working.wait(600)
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "encode_batch", encode_batch)
    monkeypatch.setattr(outputs, "write", save)
    gray(folder, a=(8, 8), b=(9, 9))
    assert run(folder).exit_code == 130
    assert stopped.is_set()
    assert not (tmp_path / "out").exists()


def test_what_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpu", "cpu:0", "meta", "no device"):
        assert not conversion.on_gpu(name)
    monkeypatch.setattr("codec.runtime.resolve", torch.device)  # as if there were one
    assert conversion.on_gpu("cuda:1")
