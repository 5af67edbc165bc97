"""The auto-regressive probability model (ARM): the rate of planes, and its gradients.

Every sample of a plane is coded under a Laplace distribution whose position and scale a small network reads from
samples that are already known: causal neighbours in the same plane, and the co-located samples of planes coded
before (COOL-CHIC, Ladune et al., ICCV 2023; the stabiliser and inter-feature contexts follow Cool-Chic 5).

The rate is a sum over positions, so its gradient does not depend on anything computed later: value and gradient
are made together, block by block, with every temporary in the processor's cache and memory bounded for any size.
Small planes share a block: of a small picture, most of the time would go to starting so many operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.blocks import positions_a_block, slices
from codec.entropy import tables
from codec.overfit.spec import MARGIN, SPATIAL_CONTEXTS, Plane, Spec

WEIGHTS = tuple(
    f"arm.{name}"
    for name in ("hidden1", "hidden1_bias", "hidden2", "hidden2_bias", "output", "stabiliser", "output_bias")
)
LOG_SCALE_MIN = tables.LOG_SCALE_MIN_EIGHTHS / tables.LOG_SCALE_FRACTIONS
LOG_SCALE_MAX = LOG_SCALE_MIN + (tables.SCALES - 1) / tables.LOG_SCALE_FRACTIONS
GROUPS = 2**16  # in which samples' gradients are summed, at most
FLOOR = 2.0**-16  # probability that no symbol falls below in a fit: bounds the cost of a surprise
TABLE_FLOOR = 1 / tables.TOTAL  # that of the coder's tables


def rate(grids: list[Tensor], weights: dict[str, Tensor], spec: Spec, inside: list[Tensor] | None = None) -> Tensor:
    """Bits that the grids cost.

    Args:
        grids: by level, finest first, (batch, features, height, width), in units of the quantisation step.
        weights: the function's weights, each with the batch axis.
        inside: by level, (batch, 1, height, width), weight of each position; grids are 0 where that is 0.

    Returns:
        (batch,), differentiable in grids and weights.
    """
    tensors = [*grids, *(weights[name] for name in WEIGHTS)]
    bits: Tensor = _Rate.apply(spec, inside, torch.is_grad_enabled(), *tensors)  # type: ignore[no-untyped-call]
    return bits


@torch.no_grad()
def details(grids: list[Tensor], weights: dict[str, Tensor], spec: Spec, level: int) -> tuple[Tensor, Tensor]:
    """Rate of each sample of a level, and the mean of its distribution.

    Returns:
        Bits, and means of the distributions; each shaped as the level's grid.
    """
    bits, means = torch.zeros_like(grids[level]), torch.zeros_like(grids[level])
    padded, own = _padded(grids), [weights[name] for name in WEIGHTS]
    for pieces in _blocks(spec, len(bits), bits.device):
        if all(piece.level != level for piece in pieces):
            continue
        block = _Block(pieces, padded, own, spec)
        for found, samples in ((bits, block.each()), (means, block.output[:, 0])):
            for piece, part in zip(pieces, samples.split(block.lengths, 1), strict=True):
                if piece.level == level:
                    found[:, piece.features, piece.rows] = part.reshape(-1, *piece.size)
    return bits, means


def group_gradients(
    grids: list[Tensor], weights: dict[str, Tensor], spec: Spec, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield gradients of sums of a group's bits, each sample's with a random sign, in the model's weights.

    The mean of their squares is that of the gradients of single samples.

    Args:
        grids, weights: of one function, with the batch axis, whose planes have one model in common.

    Yields:
        (groups, weights), in the order of `WEIGHTS`; about `GROUPS` in all.
    """
    assert not spec.separate
    size = -(-sum(plane.height * plane.width for plane in spec.planes) // GROUPS)
    padded, own = _padded(grids), [weights[name] for name in WEIGHTS]
    for pieces in _blocks(spec, 1, grids[0].device):
        yield _Block(pieces, padded, own, spec).group_gradients(size, generator)


@dataclass(frozen=True)
class _Piece:
    """Some rows of a plane, or of planes of one resolution that each have a model of their own.

    Attributes:
        planes: their places in the coding order.
        features: the same among the features of the level.
    """

    planes: slice
    level: int
    features: slice
    rows: slice
    width: int

    @property
    def size(self) -> tuple[int, int, int]:
        """Planes, height and width."""
        return self.planes.stop - self.planes.start, self.rows.stop - self.rows.start, self.width

    def within(self, padded: list[Tensor], dy: int = 0, dx: int = 0) -> Tensor:
        """The samples so many rows and columns away from it, of its own level, (batch, planes, height, width)."""
        top, left = self.rows.start + MARGIN + dy, MARGIN + dx
        rows, columns = slice(top, top + self.size[1]), slice(left, left + self.width)
        return padded[self.level][:, self.features, rows, columns]

    def around(self, padded: list[Tensor], plane: Plane) -> Tensor:
        """The samples at the same place of a plane as fine or coarser, (batch, height, width): see `finer`."""
        times = 2 ** (plane.level - self.level)
        rows = slice(MARGIN + self.rows.start // times, MARGIN - (-self.rows.stop // times))
        return padded[plane.level][:, plane.feature, rows, MARGIN:-MARGIN]

    def finer(self, samples: Tensor, times: int) -> Tensor:
        """Samples that `around` gave, each repeated in both directions to be as fine as the piece."""
        if times == 1:
            return samples
        above = self.rows.start % times
        samples = samples.repeat_interleave(times, 1)[:, above : above + self.size[1]]
        return samples.repeat_interleave(times, 2)[:, :, : self.width]

    def coarser(self, gradients: Tensor, times: int) -> Tensor:
        """Gradients in the samples that `around` gave, from those in what `finer` made of them."""
        if times == 1:
            return gradients
        padded = F.pad(gradients, (0, -self.width % times, self.rows.start % times, -self.rows.stop % times))
        summed: Tensor = padded.unflatten(2, (-1, times)).unflatten(1, (-1, times)).sum((2, 4))
        return summed


def _padded(grids: list[Tensor]) -> list[Tensor]:
    return [F.pad(g, (MARGIN, MARGIN, MARGIN, 0)) for g in grids]


def _blocks(spec: Spec, batch: int, device: torch.device) -> Iterator[list[_Piece]]:
    """All planes in pieces, in lists of those that have a model in common and are small enough together."""
    pieces: list[_Piece] = []
    used, most = 0, positions_a_block(device)
    for group in spec.groups:
        plane = spec.planes[group.start]
        planes, features = slice(group.start, group.stop), slice(plane.feature, plane.feature + len(group))
        row = batch * len(group) * plane.width
        for rows in slices(plane.height, max(1, most // row)):
            size = row * (rows.stop - rows.start)
            if pieces and (spec.separate or used + size > most):
                yield pieces
                pieces, used = [], 0
            pieces.append(_Piece(planes, plane.level, features, rows, plane.width))
            used += size
    yield pieces


class _Rate(torch.autograd.Function):
    """Bits (batch,) of all planes, from grids and weights in one list."""

    @staticmethod
    def forward(ctx: Any, spec: Spec, inside: list[Tensor] | None, with_gradients: bool, *tensors: Tensor) -> Tensor:
        levels = len(spec.features)
        padded, weights = _padded(list(tensors[:levels])), list(tensors[levels:])
        total = weights[0].new_zeros(len(weights[0]))
        gradients = [torch.zeros_like(t) for t in (*padded, *weights)] if with_gradients else None
        for pieces in _blocks(spec, len(total), total.device):
            block = _Block(pieces, padded, weights, spec, inside)
            if gradients is None:
                total += block.bits()
            else:
                total += block.bits_and_gradients(gradients[:levels], gradients[levels:])
        if gradients is not None:
            of_grids = [g[:, :, MARGIN:, MARGIN:-MARGIN] for g in gradients[:levels]]
            ctx.save_for_backward(*of_grids, *gradients[levels:])
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        scaled = [g * upstream.view(-1, *[1] * (g.dim() - 1)) for g in ctx.saved_tensors]
        return (None, None, None, *scaled)


class _Block:
    """The network on some pieces; residual identities are folded into the hidden layers' weights.

    Tensors are (models, channels, positions): of each function in the batch, the models of its planes.
    """

    def __init__(
        self, pieces: list[_Piece], padded: list[Tensor], weights: list[Tensor], spec: Spec,
        inside: list[Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.pieces, self.spec = pieces, spec
        self.axes = len(weights[0]), pieces[0].size[0]
        self.lengths = [height * width for _, height, width in (piece.size for piece in pieces)]
        inputs = weights[0].new_zeros(*self.axes, spec.contexts, sum(self.lengths))
        for piece, part in self._parts(inputs):
            for to, source, times in self._contexts(piece, part, padded):
                to.copy_(piece.finer(source, times))
        self.inputs = inputs.flatten(0, 1)
        self.values = torch.cat([piece.within(padded).flatten(2) for piece in pieces], 2).flatten(0, 1)
        self.worth = None if inside is None else self._worth(inside)
        own = [self._own(w).flatten(0, 1) for w in weights[:-1]]
        identity = torch.eye(spec.contexts, dtype=inputs.dtype, device=inputs.device)
        self.weights = [own[0] + identity, own[1], own[2] + identity, *own[3:]]
        hidden1, bias1, hidden2, bias2, output, stabiliser = self.weights
        # Biases are added in place: broadcasting them inside a product would copy them out first.
        self.first = torch.relu_((hidden1 @ self.inputs).add_(bias1.unsqueeze(2)))
        self.second = torch.relu_((hidden2 @ self.first).add_(bias2.unsqueeze(2)))
        self.output = (output @ self.second).baddbmm_(stabiliser, self.inputs)
        for piece, part in zip(pieces, self.output.split(self.lengths, 2), strict=True):
            part += weights[-1][:, :, piece.planes].mT.flatten(0, 1).unsqueeze(2)

    def _own(self, weight: Tensor) -> Tensor:
        """A weight, or its gradient, of these planes' models, (batch, models, ...)."""
        return weight[:, self.pieces[0].planes] if self.spec.separate else weight.unsqueeze(1)

    def _worth(self, inside: list[Tensor]) -> Tensor:
        """Weight of each position in the rate, (models, positions)."""
        parts = [inside[piece.level][:, :, piece.rows].flatten(2) for piece in self.pieces]
        return torch.cat(parts, 2).expand(*self.axes, -1).flatten(0, 1)

    def _parts(self, inputs: Tensor) -> Iterator[tuple[_Piece, Tensor]]:
        """Yield each piece with its part (batch, planes, contexts, height, width) of inputs."""
        for piece, part in zip(self.pieces, inputs.split(self.lengths, 3), strict=True):
            yield piece, part.unflatten(3, piece.size[1:])

    def _contexts(self, piece: _Piece, inputs: Tensor, padded: list[Tensor]) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Parts of the inputs, the samples that they are, and how many times finer the inputs are.

        The first planes' references lie before all of the piece's planes, those of the others among them.
        """
        offsets, (count, _, _) = SPATIAL_CONTEXTS[: self.spec.spatial], piece.size
        for i, (dy, dx) in enumerate(offsets):
            yield inputs[:, :, i], piece.within(padded, dy, dx), 1
        own = piece.within(padded)
        for i in range(self.spec.references):
            for k in range(min(i + 1, count)):
                if (place := piece.planes.start + k - 1 - i) >= 0:
                    plane = self.spec.planes[place]
                    times = 2 ** (plane.level - piece.level)
                    yield inputs[:, k, len(offsets) + i], piece.around(padded, plane), times
            if i + 1 < count:
                yield inputs[:, i + 1 :, len(offsets) + i], own[:, : count - 1 - i], 1

    def bits(self) -> Tensor:
        """Bits of all samples, (batch,)."""
        each = self.each()
        return (each if self.worth is None else each.mul_(self.worth)).view(*self.axes, -1).sum((1, 2))

    def each(self) -> Tensor:
        """Bits of each sample, (models, positions).

        Means and log-scales are rounded as the coder's tables have them, so this is what the samples will cost.
        """
        means = (self.output[:, 0] * tables.FRACTIONS).round() / tables.FRACTIONS
        log_scales = (self.output[:, 1] * tables.LOG_SCALE_FRACTIONS).round() / tables.LOG_SCALE_FRACTIONS
        *_, probability = _laplace(self.values, means, log_scales)
        return -torch.log2(probability + TABLE_FLOOR)

    def bits_and_gradients(self, of_padded: list[Tensor], of_weights: list[Tensor]) -> Tensor:
        """Add the gradients of the bits to these; return the bits (batch,)."""
        hidden1, *_, stabiliser = self.weights
        found = laplace_bits_and_gradients(self.values, self.output[:, 0], self.output[:, 1], self.worth)
        bits, of_values, of_output = found
        at_first, at_second = self._at_hidden(of_output)
        at_inputs = (stabiliser.mT @ of_output).baddbmm_(hidden1.mT, at_first)
        layers = self.inputs, self.first, self.second, at_first, at_second, of_output
        for total, part in zip(of_weights[:-1], _of_weights(*layers), strict=True):
            self._own(total).add_(part.unflatten(0, self.axes))
        for piece, part in zip(self.pieces, of_output.split(self.lengths, 2), strict=True):
            of_weights[-1][:, :, piece.planes] += part.sum(2).unflatten(0, self.axes).mT
        for piece, part in zip(self.pieces, of_values.split(self.lengths, 1), strict=True):
            piece.within(of_padded).add_(part.reshape(-1, *piece.size))
        for piece, inputs in self._parts(at_inputs.unflatten(0, self.axes)):
            for part, of_source, times in self._contexts(piece, inputs, of_padded):
                of_source += piece.coarser(part, times)
        return bits.view(self.axes).sum(1)

    def _at_hidden(self, of_output: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients before the activations of the first and the second hidden layer, from those in the output."""
        _, _, hidden2, _, output, _ = self.weights
        at_second = where_positive(output.mT @ of_output, self.second)
        return where_positive(hidden2.mT @ at_second, self.first), at_second

    def group_gradients(self, size: int, generator: torch.Generator) -> Tensor:
        """See the function; of one model."""
        *_, of_output = laplace_bits_and_gradients(self.values, self.output[:, 0], self.output[:, 1], self.worth)
        count, device = of_output.shape[2], of_output.device
        of_output = of_output * (torch.randint(0, 2, (count,), generator=generator, device=device) * 2 - 1)
        starts = torch.tensor([piece.planes.start for piece in self.pieces], device=device)
        planes = starts.repeat_interleave(torch.tensor(self.lengths, device=device))
        places = F.one_hot(planes, len(self.spec.planes)).T.unsqueeze(0).to(of_output.dtype)
        layers = self.inputs, self.first, self.second, *self._at_hidden(of_output), of_output, places
        grouped = [F.pad(x, (0, -count % size)).unflatten(2, (-1, size))[0].movedim(1, 0) for x in layers]
        parts = *_of_weights(*grouped[:-1]), grouped[-2] @ grouped[-1].mT
        return torch.cat([part.flatten(1) for part in parts], 1)


def _of_weights(
    inputs: Tensor, first: Tensor, second: Tensor, at_first: Tensor, at_second: Tensor, of_output: Tensor
) -> tuple[Tensor, ...]:
    """Gradients in all weights but the outputs' biases, in order, from what layers are given and gradients there."""
    return (
        at_first @ inputs.mT, at_first.sum(2), at_second @ first.mT, at_second.sum(2), of_output @ second.mT,
        of_output @ inputs.mT,
    )  # fmt: skip


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


def laplace_bits_and_gradients(
    values: Tensor, mean: Tensor, log_scale: Tensor, worth: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Bits (batch,) of values (batch, n) under Laplace distributions integrated over unit intervals.

    With gradients in values (batch, n), and in mean and log-scale (batch, 2, n); worth is what each value counts for.
    """
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
