"""A device that is none: it computes on the CPU, but refuses, as GPUs do, to mix its tensors with those of the CPU.

Run as a program, it codes pictures there: what does not run on a GPU, as a tensor was made or left elsewhere, fails.
"""

# mypy: ignore-errors
# What torch has for making devices has no types.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

import codec
from codec.autoencoders.networks.transform_config import Config
from codec.overfit import quantise
from codec.overfit.soap import EVERY
from codec.profiles.coolchic import encoder as coolchic
from codec.training.data import Photos
from codec.training.loop import Budget, Loop
from codec.training.optimizers import Schedule
from codec.training.transform import Settings, TransformTask

NAME = "fake"
CASES: list[dict[str, Any]] = [
    {"profile": "clric", "effort": 2, "target_bpp": 1.5},
    {"profile": "coolchic", "effort": 1},
    {"profile": "msp", "effort": 1},
    {"profile": "msp", "effort": 1, "resilience": 1},
    {"profile": "msp", "model": "tiny", "effort": 4, "target_bpp": 0.45},
    {"profile": "vq", "model": "tinyvq", "effort": 1, "resilience": 1},
    {"profile": "vq", "model": "tinyvq", "effort": 4, "target_bpp": 2.0},
]
# GPUs, too, take tensors of the CPU here.
MIXING = ("aten.index.", "aten.index_put", "aten._to_copy", "aten.copy_")


class Fake(torch.Tensor):
    """A tensor on the device, with the one on the CPU that it stands for."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Fake:
        like = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made: Fake = torch.Tensor._make_wrapper_subclass(cls, held.shape, device=torch.device(NAME, 0), **like)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(op, *args, **(kwargs or {}))

    def tolist(self) -> Any:
        return self.held.tolist()

    def new_tensor(self, data: Any, **options: Any) -> torch.Tensor:
        return self.held.new_tensor(data, **options).to(NAME)


def compute(op: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation on the CPU, for tensors of which none but single numbers are on the CPU."""
    name, known = str(op), dict[int, Fake]()
    if name.startswith("aten._copy_from"):
        source, target = (x.held if isinstance(x, Fake) else x for x in args[:2])
        target.copy_(source)
        return args[1]

    def held(x: Any) -> Any:
        if isinstance(x, Fake):
            known[id(x.held)] = x
            return x.held
        if isinstance(x, torch.Tensor) and x.dim() and not name.startswith(MIXING):
            raise RuntimeError(f"{name} mixes devices: a tensor of shape {tuple(x.shape)} is on {x.device}")
        return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x

    found = op(*tree_map(held, args), **tree_map(held, kwargs))
    if name.startswith("aten._to_copy") and kwargs.get("device", torch.device(NAME)).type != NAME:
        return found

    def there(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return known[id(x)] if id(x) in known else Fake(x)

    return tree_map(there, found)


class Generator(torch.Generator):
    """One for the device."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls)

    @property
    def device(self) -> Any:
        return torch.device(NAME, 0)


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def device_count(self) -> int:
        return 1

    def is_available(self) -> bool:
        return True


def register() -> None:
    """Make torch know the device, for good."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(compute, "PrivateUse1")
    globals()["_library"] = library  # what it registers goes with it


@contextmanager
def patched() -> Iterator[None]:
    """Replace what makes tensors without asking the device, and generators, of which it has none."""
    tensor, as_tensor = torch.tensor, torch.as_tensor

    def made(data: Any, *args: Any, device: Any = None, **options: Any) -> torch.Tensor:
        return tensor(data, *args, **options).to(device or "cpu")

    def taken(data: Any, *args: Any, device: Any = None, **options: Any) -> torch.Tensor:
        found = as_tensor(data, *args, **options)
        return found if device is None else found.to(device)

    with (
        patch.object(torch, "tensor", made), patch.object(torch, "as_tensor", taken),
        patch.object(torch, "Generator", Generator),
    ):  # fmt: skip
        yield


def train(crop: np.ndarray) -> None:
    """Train a tiny transform on the device."""
    network = Config(latent=8, fine=64, coarse=64, encoder=(1, 1), decoder=(1, 1), expansion=1, knots=3)
    task = TransformTask(Settings(network, 64, 2), Photos(crop.ravel(), (crop.shape[:2],)))
    with patched(), TemporaryDirectory() as folder:
        loop = Loop(task, Path(folder), Schedule(1e-3, 2), f"{NAME}:0")
        loop.run(Budget(iterations=2))
        assert isinstance(loop.average["prior.mean"], Fake)
    print("trained", loop.progress.iteration)


def main() -> None:
    """Code pictures of two sizes on the device, and compare what they decode to there and on the CPU; train there."""
    register()
    torch.set_num_threads(1)
    # Operations take long here: no more iterations than use all of them, and few steps of weights to choose from.
    coolchic.ITERATIONS[1], quantise.FINEST = (EVERY + 2, 2), 2
    with Image.open(Path(__file__).parents[1] / "samples" / "coffee.png") as photo:
        picture = np.asarray(photo.convert("RGB"))
    crop = picture[100:132, 200:248]
    for case in CASES:
        with patched():
            files = codec.encode_batch([crop, crop[:24, :40]], device=f"{NAME}:0", **case)
            files += [file[:-1] for file in files if case["profile"] == "vq"]  # of which parts are filled in
            there = [codec.decode(file, device=f"{NAME}:0") for file in files]
        here = [codec.decode(file, device="cpu") for file in files]
        worst = max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(there, here, strict=True))
        print(case, [len(file) for file in files], worst)
        assert worst <= 1
    train(np.ascontiguousarray(picture[100:200, 200:300]))


if __name__ == "__main__":
    main()
