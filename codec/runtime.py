"""Names of devices, and threads, as far as they can be told without torch."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from threadpoolctl import ThreadpoolController

# What torch needs to find a GPU on a system: libraries of drivers, and devices. On others it is asked.
_LIBRARIES = {"linux": ["libcuda.so.1"], "darwin": [], "win32": ["nvcuda.dll", "amdhip64_6.dll", "amdhip64_7.dll"]}
_DEVICES = ("/dev/kfd", "/dev/dxg")

forked = False  # whether this process is a copy of another one


def _note_fork() -> None:
    global forked
    forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


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


@contextmanager
def numpy_computing() -> Iterator[None]:
    """Let NumPy's products take as many threads as torch does, and one in a process that is a copy, as of `computing`.

    There are as many such processes as processors: a loader's of data, for instance.
    """
    if not forked and "torch" not in sys.modules:
        yield
        return
    with _thread_pools().limit(limits=1 if forked else sys.modules["torch"].get_num_threads(), user_api="blas"):
        yield


@cache
def _thread_pools() -> ThreadpoolController:
    """Libraries that compute with several threads, which take a while to find."""
    import numpy  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
