"""Muon beside Adam, and the schedule of their learning rates."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codec.device import reduced_precision

WIDE = 64  # rows and columns from which on a kernel is left to Muon
MOMENTUM = 0.95
SPEED = 5.0  # learning rate of gains, scales and the like, relative to that of other parameters
RMS = 0.2  # of a step's elements, relative to the learning rate: about that of Adam's
NEWTON_SCHULZ, ITERATIONS = (3.4445, -4.775, 2.0315), 5  # of x -> a x + b x^3 + c x^5, which takes 0.01..1 near to 1


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


class Muon(torch.optim.Optimizer):
    """Steps along Nesterov's momentum, whose singular values are made about 1 before.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, with the length of Adam's steps: Liu
    et al., "Muon is scalable for LLM training", 2025. That of torch computes in bfloat16 everywhere, which takes
    processors without it ten times as long as all the rest of an iteration.

    Args:
        matrices: with two axes each.
    """

    def __init__(self, matrices: Iterable[Tensor]) -> None:
        super().__init__(matrices, {"lr": 0.0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                momentum = state["momentum"].lerp_(matrix.grad, 1 - MOMENTUM)
                direction = orthogonalised(matrix.grad.lerp(momentum, MOMENTUM))
                matrix.sub_(direction, alpha=group["lr"] * RMS * max(matrix.shape) ** 0.5)


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix (rows, columns) with the same singular vectors, and singular values of 0.7 to 1.2."""
    tall = len(matrix) > matrix.shape[1]
    x: Tensor = (matrix.T if tall else matrix) / matrix.norm().clamp_min(1e-7)
    a, b, c = NEWTON_SCHULZ
    with reduced_precision(matrix.device):
        for _ in range(ITERATIONS):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix)


class MuonAndAdam:
    """Muon for some kernels, each as a matrix that shares its memory, and Adam for the rest.

    Args:
        kernels: (outputs, inputs, ...) each, contiguous, and where they stay: a model is moved to its device before.
        parameters: all of them; kernels among them are left to Muon.
        fast: some of the parameters that are to learn `speed` times as fast.
    """

    def __init__(
        self, kernels: Iterable[nn.Parameter], parameters: Iterable[nn.Parameter],
        fast: Iterable[nn.Parameter] = (), speed: float = SPEED,
    ) -> None:  # fmt: skip
        self.matrices = {p: _as_matrix(p) for p in kernels}
        fast = list(fast)
        own = {id(p) for p in (*self.matrices, *fast)}
        groups = [{"params": [p for p in parameters if id(p) not in own], "times": 1.0}]
        if fast:
            groups.append({"params": fast, "times": speed})
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)]
        if self.matrices:
            muon = Muon(self.matrices.values())
            muon.param_groups[0]["times"] = 1.0
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


def wide(model: nn.Module, but: Collection[nn.Parameter] = ()) -> list[nn.Parameter]:
    """Kernels of a model that Muon is for.

    Args:
        but: parameters of such a shape that are none.
    """
    others = {id(p) for p in but}
    return [p for p in model.parameters() if p.dim() in (2, 4) and min(p.shape[:2]) >= WIDE and id(p) not in others]


def _as_matrix(kernel: nn.Parameter) -> Tensor:
    """(outputs, inputs * ...), in the kernel's own memory."""
    try:
        return kernel.detach().view(len(kernel), -1).requires_grad_()
    except RuntimeError as error:
        raise ValueError("Muon needs contiguous kernels: of others, a copy would be trained") from error
