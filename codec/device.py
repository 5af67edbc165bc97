"""Devices on which the float part runs, and contexts that leave torch as it was found."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from codec import runtime

WARM_UP = 3  # times that something is done before it is captured as a graph
GRAPHED = 100  # times, from which on that pays
# Where torch has no type for it: on CPUs, POSIX and Windows, on MPS, and what CUDA says outside of torch's allocator
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def pixels_at_once(device: torch.device, footprint: int) -> int:
    """Pixels of pictures to fit together, if each takes so many bytes of memory.

    More at once is faster on GPUs, and on CPUs as long as pictures are tiny.
    """
    if device.type == "cuda":
        return int(0.8 * torch.cuda.mem_get_info(device)[0] / footprint)
    return 2**18 if device.type == "cpu" else 2**22


def is_out_of_memory(error: Exception) -> bool:
    """Whether there was not enough memory, on whatever device; what was taken is given back then."""
    typed = isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
    if not typed and not any(text in str(error) for text in _NO_MEMORY):
        return False
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


Network = TypeVar("Network", bound=nn.Module)


def of_package(make: Callable[[], Network], file: Path) -> Network:
    """A network with weights that come with the package, in float32 on the CPU; it is not trained.

    Whatever the caller's default device is, and without a draw from the caller's random numbers.
    """
    with torch.device("meta"):
        network = make()
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()}, assign=True)
    return network.requires_grad_(False)


def to_device(network: Network, device: torch.device) -> Network:
    """A convolutional network on a device, its weights in the order that is fastest on CPUs."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def reduced_precision(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where the device does that faster than float32: for what no file depends on, such as fits."""
    quick = device.type == "cuda" or (device.type == "cpu" and _cpu_has_bfloat16())
    return torch.autocast(device.type, torch.bfloat16, enabled=quick)


@cache
def _cpu_has_bfloat16() -> bool:
    """Others emulate it, which is slower than float32."""
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions of torch
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


@contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Compute in float32 with gradients allowed, whatever the caller's defaults are; they are not changed for good.

    A forked process computes with one thread: the others are gone, and torch would wait for them for ever.
    """
    threads = torch.get_num_threads()
    if runtime.forked:
        torch.set_num_threads(1)
    try:
        with (
            _float32, torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False)
        ):  # fmt: skip
            yield
    finally:
        if runtime.forked:
            torch.set_num_threads(threads)


class Repeated:
    """Does the same over and over; on CUDA as one graph of kernels, which take longer to be started than to run.

    All that is not the same each time must be in tensors that stay where they are, and nothing may wait for the GPU.

    Args:
        times: how often; a few times are not worth a graph.
    """

    def __init__(self, action: Callable[[], None], device: torch.device, times: int) -> None:
        self._action, self._device = action, device
        self._graphed = device.type == "cuda" and times >= GRAPHED
        self._stream = torch.cuda.Stream(device) if self._graphed else None
        self.changed()

    def changed(self) -> None:
        """Say that tensors are no more where they were."""
        self._done, self._quick = 0, self._action

    def __call__(self) -> None:
        if self._graphed and self._done == WARM_UP:
            self._quick = self._captured()
        self._done += 1
        if self._graphed and self._done <= WARM_UP:
            self._aside()
        else:
            self._quick()

    def _aside(self) -> None:
        """Do it in another stream, as torch asks for before a graph is captured: what is made once is made then."""
        assert self._stream is not None
        ours = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(ours)
        with torch.cuda.stream(self._stream):
            self._action()
        ours.wait_stream(self._stream)

    def _captured(self) -> Callable[[], None]:
        """The action as one graph, or as it is where it cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        # Whatever other threads do meanwhile
        alone = torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local")
        try:
            with torch.cuda.device(self._device), alone:
                self._action()
        except RuntimeError as error:
            warnings.warn(
                f"this fit is slower than it could be, as its graph could not be captured: {error}", stacklevel=2
            )
            return self._action
        return graph.replay


class _Float32:
    """Makes float32 the default dtype. All threads share that: the first that comes sets it, the last sets it back."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                torch.set_default_dtype(self._before)


_float32 = _Float32()


def _note_fork() -> None:
    global _float32
    _float32 = _Float32()


runtime.after_fork(_note_fork)
