"""Other processes that share what is to do."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import hostile_folder
from pictures import photo

import codec
from codec import batches, workers
from codec.workers import Helper, KilledError, results, sharing

SAMPLE = Path(__file__).parents[1] / "samples" / "coffee.png"


def where(number: int) -> tuple[int, int]:
    time.sleep(0.05)  # or one of them does it all
    return number, os.getpid()


def only_here(pid: int) -> int:
    """End a process, but not this one, as if it were killed."""
    if os.getpid() != pid:
        os._exit(1)
    return pid


def half_an_answer(pid: int) -> int:
    """End a process, but not this one, in the middle of its answer, as it may be for want of memory."""
    if os.getpid() != pid:
        frame = sys._getframe()
        while "answers" not in frame.f_locals:
            assert frame.f_back
            frame = frame.f_back
        frame.f_locals["answers"].write((1000).to_bytes(8, "little") + b"half")
        frame.f_locals["answers"].flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return pid


class Unloadable:
    """Can be sent, but not received."""

    def __reduce__(self) -> tuple[Any, ...]:
        return divmod, (1, 0)


def test_others_do_it() -> None:
    with sharing(2):
        found = results(where, [(i,) for i in range(12)])
        again = results(where, [(0,)])
    assert [number for number, _ in found] == list(range(12))
    pids = {pid for _, pid in found}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert again[0][1] in pids  # they are kept


def test_none_are_needed() -> None:
    assert results(where, [(1,)]) == [(1, os.getpid())]
    with sharing(0):
        assert results(where, [(1,)]) == [(1, os.getpid())]


def test_a_frozen_program_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with sharing(2):
        assert results(where, [(1,)]) == [(1, os.getpid())]


@pytest.mark.parametrize("executable", [None, "/nowhere/python"])
def test_without_a_python_to_start(executable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with sharing(2):
        assert results(where, [(1,)]) == [(1, os.getpid())]


def test_what_they_raise_is_raised_here() -> None:
    with sharing(1):
        with pytest.raises(ValueError, match="invalid literal"):
            results(int, [("1",), ("x",)])
        assert results(int, [("2",)]) == [2]


def test_what_they_print_is_no_result(capfd: pytest.CaptureFixture[str]) -> None:
    with sharing(1):
        assert results(print, [("printed",), ("also",)]) == [None, None]
    assert "printed" in "".join(capfd.readouterr())


def test_what_a_killed_one_had_is_done_here() -> None:
    with sharing(2):
        assert results(only_here, [(os.getpid(),)] * 5) == [os.getpid()] * 5
        assert results(where, [(3,)]) == [(3, os.getpid())]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_what_one_had_that_was_killed_in_the_middle_of_its_answer_is_done_here() -> None:
    with sharing(1):
        assert results(half_an_answer, [(os.getpid(),)]) == [os.getpid()]
    with Helper() as helper:
        for _ in range(2):
            with pytest.raises(KilledError):
                helper.result(half_an_answer, os.getpid())


def test_what_they_cannot_load_is_an_error_and_they_go_on() -> None:
    with Helper() as helper:
        with pytest.raises(ZeroDivisionError):
            helper.result(Unloadable)
        assert helper.result(abs, -3) == 3


LOADED = [0]


def loaded() -> tuple[int, int]:
    return LOADED[0], os.getpid()


@pytest.mark.parametrize("possible", [True, False])
def test_copies_have_what_was_loaded(possible: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "COPIES", possible and workers.COPIES)
    LOADED[0] = 7
    with Helper(copied=True) as one, Helper(copied=True) as other:
        one.close()
        with pytest.raises(KilledError):
            one.result(loaded)
        number, pid = other.result(loaded)
        assert pid != os.getpid()
        assert number == 7 * workers.COPIES
    if possible:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.skipif(not workers.COPIES, reason="this system makes none")
def test_copies_end_where_nobody_waits_for_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of programs whose parent ignored SIGCHLD, which is inherited."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with Helper(copied=True) as one:
            assert one.result(loaded)[1] != os.getpid()
        with Helper(copied=True) as one, pytest.raises(KilledError):
            one.result(os._exit, 1)
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.skipif(not workers.COPIES, reason="this system makes none")
def test_a_copy_that_cannot_be_made_is_as_if_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory() -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "fork", no_memory)
    with Helper(copied=True) as one, pytest.raises(KilledError):
        one.result(loaded)


@pytest.mark.parametrize("at_start", [False, True])
def test_nothing_in_the_current_directory_is_executed(at_start: bool, tmp_path: Path) -> None:
    """Also when a program, such as one at a prompt, went there later, whose path begins with wherever it is."""
    hostile, go = hostile_folder(tmp_path), "import os, sys\nfrom codec.workers import *\n"
    go += "" if at_start else f"sys.path.insert(0, '')\nos.chdir({str(hostile)!r})\n"
    script = tmp_path / "program.py"
    script.write_text(f"{go}with sharing(1): print(results(os.getpid, [()]) != [os.getpid()])")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    cwd = hostile if at_start else tmp_path
    run = subprocess.run([sys.executable, script], cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"  # it was done elsewhere
    assert not (hostile / "executed").exists()


def test_programs_are_not_run_again(tmp_path: Path) -> None:
    """Also those that do not ask whether they are the one that was started."""
    script = tmp_path / "program.py"
    script.write_text("from codec.workers import *\nprint('once')\nwith sharing(2): print(results(abs, [(-1,)]))")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=600)
    assert run.stdout.split() == ["once", "[1]"]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_they_end_with_who_made_them(number: int) -> None:
    program = (
        "import signal, time\nfrom codec.workers import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what runs in the background may ignore it
        "with sharing(2):\n"
        '    print(*{r for r in results(eval, [(\'__import__("time").sleep(.1) or __import__("os").getpid()\',)] * 6)},'
        " flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as made:
        assert made.stdout is not None
        pids = [int(pid) for pid in made.stdout.readline().split()]
        assert len(pids) == 2
        made.send_signal(number)
        made.wait(600)
    deadline = time.monotonic() + 600
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # one that nobody waits for any more


def test_files_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    crop = photo("coffee.png", 64, 96, top=100, left=200)
    pictures = [crop, crop[::-1], crop[:40, :56]]
    plain = codec.encode_batch(pictures, profile="clric", effort=1)
    monkeypatch.setattr(batches, "_helpers", lambda count, device: count)
    asked: list[str] = []
    monkeypatch.setattr(workers.Helper, "result", spied(workers.Helper.result, asked))
    assert codec.encode_batch(pictures, profile="clric", effort=1) == plain
    assert sorted(asked) == ["verify"] * 3 + ["write"] * 3


def spied(result: Any, asked: list[str]) -> Any:
    """The same, which also notes what is asked for."""

    def noting(helper: Any, function: Any, *arguments: Any) -> Any:
        asked.append(function.__name__)
        return result(helper, function, *arguments)

    return noting
