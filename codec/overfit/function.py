"""Overfitted functions while they are fitted: grids and weights as tensors, many functions at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from codec.entropy.coder import LIMIT
from codec.overfit.spec import Spec
from codec.overfit.valid_region import ValidRegion

Weights = dict[str, Tensor]


@dataclass
class Function:
    """Functions of one shape, as many as the batch axis is long.

    Attributes:
        weights: by name, (batch, ...) as `Spec.weight_shapes`.
        grids: by level, finest first, (batch, features, height, width), in units of the quantisation step.
        region: valid region of each of them; all of the shape by default. Grids are 0 elsewhere.
    """

    spec: Spec
    weights: Weights
    grids: list[Tensor]
    region: ValidRegion | None = None

    @property
    def positions(self) -> int | Tensor:
        """Number of sample positions of each, (batch,) if there is a valid region."""
        return self.spec.height * self.spec.width if self.region is None else self.region.positions

    def select(self, indices: Tensor) -> Function:
        """The functions at these places of the batch."""
        weights = {name: w[indices] for name, w in self.weights.items()}
        region = self.region and self.region.select(indices)
        return Function(self.spec, weights, [g[indices] for g in self.grids], region)

    def alone(self, index: int) -> Function:
        """One of them, in its own shape."""
        one = self.select(torch.tensor([index], device=self.grids[0].device))
        if one.region is None:
            return one
        height, width = one.region.sizes[0].tolist()
        spec = replace(self.spec, height=height, width=width)
        return Function(spec, one.weights, [g[:, :, :h, :w] for g, (h, w) in zip(one.grids, spec.sizes, strict=True)])

    def detached(self) -> Function:
        """The same without gradients."""
        weights = {name: w.detach() for name, w in self.weights.items()}
        return replace(self, weights=weights, grids=[g.detach() for g in self.grids])

    def rounded(self) -> Function:
        """The same with integers in the grids, such as can be coded."""
        return replace(self, grids=[g.round().clamp_(-LIMIT, LIMIT) for g in self.cut(self.grids)])

    def where(self, condition: Tensor, other: Function) -> Function:
        """These functions where the condition (batch,) holds, those of the other elsewhere."""
        weights = {name: choose(condition, w, other.weights[name]) for name, w in self.weights.items()}
        grids = [choose(condition, g, h) for g, h in zip(self.grids, other.grids, strict=True)]
        return replace(self, weights=weights, grids=grids)

    def within(self, region: ValidRegion | None) -> Function:
        """The same with this valid region."""
        function = replace(self, region=region)
        return replace(function, grids=function.cut(self.grids))

    def cut(self, grids: list[Tensor]) -> list[Tensor]:
        """Grids of its shape, with 0 outside of the valid region."""
        return grids if self.region is None else [g * m for g, m in zip(grids, self.region.inside, strict=True)]


def joined(functions: list[Function]) -> Function:
    """One batch of the functions of several, all of one shape."""
    weights = {name: torch.cat([f.weights[name] for f in functions]) for name in functions[0].weights}
    grids = [torch.cat(levels) for levels in zip(*(f.grids for f in functions), strict=True)]
    regions = [f.region for f in functions if f.region is not None]
    region = replace(regions[0], sizes=torch.cat([e.sizes for e in regions])) if regions else None
    return Function(functions[0].spec, weights, grids, region)


def choose(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(condition.view(-1, *[1] * (yes.dim() - 1)), yes, no)
