"""The autoregressive probability model (ARM): what a plane costs, and how that changes.

Every sample of a plane is coded under a Laplace distribution whose position and scale a small network reads from
samples that are already known: causal neighbours in the same plane, and the co-located samples of planes coded
before (COOL-CHIC, Ladune et al., ICCV 2023; the stabiliser and inter-feature contexts follow Cool-Chic 5).

The rate is a sum over positions, so its gradient does not depend on anything computed later: value and gradient
are made together, block by block, with every temporary in the processor's cache and memory bounded for any size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.blocks import rows_a_block
from codec.entropy import tables
from codec.overfit.function import MARGIN, SPATIAL_CONTEXTS, Plane, Spec

WEIGHTS = ("hidden1", "hidden1_bias", "hidden2", "hidden2_bias", "output", "stabiliser")
LOG_SCALE_MIN = tables.LOG_SCALE_MIN_EIGHTHS / tables.LOG_SCALE_FRACTIONS
LOG_SCALE_MAX = LOG_SCALE_MIN + (tables.SCALES - 1) / tables.LOG_SCALE_FRACTIONS
FLOOR = 2.0**-16  # probability that no symbol falls below in a fit: bounds the cost of a surprise
TABLE_FLOOR = 1 / tables.TOTAL  # that of the coder's tables


def rate(grids: list[Tensor], weights: dict[str, Tensor], spec: Spec, inside: list[Tensor] | None = None) -> Tensor:
    """Bits that the grids cost.

    Args:
        grids: by level, finest first, (batch, features, height, width), in units of the quantisation step.
        weights: the function's weights, each with the batch axis.
        inside: by level, (batch, 1, height, width), what a position counts for; grids are 0 where that is 0.

    Returns:
        (batch, planes): bits of each plane in coding order, differentiable in grids and weights.
    """
    bits: list[Tensor] = []
    for plane, tensors in _planes(grids, weights, spec):
        told = spec.spatial, torch.is_grad_enabled(), None if inside is None else inside[plane.level].squeeze(1)
        bits.append(_PlaneRate.apply(*tensors, *told))  # type: ignore[no-untyped-call]
    return torch.stack(bits, 1)


@torch.no_grad()
def details(grids: list[Tensor], weights: dict[str, Tensor], spec: Spec, level: int) -> tuple[Tensor, Tensor]:
    """What each sample of a level costs, and what is expected of it.

    Returns:
        Shaped as the level's grid: bits, and means of the distributions.
    """
    planes: list[tuple[Tensor, ...]] = []
    for plane, (values, references, *own) in _planes(grids, weights, spec):
        if plane.level != level:
            continue
        padded, folded = F.pad(values, (MARGIN, MARGIN, MARGIN, 0)), _folded(own)
        rows = rows_a_block(values.device, values.shape[0] * plane.width)
        parts = []
        for top in range(0, plane.height, rows):
            cut = padded[:, top : top + rows + MARGIN], references[:, :, top : top + rows]
            block = _Block(*cut, folded, SPATIAL_CONTEXTS[: spec.spatial])
            parts.append([x.unflatten(1, block.size) for x in (block.each(), block.output[:, 0])])
        planes.append(tuple(torch.cat(part, 1) for part in zip(*parts, strict=True)))
    bits, means = (torch.stack(each, 1) for each in zip(*planes, strict=True))
    return bits, means


def _planes(grids: list[Tensor], weights: dict[str, Tensor], spec: Spec) -> Iterator[tuple[Plane, list[Tensor]]]:
    """Planes in coding order, each with its values, its references and the weights of its model."""
    shared = [weights[f"arm.{name}"] for name in WEIGHTS]
    known: list[tuple[Tensor, Plane]] = []
    for index, plane in enumerate(spec.planes):
        values = grids[plane.level][:, plane.feature]
        references = [_align(*known[-1 - i], plane) for i in range(min(spec.references, index))]
        missing = [torch.zeros_like(values)] * (spec.references - len(references))
        known.append((values, plane))
        inputs = torch.stack(references + missing, 1) if spec.references else values.unsqueeze(1)[:, :0]
        own = [w[:, index] for w in shared] if spec.separate else shared
        yield plane, [values, inputs, *own, weights["arm.output_bias"][:, :, index]]


def _folded(weights: list[Tensor]) -> list[Tensor]:
    """Residual identities in the hidden layers' weights."""
    identity = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype, device=weights[0].device)
    return [weights[0] + identity, weights[1], weights[2] + identity, *weights[3:]]


def _align(values: Tensor, source: Plane, target: Plane) -> Tensor:
    """Repeat a coarser plane's samples to the resolution of a finer one."""
    times = 2 ** (source.level - target.level)
    if times == 1:
        return values
    values = values.repeat_interleave(times, 1)[:, : target.height]
    return values.repeat_interleave(times, 2)[:, :, : target.width]


class _PlaneRate(torch.autograd.Function):
    """Bits of one plane (batch,), from its values (batch, height, width) and references (batch, n, height, width)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, references: Tensor, *rest: Any) -> Tensor:
        *weights, spatial, with_gradients, inside = rest
        offsets = SPATIAL_CONTEXTS[:spatial]
        padded = F.pad(values, (MARGIN, MARGIN, MARGIN, 0))
        tensors = [padded, references, *weights]
        gradients = [torch.zeros_like(t) for t in tensors] if with_gradients else None
        batch, height, width = values.shape
        folded = _folded(weights)
        rows = rows_a_block(values.device, batch * width)
        total = values.new_zeros(batch)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            worth = None if inside is None else inside[:, top:bottom].flatten(1)
            block = _Block(padded[:, top : bottom + MARGIN], references[:, :, top:bottom], folded, offsets, worth)
            if gradients is None:
                total += block.bits()
                continue
            cut = [gradients[0][:, top : bottom + MARGIN], gradients[1][:, :, top:bottom], *gradients[2:]]
            total += block.bits_and_gradients(cut)
        if gradients is not None:
            gradients[0] = gradients[0][:, MARGIN:, MARGIN:-MARGIN]
            ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        scaled = [g * upstream.view(-1, *[1] * (g.dim() - 1)) for g in ctx.saved_tensors]
        return (*scaled, None, None, None)


class _Block:
    """The network on some rows of a plane; residual identities are folded into the hidden layers' weights."""

    def __init__(
        self, padded: Tensor, references: Tensor, weights: list[Tensor], offsets: Any, worth: Tensor | None = None
    ) -> None:
        batch, count, height, width = references.shape
        self.offsets, self.size, self.worth = offsets, (height, width), worth
        inputs = references.new_empty(batch, len(offsets) + count, height, width)
        for i, window in enumerate(self._windows(padded)):
            inputs[:, i] = window
        inputs[:, len(offsets) :] = references
        self.inputs = inputs.flatten(2)
        self.values = padded[:, MARGIN:, MARGIN:-MARGIN].flatten(1)
        self.weights = weights
        hidden1, bias1, hidden2, bias2, output, stabiliser, bias = weights
        # Biases are added in place: broadcasting them inside a product would copy them out first.
        self.first = torch.relu_((hidden1 @ self.inputs).add_(bias1.unsqueeze(2)))
        self.second = torch.relu_((hidden2 @ self.first).add_(bias2.unsqueeze(2)))
        self.output = (output @ self.second).add_(bias.unsqueeze(2)).baddbmm_(stabiliser, self.inputs)

    def _windows(self, padded: Tensor) -> list[Tensor]:
        """The plane as each of its causal neighbours sees it."""
        height, width = self.size
        corners = [(MARGIN + dy, MARGIN + dx) for dy, dx in self.offsets]
        return [padded[:, y : y + height, x : x + width] for y, x in corners]

    def bits(self) -> Tensor:
        return laplace_bits(self.values, self.output[:, 0], self.output[:, 1], self.worth)

    def each(self) -> Tensor:
        """Bits of each sample, (batch, n)."""
        return laplace_bits_of_each(self.values, self.output[:, 0], self.output[:, 1])

    def bits_and_gradients(self, gradients: list[Tensor]) -> Tensor:
        """Add the gradients of the bits to `gradients` (of padded, references, then weights); return the bits."""
        of_padded, of_references, *of_weights = gradients
        hidden1, _, hidden2, _, output, stabiliser, _ = self.weights
        found = laplace_bits_and_gradients(self.values, self.output[:, 0], self.output[:, 1], self.worth)
        bits, of_values, of_output = found
        at_second = where_positive(output.mT @ of_output, self.second)
        at_first = where_positive(hidden2.mT @ at_second, self.first)
        at_inputs = (stabiliser.mT @ of_output).baddbmm_(hidden1.mT, at_first)
        parts = (
            at_first @ self.inputs.mT, at_first.sum(2), at_second @ self.first.mT, at_second.sum(2),
            of_output @ self.second.mT, of_output @ self.inputs.mT, of_output.sum(2),
        )  # fmt: skip
        for total, part in zip(of_weights, parts, strict=True):
            total += part
        at_inputs = at_inputs.unflatten(2, self.size)
        for i, window in enumerate(self._windows(of_padded)):
            window += at_inputs[:, i]
        of_references += at_inputs[:, len(self.offsets) :]
        of_padded[:, MARGIN:, MARGIN:-MARGIN] += of_values.unflatten(1, self.size)
        return bits


def _laplace(values: Tensor, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, ...]:
    """Signed distance, 1 / scale, tails on the near and far side of the unit interval, its probability."""
    inverse = torch.exp(-log_scale.clamp(LOG_SCALE_MIN, LOG_SCALE_MAX))
    offset = values - mean
    distance = offset.abs()
    near = distance - 0.5
    low = torch.exp(-near.abs() * inverse)
    high = torch.exp((distance + 0.5).neg_() * inverse)
    inside = 1 - 0.5 * (low + high)
    probability = torch.where(near > 0, 0.5 * (low - high), inside)
    return offset, inverse, near, low, high, probability


def laplace_bits(values: Tensor, mean: Tensor, log_scale: Tensor, worth: Tensor | None = None) -> Tensor:
    """Bits (batch,) of what `laplace_bits_of_each` takes; each counts for what it is worth (batch, n), or for 1."""
    bits = laplace_bits_of_each(values, mean, log_scale)
    return (bits if worth is None else bits.mul_(worth)).sum(1)


def laplace_bits_of_each(values: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Bits of integer values under Laplace distributions integrated over unit intervals, all of one shape.

    Means and log-scales are rounded as the coder's tables have them, so this is what the values will cost.
    """
    means = (mean * tables.FRACTIONS).round() / tables.FRACTIONS
    log_scales = (log_scale * tables.LOG_SCALE_FRACTIONS).round() / tables.LOG_SCALE_FRACTIONS
    *_, probability = _laplace(values, means, log_scales)
    return -torch.log2(probability + TABLE_FLOOR)


def laplace_bits_and_gradients(
    values: Tensor, mean: Tensor, log_scale: Tensor, worth: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The same without that rounding, with gradients in values (batch, n), and mean and log-scale (batch, 2, n)."""
    offset, inverse, near, low, high, probability = _laplace(values, mean, log_scale)
    probability += FLOOR
    bits = -torch.log2(probability)
    factor = inverse.mul_(-0.5 / math.log(2)).div_(probability)  # -1 / (2 b p ln 2)
    if worth is not None:
        bits, factor = bits.mul_(worth), factor.mul_(worth)
    of_scale = factor * (low * near - high * (near + 1))
    of_values = (high - low).mul_(factor).mul_(offset.sign())
    return bits.sum(1), of_values, torch.stack((-of_values, of_scale), 1)


def where_positive(gradient: Tensor, activation: Tensor) -> Tensor:
    """The gradient before a ReLU, in place of the one after it."""
    torch.ops.aten.threshold_backward.grad_input(gradient, activation, 0, grad_input=gradient)
    return gradient
