"""A first guess of the grids: a small convolutional network from samples to all resolutions.

It only saves the fit iterations: no reader needs it, and a file does not depend on it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (12, 24, 32, 32, 32, 32, 32)


class Analysis(nn.Module):
    """Samples (batch, channels, height, width) to one grid a resolution, (batch, 1, height / 2**i, width / 2**i).

    The grids come in units of each grid's quantisation step, which depends on lambda by way of `log_gains`.
    """

    def __init__(self, channels: int, functions: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.entry = nn.ModuleList()
        self.refine = nn.ModuleList()
        self.heads = nn.ModuleList()
        before = channels
        for level, width in enumerate(widths):
            self.entry.append(nn.Conv2d(before, width, 3, stride=2 if level else 1))
            self.refine.append(nn.Conv2d(width, width, 3))
            self.heads.append(nn.Conv2d(width, 1, 1))
            before = width
        self.log_gains = nn.Parameter(torch.ones(functions, len(widths)))

    def forward(self, samples: Tensor) -> list[Tensor]:
        """Grids by level, finest first, before their gains."""
        grids = []
        x = samples
        for entry, refine, head in zip(self.entry, self.refine, self.heads, strict=True):
            x = F.gelu(entry(_extend(x)))
            x = x + F.gelu(refine(_extend(x)))
            grids.append(head(x))
        return grids

    def scale(self, grids: list[Tensor], functions: Tensor) -> list[Tensor]:
        """Grids in units of the quantisation step of the function that each is for; functions (batch,)."""
        gains = self.log_gains[functions].exp()
        return [grid * gains[:, level].view(-1, 1, 1, 1) for level, grid in enumerate(grids)]


def _extend(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="replicate")
