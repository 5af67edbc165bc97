"""Where the float part runs, and leaving torch as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from torch import nn


def resolve(name: str) -> torch.device:
    """The device of this name; "auto" is the first GPU, or else the CPU.

    Raises:
        ValueError: there is no such kind of device.
        RuntimeError: there is, but not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'device must be "auto", "cpu", "cuda", "cuda:1" or "mps", not {name!r}') from error
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # AssertionError: torch was built without CUDA
        raise RuntimeError(f'device {name!r} is not available on this machine: use "auto" or "cpu"') from error
    return device


Network = TypeVar("Network", bound=nn.Module)


def to_device(network: Network, device: torch.device) -> Network:
    """A convolutional network on a device, its weights in the order that is fastest on CPUs."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def reduced_precision(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where the device does that faster than float32: for what no file depends on, such as fits."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or _cpu_has_bfloat16())


@cache
def _cpu_has_bfloat16() -> bool:
    """Others emulate it, which is slower than float32."""
    known = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions of torch
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


@contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Compute in float32 with gradients allowed, whatever the caller's defaults are; they are not changed for good."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(dtype)
