"""From grids to samples: learned upsampling, then a small convolutional network at full resolution.

Upsampling follows Cool-Chic's symmetric separable filters of 8 taps; the synthesis is a hidden 1x1 layer, a linear
1x1 layer and residual 3x3 layers. Full resolution is visited in blocks of rows: temporaries stay in the processor's
cache, and memory is bounded for any size of picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.blocks import positions_a_block, slices
from codec.overfit.arm import where_positive
from codec.overfit.spec import Spec
from codec.overfit.valid_region import ValidRegion

TILE, DRAWS = 16, 4  # side of the tiles of `tile_gradients`, and how often signs are drawn for each
REACH = 2  # samples on either side that upsampling reads


class _Upsample(torch.autograd.Function):
    """Double one dimension of (batch, channels, height, width), which comes with `REACH` samples on either side.

    The filter's taps e (batch, 4) make the sample a quarter to the left of x[i]; mirrored, that to the right.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(x, taps)
        ctx.dim = dim
        shape = list(x.shape)
        shape[dim] -= 2 * REACH
        out = x.new_empty(*shape[: dim + 1], 2, *shape[dim + 1 :])
        for phase, window in enumerate(_phases(x, dim)):
            part = window[0] * taps[:, 0].view(-1, 1, 1, 1)
            for k in range(1, 4):
                part.addcmul_(window[k], taps[:, k].view(-1, 1, 1, 1))
            out.select(dim + 1, phase).copy_(part)
        return out.flatten(dim, dim + 1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        x, taps = ctx.saved_tensors
        dim = ctx.dim
        of_x, of_taps = torch.zeros_like(x), torch.zeros_like(taps)
        split = upstream.unflatten(dim, (-1, 2))
        for phase, (window, target) in enumerate(zip(_phases(x, dim), _phases(of_x, dim), strict=True)):
            part = split.select(dim + 1, phase).contiguous()
            for k in range(4):
                target[k].addcmul_(part, taps[:, k].view(-1, 1, 1, 1))
                of_taps[:, k] += (window[k] * part).sum((1, 2, 3))
        return of_x, of_taps, None


def _phases(x: Tensor, dim: int) -> tuple[list[Tensor], list[Tensor]]:
    """The windows of x that taps 0..3 multiply, for the left and for the right sample."""
    length = x.shape[dim] - 2 * REACH
    windows = [x.narrow(dim, i, length) for i in range(2 * REACH + 1)]
    return windows[:4], windows[:0:-1]


def _double(x: Tensor, taps: Tensor) -> Tensor:
    """Upsample both dimensions; x has `REACH` samples on every side."""
    for dim in (2, 3):
        x = _Upsample.apply(x, taps, dim)  # type: ignore[no-untyped-call]
    return x


class _Rows:
    """Some rows of the output: which parts of the inputs they need, and how they are made of them.

    The inputs are the finest grids and, if there are coarser ones, their joint features at 1/2, extended by `REACH`,
    with the taps that double them; then the synthesis' weights.
    """

    def __init__(self, top: int, bottom: int, spec: Spec) -> None:
        self.top, self.bottom, self.spec = top, bottom, spec
        self.low, self.high = max(0, top - spec.residuals), min(spec.height, bottom + spec.residuals)

    def inputs(
        self, grids: list[Tensor], weights: dict[str, Tensor], region: ValidRegion | None = None
    ) -> list[Tensor]:
        """Inputs that these rows depend on, made of grids and weights; if there is a region, rows are all of them."""
        inputs = [grids[0][:, :, self.low : self.high]]
        if len(grids) > 1:
            taps, top, bottom = weights["upsampling.taps"], self.low // 2 - REACH, (self.high + 1) // 2 + REACH
            inputs += [_coarse(grids, taps, 1, top, bottom, region), taps[:, 0]]
        return inputs + [weights[name] for name in self.spec.weight_shapes if name.startswith("synthesis.")]

    def cut(self, inputs: list[Tensor]) -> list[Tensor]:
        """Views of the inputs of all rows that these depend on."""
        parts = [inputs[0][:, :, self.low : self.high], *inputs[1:]]
        if len(self.spec.features) > 1:
            parts[1] = inputs[1][:, :, self.low // 2 : (self.high + 1) // 2 + 2 * REACH]
        return parts

    def synthesise(self, parts: list[Tensor]) -> Tensor:
        """(batch, outputs, bottom - top, width) from what `inputs` or `cut` gave."""
        features, weights = self.features(parts)
        return _network(features, weights, self.spec.linear)

    def features(self, parts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Inputs of the network, extended by a sample for each residual layer, and its weights."""
        features, *rest = parts
        if len(self.spec.features) > 1:
            coarse, taps, *rest = rest
            skip, height, width = self.low % 2, *features.shape[2:]
            features = torch.cat([features, _double(coarse, taps)[:, :, skip : skip + height, :width]], 1)
        r = self.spec.residuals
        above, below = r - (self.top - self.low), r - (self.high - self.bottom)
        return F.pad(features, (r, r, above, below), mode="replicate") if r else features, rest


def _network(features: Tensor, weights: list[Tensor], linear: bool) -> Tensor:
    """The synthesis on features that are extended by one sample for each residual layer."""
    residuals = weights[4 + linear :]
    batch, _, height, width = features.shape
    x: Tensor = _Pointwise.apply(features.flatten(2), *weights[:4])  # type: ignore[no-untyped-call]
    if linear:
        x = x.baddbmm(weights[4], features.flatten(2))
    x = x.view(1, -1, height, width)
    for kernel, bias in zip(residuals[::2], residuals[1::2], strict=True):
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.conv2d(x, kernel.flatten(0, 1), bias.flatten(), groups=batch).add_(x[:, :, 1:-1, 1:-1])
    return x.view(batch, -1, *x.shape[2:])


class _Pointwise(torch.autograd.Function):
    """The two 1x1 layers on (batch, channels, n), with the temporaries of both directions made in place."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, hidden: Tensor, hidden_bias: Tensor, output: Tensor, output_bias: Tensor
    ) -> Tensor:
        activation = torch.relu_((hidden @ x).add_(hidden_bias.unsqueeze(2)))
        ctx.save_for_backward(x, hidden, activation, output)
        return (output @ activation).add_(output_bias.unsqueeze(2))

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        x, hidden, activation, output = ctx.saved_tensors
        at_hidden = where_positive(output.mT @ upstream, activation)
        of_output = upstream @ activation.mT, upstream.sum(2)
        return hidden.mT @ at_hidden, at_hidden @ x.mT, at_hidden.sum(2), *of_output


def _coarse(
    grids: list[Tensor], taps: Tensor, level: int, top: int, bottom: int, region: ValidRegion | None = None
) -> Tensor:
    """Joint features of a level and those coarser, in some rows, extended by `REACH` samples on both sides.

    Args:
        top, bottom: rows, which may be beyond the edges. Of coarser levels only those are made that they depend on: all
            features of a large picture may take far more memory than its file.
        region: if there is one, rows are all of them.
    """
    height, width = grids[level].shape[2:]
    low, high = max(0, top), min(height, bottom)
    features = grids[level][:, :, low:high]
    if level + 1 < len(grids):
        coarser = _coarse(grids, taps, level + 1, low // 2 - REACH, (high + 1) // 2 + REACH, region)
        doubled = _double(coarser, taps[:, level])[:, :, low % 2 :]
        features = torch.cat([features, doubled[:, :, : high - low, :width]], 1)
    if region is not None:
        features = region.extended(features, level)
    return F.pad(features, (REACH, REACH, low - top, bottom - high), mode="replicate")


def _all_rows(spec: Spec) -> _Rows:
    return _Rows(0, spec.height, spec)


def _blocks(spec: Spec, batch: int, device: torch.device) -> Iterator[_Rows]:
    rows = max(8, positions_a_block(device) // (batch * spec.width))
    for top in range(0, spec.height, rows):
        yield _Rows(top, min(top + rows, spec.height), spec)


def tile_gradients(
    grids: list[Tensor],
    weights: dict[str, Tensor],
    spec: Spec,
    generator: torch.Generator,
    factors: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield gradients of sums of a tile's output samples, each sample with a random sign, in the synthesis' weights.

    The mean of their squares is that of the gradients of single samples.

    Args:
        grids, weights: of one function, with the batch axis.
        factors: of the samples, (1, 1, height, width); 1 by default.

    Yields:
        (tiles, weights), in the order of `Spec.weight_shapes`; `DRAWS` times for each tile.
    """
    reach, missing, inputs = spec.residuals, -spec.width % TILE, _all_rows(spec).inputs(grids, weights)
    factors = grids[0].new_ones(1, 1, spec.height, spec.width) if factors is None else factors
    for part in slices(spec.height, TILE):
        rows = _Rows(part.start, part.stop, spec)
        features, own = rows.features(rows.cut(inputs))
        tiles = F.pad(features, (0, missing)).unfold(3, TILE + 2 * reach, TILE)[0].permute(2, 0, 1, 3)
        worth = F.pad(factors[:, :, part], (0, missing)).unfold(3, TILE, TILE)[0].permute(2, 0, 1, 3)
        each = [w.detach().expand(len(tiles), *w.shape[1:]).clone().requires_grad_() for w in own]
        with torch.enable_grad():
            output = _network(tiles.contiguous(), each, spec.linear)
        for _ in range(DRAWS):
            drawn = torch.randint(0, 2, output.shape, generator=generator, device=output.device) * 2 - 1
            found = torch.autograd.grad(output, each, drawn * worth, retain_graph=True)
            yield torch.cat([g.flatten(1) for g in found], 1)


class _SquaredError(torch.autograd.Function):
    """Sum of squared errors (batch,), with its gradient made block by block along with it."""

    @staticmethod
    def forward(
        ctx: Any, spec: Spec, with_gradients: bool, target: Tensor, factors: Tensor | None, *inputs: Tensor
    ) -> Tensor:
        total = target.new_zeros(target.shape[0])
        gradients = [torch.zeros_like(x) for x in inputs] if with_gradients else None
        for rows in _blocks(spec, target.shape[0], target.device):
            parts = [x.detach().requires_grad_(with_gradients) for x in rows.cut(list(inputs))]
            with torch.set_grad_enabled(with_gradients):
                difference = rows.synthesise(parts) - target[:, :, rows.top : rows.bottom]
                if factors is not None:
                    difference = difference * factors[:, :, rows.top : rows.bottom]
                errors = difference.square().sum((1, 2, 3))
            total += errors.detach()
            if gradients is not None:
                of_parts = torch.autograd.grad(errors, parts, torch.ones_like(errors))
                for gradient, part in zip(rows.cut(gradients), of_parts, strict=True):
                    gradient += part
        if gradients is not None:
            ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        return (None, None, None, None, *(g * upstream.view(-1, *[1] * (g.dim() - 1)) for g in ctx.saved_tensors))


def squared_error(
    grids: list[Tensor], weights: dict[str, Tensor], spec: Spec, target: Tensor, region: ValidRegion | None = None,
    roots: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Sum of squared differences (batch,) between the function's output and target (batch, outputs, height, width).

    Those outside of the valid region do not count. At its lower and right edge the output is that of a larger function,
    as far as residual layers reach.

    Args:
        roots: factors of the differences, (batch, 1, height, width); 1 by default.
    """
    inputs, factors = _all_rows(spec).inputs(grids, weights, region), roots
    if region is not None:
        factors = region.inside[0] if roots is None else region.inside[0] * roots
    error: Tensor = _SquaredError.apply(spec, torch.is_grad_enabled(), target, factors, *inputs)  # type: ignore[no-untyped-call]
    return error


def output(grids: list[Tensor], weights: dict[str, Tensor], spec: Spec, region: ValidRegion | None = None) -> Tensor:
    """The same as `synthesise`, with gradients and without bounds on memory."""
    rows = _all_rows(spec)
    return rows.synthesise(rows.inputs(grids, weights, region))


@torch.no_grad()
def synthesise(grids: list[Tensor], weights: dict[str, Tensor], spec: Spec) -> Tensor:
    """The function's output, (batch, outputs, height, width), from grids by level, finest first."""
    batch = grids[0].shape[0]
    output = grids[0].new_empty(batch, spec.outputs, spec.height, spec.width)
    for rows in _blocks(spec, batch, output.device):
        output[:, :, rows.top : rows.bottom] = rows.synthesise(rows.inputs(grids, weights))
    return output
