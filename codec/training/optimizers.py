"""Muon beside Adam, and the schedule of their learning rates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """Learning rate by iteration: it rises, stays, and falls to zero whenever that is asked for.

    Attributes:
        rate: where it stays.
        warm_up: iterations in which it rises to that.
        decay: first and last iteration of its fall to zero, or None as long as the training's end is open.
    """

    rate: float
    warm_up: int
    decay: tuple[int, int] | None = None

    def __call__(self, iteration: int) -> float:
        rate = self.rate * min(1.0, (iteration + 1) / self.warm_up)
        if self.decay is not None:
            start, end = self.decay
            rate *= min(1.0, max(0.0, (end - iteration) / (end - start)))
        return rate


class MuonAndAdam:
    """Muon for some kernels, each as a matrix that shares its memory, and Adam for the rest.

    Args:
        kernels: (outputs, inputs, ...) each, contiguous, and where they stay: a model is moved to its device before.
        parameters: all of them; kernels among them are left to Muon.
        times: Muon's learning rate, in Adam's.
        fast: some of the parameters that are to learn `speed` times as fast.
    """

    def __init__(
        self, kernels: Iterable[nn.Parameter], parameters: Iterable[nn.Parameter], times: float = 1.0,
        fast: Iterable[nn.Parameter] = (), speed: float = 1.0,
    ) -> None:  # fmt: skip
        self.matrices = {p: _as_matrix(p) for p in kernels}
        fast = list(fast)
        own = {id(p) for p in (*self.matrices, *fast)}
        groups = [{"params": [p for p in parameters if id(p) not in own], "times": 1.0}]
        if fast:
            groups.append({"params": fast, "times": speed})
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)]
        if self.matrices:
            if not hasattr(torch.optim, "Muon"):
                raise ImportError(
                    f"this training needs torch 2.9 or newer, not {torch.__version__}: pip install"
                    " 'pillow-clric[training]'"
                )
            muon = torch.optim.Muon(self.matrices.values(), weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
            muon.param_groups[0]["times"] = times
            self.optimizers.append(muon)

    def step(self, learning_rate: float) -> None:
        """Change the parameters by their gradients."""
        for kernel, matrix in self.matrices.items():
            if kernel.data_ptr() != matrix.data_ptr():
                raise RuntimeError("a kernel is no more where it was when its optimizer was made: make that afterwards")
            assert kernel.grad is not None
            matrix.grad = kernel.grad.flatten(1)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["times"]
            optimizer.step()

    def state(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def _as_matrix(kernel: nn.Parameter) -> Tensor:
    """(outputs, inputs * ...), in the kernel's own memory."""
    try:
        return kernel.detach().view(len(kernel), -1).requires_grad_()
    except RuntimeError as error:
        raise ValueError("Muon needs contiguous kernels: of others, a copy would be trained") from error
