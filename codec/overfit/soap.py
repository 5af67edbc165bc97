"""SOAP (Vyas et al., 2024): Adam in the eigenbases of Shampoo's preconditioner, for small matrices.

The layers of a function are so small that this costs next to nothing, and they are fitted in fewer iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BETAS = 0.95, 0.95  # of the means of gradients and of what they are divided by
DAMPING = 0.08  # of steps where there is little but noise, relative to the gradients' root mean square
EPSILON = 1e-8
EVERY = 10  # steps, after which the bases follow


class Soap(torch.optim.Optimizer):
    """For tensors whose first axis is a batch, the second one the rows of a matrix, and all others its columns."""

    def __init__(self, tensors: Iterable[Tensor], lr: float = 3e-3) -> None:
        super().__init__(tensors, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change all tensors that have gradients."""
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    change = _change(self.state[tensor], tensor.grad.flatten(2))
                    tensor.add_(change.view_as(tensor), alpha=-group["lr"])


def _change(state: dict[str, Any], gradient: Tensor) -> Tensor:
    """Adam's change for gradients (batch, rows, columns), made in bases of its own."""
    if not state:
        rows, columns = gradient @ gradient.mT, gradient.mT @ gradient
        state |= {"step": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
        state |= {"covariances": [c * (1 - BETAS[1]) for c in (rows, columns)]}
        state |= {"bases": [torch.linalg.eigh(c).eigenvectors for c in (rows, columns)]}
    state["step"] += 1
    for covariance, now in zip(state["covariances"], (gradient @ gradient.mT, gradient.mT @ gradient), strict=True):
        covariance.lerp_(now, 1 - BETAS[1])
    left, right = state["bases"]
    if state["step"] % EVERY == 0:
        mean = left @ state["mean"] @ right.mT
        bases = zip(state["covariances"], state["bases"], strict=True)
        left, right = state["bases"] = [torch.linalg.qr(covariance @ basis).Q for covariance, basis in bases]
        state["mean"] = left.mT @ mean @ right
    turned = left.mT @ gradient @ right
    mean, square = state["mean"].lerp_(turned, 1 - BETAS[0]), state["square"].lerp_(turned.square(), 1 - BETAS[1])
    unbiased, scale = (m / (1 - beta ** state["step"]) for m, beta in zip((mean, square), BETAS, strict=True))
    damping = DAMPING * scale.mean((1, 2), keepdim=True).sqrt() + EPSILON
    change: Tensor = left @ (unbiased / (scale.sqrt() + damping)) @ right.mT
    return change
