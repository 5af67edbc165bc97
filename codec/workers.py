"""Other processes, each of which does one thing after the other: for what takes one core long.

Not those of `concurrent.futures` or `multiprocessing`. Their processes run the program's own file once more, which a
library may not ask for, and import what lies in the current directory; and when one is killed all others of its pool
end, and nobody is told what it had to do.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any, ClassVar, NoReturn, TypeVar
from weakref import WeakSet

_COMMAND = "from codec.workers import serve; serve()"
_HOME = str(Path(__file__).resolve().parents[1])  # of this package
COPIES = sys.platform == "linux"  # whether a process can be copied; elsewhere, libraries do not bear it
PRICE = 0.0 if COPIES else 4.0  # seconds until a process has started and has loaded what it needs
_LENGTH = 8  # bytes that say how many follow

Found = TypeVar("Found")


class KilledError(RuntimeError):
    """A process has ended before it gave a result."""


def cores() -> int:
    """Number of cores that this process may use."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def possible() -> bool:
    """Whether there is a Python to start: a program that is frozen has none."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


class Helper:
    """A process with one thread, which starts at once; one that cannot be started is as if it had been killed.

    Args:
        copied: make it a copy of this process, which shares what this one has loaded, where the system has copies. Only
            for programs: there should be no other thread in the middle of something.
    """

    def __init__(self, *, copied: bool = False) -> None:
        self._process: subprocess.Popen[bytes] | _Copy | None = None
        with suppress(OSError):
            self._process = _Copy() if copied and COPIES else _started()

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def result(self, function: Callable[..., Found], *arguments: Any) -> Found:
        """Result of a function of a module; what it raises, this raises.

        Raises:
            KilledError: the process has ended, perhaps in the middle of its answer.
        """
        process = self._process
        if process is None:
            raise KilledError("the process has ended")
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, (function, arguments))
            answer = _received(process.stdout)
        except (OSError, EOFError) as error:
            self.close()
            raise KilledError("the process was killed") from error
        returned, found = pickle.loads(answer)
        if not returned:
            raise found
        return found  # type: ignore[no-any-return]


def _started() -> subprocess.Popen[bytes]:
    """A new process that serves."""
    # An empty entry would stand for the current directory, which Python adds itself unless it is told -P.
    path = os.pathsep.join([*filter(None, sys.path), _HOME])
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        process_group=0,  # out of a terminal's reach: on Ctrl-C, who started it ends it
    )


class _Copy:
    """A copy of this process, as `subprocess.Popen` is a new one."""

    _all: ClassVar[WeakSet[_Copy]] = WeakSet()

    def __init__(self) -> None:
        (tasks, to_tasks), (from_answers, answers) = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(to_tasks, "wb"), os.fdopen(from_answers, "rb")
        self._all.add(self)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which are idle
                self._pid = os.fork()
            if not self._pid:
                self._serve(tasks, answers)
        finally:
            os.close(tasks)
            os.close(answers)

    def _serve(self, tasks: int, answers: int) -> NoReturn:
        try:
            os.setpgid(0, 0)  # as that of others
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            for copy in self._all:  # or it would not end with this process
                os.close(copy.stdin.fileno())
                os.close(copy.stdout.fileno())
            _serve(os.fdopen(tasks, "rb"), os.fdopen(answers, "wb"))
        finally:
            os._exit(1)

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # where SIGCHLD is ignored, one that has ended is gone
            os.kill(self._pid, signal.SIGKILL)

    def communicate(self) -> None:
        """Wait for its end."""
        with suppress(ChildProcessError):  # where SIGCHLD is ignored nothing is left to wait for
            os.waitpid(self._pid, 0)
        self._all.discard(self)
        self.stdout.close()
        with suppress(OSError):  # of what is still to be written
            self.stdin.close()


_helpers: ContextVar[list[Helper]] = ContextVar("_helpers", default=[])  # noqa: B039 (never changed)


@contextmanager
def sharing(count: int) -> Iterator[None]:
    """Let so many other processes do what `results` is asked for meanwhile; they start at once, and end with this.

    Where none can be had, or one breaks down, all is done here.
    """
    with ExitStack() as stack:
        helpers = [stack.enter_context(Helper()) for _ in range(count * possible())]
        token = _helpers.set(helpers)
        stack.callback(_helpers.reset, token)
        yield


def results(function: Callable[..., Found], arguments: Iterable[tuple[Any, ...]]) -> list[Found]:
    """Results of a function of a module for each of some arguments, in their order; what it raises, this raises."""
    helpers = _helpers.get()
    if not helpers:
        return [function(*given) for given in arguments]
    idle = SimpleQueue[Helper]()
    for helper in helpers:
        idle.put(helper)

    def result(given: tuple[Any, ...]) -> Found:
        helper = idle.get()
        try:
            return helper.result(function, *given)
        except KilledError:
            return function(*given)
        finally:
            idle.put(helper)

    with ThreadPoolExecutor(len(helpers)) as threads:
        return list(threads.map(result, arguments))


def serve() -> None:
    """Do what this process is asked for on stdin, until nobody is left who could ask."""
    _serve(sys.stdin.buffer, os.fdopen(os.dup(1), "wb"))


def _serve(tasks: IO[bytes], answers: IO[bytes]) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for Windows, where terminals reach all processes
    os.dup2(2, 1)  # what is printed meanwhile is no answer
    received = SimpleQueue[bytes]()
    Thread(target=_receive, args=(tasks, received), daemon=True).start()
    while True:
        task = received.get()
        try:
            function, arguments = pickle.loads(task)
            answer = True, function(*arguments)
        except Exception as error:
            answer = False, error
        _send(answers, answer)


def _receive(tasks: IO[bytes], received: SimpleQueue[bytes]) -> None:
    """Pass on what is asked for, and end this process in the middle of it when who asked is gone."""
    with suppress(EOFError):
        while True:
            received.put(_received(tasks))
    os._exit(1)


def _send(stream: IO[bytes], message: object) -> None:
    data = pickle.dumps(message)
    stream.write(len(data).to_bytes(_LENGTH, "little"))
    stream.write(data)
    stream.flush()


def _received(stream: IO[bytes]) -> bytes:
    """Read the bytes of a message that `_send` wrote; EOFError if there is none, or not all of it."""
    size = stream.read(_LENGTH)
    data = stream.read(int.from_bytes(size, "little"))
    if len(size) < _LENGTH or len(data) < int.from_bytes(size, "little"):
        raise EOFError
    return data
