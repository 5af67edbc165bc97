"""What trainings have in common: Muon beside Adam, and iterations that are resumed from checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

SAVED = 120  # seconds from one checkpoint to the next


class MuonAndAdam:
    """Muon for some kernels of convolutions, each as a matrix that shares its memory, and Adam for the rest.

    Args:
        times: Muon's learning rate, in Adam's.
    """

    def __init__(self, kernels: Iterable[nn.Parameter], parameters: Iterable[nn.Parameter], times: float) -> None:
        self.matrices = {p: p.detach().flatten(1).requires_grad_() for p in kernels}
        rest = [p for p in parameters if p not in self.matrices]
        muon = torch.optim.Muon(self.matrices.values(), weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        self.optimizers = {muon: times, torch.optim.Adam(rest, betas=(0.9, 0.99), fused=True): 1.0}

    def step(self, learning_rate: float) -> None:
        """Change the parameters by their gradients."""
        for kernels, matrix in self.matrices.items():
            assert kernels.grad is not None
            matrix.grad = kernels.grad.flatten(1)
        for optimizer, times in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = learning_rate * times
            optimizer.step()

    def state(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


class Trainer(Protocol):
    """What is trained: `done` counts its iterations, its state is what a checkpoint holds."""

    done: int
    device: torch.device

    def state(self) -> dict[str, Any]: ...

    def load(self, state: dict[str, Any]) -> None: ...


def resume(trainer: Trainer, checkpoint: Path) -> None:
    """Load the checkpoint if there is one, and seed torch by how much is done."""
    if checkpoint.exists():
        trainer.load(torch.load(checkpoint, weights_only=True, map_location=trainer.device))
    torch.manual_seed(trainer.done)


def iterations(trainer: Trainer, checkpoint: Path, end: float, length: int) -> Iterator[float]:
    """Part of the training that is done, 0 to 1, before each iteration; writes the checkpoint now and then and at last.

    Args:
        end: when to stop, by `time.monotonic()`.
        length: iterations of the whole training.
    """
    saved = time.monotonic()
    while time.monotonic() < end and trainer.done < length:
        yield trainer.done / length
        if time.monotonic() - saved > SAVED:
            torch.save(trainer.state(), checkpoint)
            saved = time.monotonic()
    torch.save(trainer.state(), checkpoint)
