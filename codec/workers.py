"""Other processes, for what one core takes long for while a GPU does the rest.

Not those of `multiprocessing`: they run the program's own file once more, which a library may not ask for.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any

_COMMAND = "from codec.workers import serve; serve()"


def cores() -> int:
    """How many cores this process may use."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def sharing(count: int) -> Iterator[None]:
    """Let so many other processes do what `results` is asked for meanwhile; they start at once, and end with this.

    Where none can be had, or one breaks down, all is done here.
    """
    if not sys.executable or getattr(sys, "frozen", False):  # the program is no Python
        count = 0
    with ExitStack() as stack:
        helpers = [stack.enter_context(_Helper()) for _ in range(count)]
        token = _helpers.set(helpers)
        stack.callback(_helpers.reset, token)
        yield


def results(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
    """What a function of a module gives for each of some arguments; what it raises, this raises."""
    helpers = _helpers.get()
    if not helpers:
        return [function(*given) for given in arguments]
    idle = SimpleQueue[_Helper]()
    for helper in helpers:
        idle.put(helper)

    def result(given: tuple[Any, ...]) -> Any:
        helper = idle.get()
        try:
            return helper.result(function, given)
        finally:
            idle.put(helper)

    with ThreadPoolExecutor(len(helpers)) as threads:
        return list(threads.map(result, arguments))


class _Helper:
    """A process that does one thing after the other."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}
        environment["OMP_NUM_THREADS"] = "1"  # and no more for each of many
        with suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )

    def __enter__(self) -> _Helper:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def result(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """What the function gives or raises there; or here, once that process is no more."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            try:
                pickle.dump((function, arguments), self._process.stdin)
                self._process.stdin.flush()
                returned, found = pickle.load(self._process.stdout)
            except (OSError, EOFError):
                self.__exit__()
            else:
                if returned:
                    return found
                raise found
        return function(*arguments)


_helpers: ContextVar[list[_Helper]] = ContextVar("_helpers", default=[])  # noqa: B039 (never changed)


def serve() -> None:
    """What a helper does until nothing more is to come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; who made this one ends it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed meanwhile is no answer
    with suppress(EOFError, BrokenPipeError):
        while True:
            function, arguments = pickle.load(sys.stdin.buffer)
            try:
                answer = True, function(*arguments)
            except Exception as error:
                answer = False, error
            pickle.dump(answer, answers)
            answers.flush()
