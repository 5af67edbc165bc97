"""SOAP (Vyas et al., 2024): Adam in the eigenbases of Shampoo's preconditioner, for small matrices.

The layers of a function are so small that this costs next to nothing, and they are fitted in fewer iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BETA = 0.95  # of the means of gradients and of what they are divided by
DAMPING = 0.08  # of steps where there is little but noise, relative to the gradients' root mean square
EPSILON = 1e-8
EVERY = 10  # steps, after which the bases should be turned


class Soap(torch.optim.Optimizer):
    """For tensors whose first axis is a batch, the second one the rows of a matrix, and all others its columns.

    After the first step its state stays in the same tensors, so that steps can be captured as a graph.

    Args:
        lr: a number, or a tensor that holds one.
        damping: as `DAMPING`.
    """

    def __init__(self, tensors: Iterable[Tensor], lr: float | Tensor = 3e-3, damping: float = DAMPING) -> None:
        super().__init__(tensors, {"lr": lr, "damping": damping})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change all tensors that have gradients."""
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    change = _change(self.state[tensor], tensor.grad.flatten(2), group["damping"])
                    tensor.sub_(change.mul_(group["lr"]).view_as(tensor))

    @torch.no_grad()
    def turn(self) -> None:
        """Let the bases follow what they diagonalise: by an iteration of the power method, as they hardly change."""
        for state in self.state.values():
            left, right = state["bases"]
            mean = left @ state["mean"] @ right.mT
            for covariance, basis in zip(state["covariances"], (left, right), strict=True):
                basis.copy_(torch.linalg.qr(covariance @ basis).Q)
            state["mean"].copy_(left.mT @ mean @ right)


def _change(state: dict[str, Any], gradient: Tensor, damping: float) -> Tensor:
    """Adam's change for gradients (batch, rows, columns), made in bases of its own."""
    products = gradient @ gradient.mT, gradient.mT @ gradient
    if not state:
        state |= {"mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
        state |= {"covariances": [torch.zeros_like(c) for c in products], "weight": gradient.new_zeros(())}
        # In double: where units are dead, eigenvalues differ by more than single precision's routines bear.
        state |= {"bases": [torch.linalg.eigh(c.double()).eigenvectors.to(c.dtype) for c in products]}
    for covariance, now in zip(state["covariances"], products, strict=True):
        covariance.lerp_(now, 1 - BETA)
    left, right = state["bases"]
    turned = left.mT @ gradient @ right
    mean, square = state["mean"].lerp_(turned, 1 - BETA), state["square"].lerp_(turned.square(), 1 - BETA)
    weight = state["weight"].mul_(BETA).add_(1 - BETA)  # of all gradients in the means, which begin at zero
    scale = (square / weight).sqrt_()
    least = damping * (square.mean((1, 2), keepdim=True) / weight).sqrt_() + EPSILON
    change: Tensor = left @ ((mean / weight) / (scale + least)) @ right.mT
    return change
