"""What the trainings that are scripts of their own have in common: iterations that are resumed from checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

SAVED = 120  # seconds from one checkpoint to the next


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
