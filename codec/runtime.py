"""Names of devices, and threads, as far as they can be told without torch."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

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


class cached_property(Generic[Found]):  # noqa: N801 (as that of functools)
    """A property that is computed on first use and kept in the object; all threads get the first result.

    It takes no lock, as that of functools does before Python 3.12: a forked process would wait for it for ever.
    """

    def __init__(self, compute: Callable[[Any], Found]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[Found]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Found: ...

    def __get__(self, instance: object | None, owner: type) -> cached_property[Found] | Found:
        if instance is None:
            return self
        found = self._compute(instance)
        return instance.__dict__.setdefault(self._name, found)  # type: ignore[no-any-return]


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
    count = 1 if forked else _thread_count()
    executor = None if count == 1 else _executor()
    if executor is None:
        with _products.limited(1), _held(None):
            yield
        return
    with _products.limited(count), executor(count) as pool, _held((pool, count)):
        yield


@contextmanager
def _held(pool: tuple[ThreadPoolExecutor, int] | None) -> Iterator[None]:
    token = _pool.set(pool)
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
        begun = [_begun(held[0], _Once(work, part)) for part in parts]
        return [result() for result in begun]


def _executor() -> type[ThreadPoolExecutor] | None:
    """Class of pools of threads; None when Python is about to end, and lets nobody begin any."""
    try:
        from concurrent.futures import ThreadPoolExecutor
    except RuntimeError:
        return None
    return ThreadPoolExecutor


class _Once(Generic[Part, Found]):
    """Work on a part, which is done once, whoever asks for it: it may be in place."""

    def __init__(self, work: Callable[[Part], Found], part: Part) -> None:
        self._lock, self._work, self._part, self._found = Lock(), work, part, list[Found]()

    def __call__(self) -> Found:
        """The result. It is computed without other threads, which might come to wait for each other."""
        with self._lock:
            if not self._found:
                _pool.set(None)
                self._found.append(self._work(self._part))
            return self._found[0]


def _begun(pool: ThreadPoolExecutor, work: _Once[Any, Found]) -> Callable[[], Found]:
    """Function that gives the result of work, which a pool begins; where it takes no more, the function does it."""
    try:
        return pool.submit(copy_context().run, work).result
    except RuntimeError:  # Python is about to end, or there can be no more threads: then the pool may do it yet
        return partial(copy_context().run, work)


def pieces(length: int, least: int) -> list[slice]:
    """A length in equal parts, one for each thread of `numpy_computing`; in fewer, if they were below a least one."""
    _, threads = _pool.get() or (None, 1)
    count = max(1, min(threads, length // least))
    return [slice(length * i // count, length * (i + 1) // count) for i in range(count)]


def _thread_count() -> int:
    """As many threads as torch takes, or as NumPy would where nobody has imported that, or is just importing it."""
    count: Callable[[], int] = getattr(sys.modules.get("torch"), "get_num_threads", _own_threads)
    return count()


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
