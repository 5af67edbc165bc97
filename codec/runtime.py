"""Names of devices, and threads, as far as they can be told without torch."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    import torch
    from threadpoolctl import LibController

# What torch needs to find a GPU on a system: libraries of drivers, and devices. On others it is asked.
_LIBRARIES = {"linux": ["libcuda.so.1"], "darwin": [], "win32": ["nvcuda.dll", "amdhip64_6.dll", "amdhip64_7.dll"]}
_DEVICES = ("/dev/kfd", "/dev/dxg")

Part = TypeVar("Part")
Found = TypeVar("Found")

forked = False  # whether this process is a copy of another one


def after_fork(action: Callable[[], None]) -> None:
    """Have something done in each process that is forked from this one, where systems can do that.

    In such a copy a thread that is not there any more may hold a lock for ever: it needs locks of its own.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=action)


def _note_fork() -> None:
    global forked, _products
    forked, _products = True, _Products()


after_fork(_note_fork)


def resolved(name: str) -> str:
    """Name of the device that `resolve` gives, and raises as that; without torch where it can be none but the CPU."""
    if name == "cpu" or (name == "auto" and "torch" not in sys.modules and not _may_have_gpu()):
        return "cpu"
    device = resolve(name)
    return "cpu" if device.type == "cpu" else str(device)


def resolve(name: str) -> torch.device:
    """The device of this name; "auto" is the first GPU, or else the CPU.

    A process that was forked from one that uses CUDA has no GPU: CUDA does not work there.

    Raises:
        TypeError: it is no name.
        ValueError: there is no such kind of device.
        RuntimeError: there is, but not on this machine.
    """
    import torch

    wrong = f'device must be "auto", "cpu", "cuda", "cuda:1" or "mps", not {name!r}'
    if not isinstance(name, str):
        raise TypeError(wrong)
    if name == "auto":
        usable = torch.cuda.is_available() and not torch.cuda._is_in_bad_fork()
        return torch.device("cuda" if usable else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(wrong) from error
    try:
        torch.empty(1, device=device).cpu()  # of "meta" there is nothing to be had
    except (RuntimeError, AssertionError, ImportError) as error:  # AssertionError: torch was built without CUDA
        raise RuntimeError(f'device {name!r} is not available on this machine: use "auto" or "cpu"') from error
    return device


@cache
def _may_have_gpu() -> bool:
    return (
        sys.platform not in _LIBRARIES
        or any(map(os.path.exists, _DEVICES))
        or any(map(_is_library, _LIBRARIES[sys.platform]))
    )


def _is_library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


class _Products:
    """Number of threads that NumPy's products take, which all threads of Python share: the least that one asks for."""

    def __init__(self) -> None:
        self._lock, self._asked, self._before = Lock(), list[int](), list[int]()

    @contextmanager
    def limited(self, count: int) -> Iterator[None]:
        """Let products take at most so many threads, and when nobody asks for that any more, as many as before."""
        with self._lock:
            if not self._asked:
                self._before = [library.num_threads for library in _libraries()]
            self._asked.append(count)
            self._set()
        try:
            yield
        finally:
            with self._lock:
                self._asked.remove(count)
                self._set()

    def _set(self) -> None:
        for library, before in zip(_libraries(), self._before, strict=True):
            library.set_num_threads(min(self._asked, default=before))


_products = _Products()
_pool: ContextVar[tuple[ThreadPoolExecutor, int] | None] = ContextVar("_pool", default=None)


@contextmanager
def numpy_computing() -> Iterator[None]:
    """Let NumPy take as many threads as torch does, and one in a process that is a copy, as of `computing`.

    There are as many such processes as processors: a loader's of data, for instance. Threads are those of NumPy's
    products, and of what is `shared`.
    """
    count = 1 if forked else sys.modules["torch"].get_num_threads() if "torch" in sys.modules else _own_threads()
    begin = None if count == 1 else _executor()
    if begin is None:
        with _products.limited(1):
            yield
        return
    with _products.limited(count), begin(count) as pool:
        token = _pool.set((pool, count))
        try:
            yield
        finally:
            _pool.reset(token)


def shared(work: Callable[[Part], Found], parts: Iterable[Part]) -> list[Found]:
    """Results for each of some parts, which the threads of `numpy_computing` share; products take one thread each.

    So those of the same parts are the same, to the last bit, whatever the number of threads. Others go on only
    while one is in functions of NumPy and the like, of arrays that are large.
    """
    held = _pool.get()
    if held is None:
        return [work(part) for part in parts]
    with _products.limited(1):
        begun = [_begun(held[0], work, part) for part in parts]
        return [result() for result in begun]


def _executor() -> type[ThreadPoolExecutor] | None:
    """Class of pools of threads; None when Python is about to end, and lets nobody begin any."""
    try:
        from concurrent.futures import ThreadPoolExecutor
    except RuntimeError:
        return None
    return ThreadPoolExecutor


def _begun(pool: ThreadPoolExecutor, work: Callable[[Part], Found], part: Part) -> Callable[[], Found]:
    """Function that gives the result of work that a pool does; where it takes none any more, it is done at once."""
    context = copy_context()
    try:
        return pool.submit(context.run, _alone, work, part).result
    except RuntimeError:  # Python is about to end, or there can be no more threads
        found = copy_context().run(_alone, work, part)
        return lambda: found


def pieces(length: int, least: int) -> list[slice]:
    """A length in equal parts, one for each thread of `numpy_computing`; in fewer, if they were below a least one."""
    _, threads = _pool.get() or (None, 1)
    count = max(1, min(threads, length // least))
    return [slice(length * i // count, length * (i + 1) // count) for i in range(count)]


def _alone(work: Callable[[Part], Found], part: Part) -> Found:
    """Do something without the other threads, which might come to wait for each other."""
    _pool.set(None)
    return work(part)


@cache
def _own_threads() -> int:
    """Number of threads that NumPy's products take by themselves; of the processors, where that is not known."""
    return min((library.num_threads for library in _libraries()), default=os.cpu_count() or 1)


@cache
def _libraries() -> list[LibController]:
    """Libraries that compute NumPy's products with several threads, which take a while to find."""
    import numpy  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers  # type: ignore[no-any-return]
