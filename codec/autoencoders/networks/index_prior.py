"""Progressive prior of a map of codebook indices: by it they are coded, in far fewer bits than they are counted in.

The map is halved again and again, as a latent is by the multi-scale progressive prior. What is left at last has
the same distribution everywhere; then each halving's missing positions follow, the middles of four known ones first,
each under a categorical distribution given all that is known around it. One network serves all codebooks and halvings.

`IndexPrior` is what is trained. `IntegerIndexPrior` is made of it by `quantised`, and computes in integers, so that
distributions are the same on any machine.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.autoencoders.networks import integer_prior
from codec.autoencoders.networks.coding_order import BLOCKS, LIMIT, OFFSETS, SCALE
from codec.autoencoders.networks.integer_prior import OUTPUT_LIMIT, IntegerBlock, check_bound
from codec.autoencoders.networks.progressive_prior import Block, bounded
from codec.autoencoders.networks.quantisation import State, layer_state, layer_weights, whole
from codec.autoencoders.networks.transform import Pointwise, initialise
from codec.blocks import to_multiple
from codec.entropy.layers import Integers, Linear, Proven, Whole
from codec.entropy.tables import LOGIT_FRACTIONS

HALVINGS = 4
CODE = 32  # dimensions of what the networks know of an entry


class IndexStep(nn.Module):
    """Features of one position of each cell, of which distributions are made."""

    def __init__(self, known: int, hidden: int) -> None:
        super().__init__()
        self.embed = Pointwise(known * CODE, hidden)
        self.context = nn.Sequential(*(Block(hidden) for _ in range(BLOCKS)))
        self.mix = Pointwise(hidden, hidden)
        initialise(self.embed)
        initialise(self.mix)

    def forward(self, known: Tensor, condition: Tensor) -> Tensor:
        """(batch, known * CODE, h, w), (batch, hidden, 1, 1) to (batch, hidden, h, w)."""
        context = self.context(bounded(self.embed(known) + condition))
        features: Tensor = bounded(context + bounded(self.mix(context), 0))
        return features


class IndexPrior(nn.Module):
    """Distributions of indices, as places among the entries of all codebooks.

    Args:
        starts: where each codebook begins among the entries, and where the last one ends.
        hidden: channels of the networks.
    """

    def __init__(self, starts: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        total, offsets = starts[-1], len(OFFSETS)
        self.starts = starts
        self.code = nn.Parameter(0.5 * torch.randn(total, CODE))
        self.first = nn.Parameter(torch.zeros(total))
        self.bias = nn.Parameter(torch.zeros(HALVINGS, offsets, total))
        self.condition = nn.Parameter(torch.zeros(HALVINGS, offsets, len(starts) - 1, hidden))
        self.steps = nn.ModuleList(IndexStep(1 + offset, hidden) for offset in range(offsets))
        self.output = Pointwise(hidden, total)
        nn.init.normal_(self.output.weight, std=0.1 * hidden**-0.5)
        nn.init.zeros_(self.output.bias)

    def forward(self, places: Tensor, books: Tensor) -> Tensor:
        """Negative logarithm of the probability of each index of maps (batch, h, w): (batch, h, w).

        Args:
            places: int64, among the entries of all codebooks.
            books: (batch,), int64, index of each map's codebook.
        """
        height, width = places.shape[1:]
        cell = 1 << HALVINGS
        places = to_multiple(places[:, None].float(), cell)[:, 0].long()
        codes = bounded(self.code)[places].permute(0, 3, 1, 2)
        found = torch.zeros(places.shape, device=places.device)
        found[:, ::cell, ::cell] = self._losses(self.first, places[:, ::cell, ::cell], books)
        for halving in range(HALVINGS):
            stride = 1 << halving
            known = [codes[:, :, :: 2 * stride, :: 2 * stride]]
            for offset, (row, column) in enumerate(OFFSETS):
                where = np.s_[:, row * stride :: 2 * stride, column * stride :: 2 * stride]
                condition = self.condition[halving, offset][books][:, :, None, None]
                features = self.steps[offset](torch.cat(known, 1), condition)
                logits = self.output(features).permute(0, 2, 3, 1).float() + self.bias[halving, offset]
                found[where] = self._losses(logits, places[where], books)
                known.append(codes[:, :, where[1], where[2]])
        return found[:, :height, :width]

    def _losses(self, logits: Tensor, places: Tensor, books: Tensor) -> Tensor:
        """Cross entropies (batch, h, w) of logits (..., entries), of which those of other codebooks do not count."""
        other = of_others(self.starts, books)[:, None, None]
        logits = logits.expand(*places.shape, -1).masked_fill(other, -torch.inf)
        losses: Tensor = F.cross_entropy(logits.flatten(0, 2), places.flatten(), reduction="none")
        return losses.view(places.shape)


def of_others(starts: tuple[int, ...], books: Tensor) -> Tensor:
    """Whether each entry of all codebooks is of another one than each of some (batch,): (batch, entries)."""
    place, bounds = torch.arange(starts[-1], device=books.device), torch.tensor(starts, device=books.device)
    return (place < bounds[books, None]) | (place >= bounds[books + 1, None])


class IntegerIndexStep(Proven):
    """An `IndexStep`; activations are integers, held in floating point, channels last."""

    def __init__(self, known: int, hidden: int) -> None:
        super().__init__()
        self.embed = Linear(hidden, known * CODE)
        self.context = [IntegerBlock(hidden) for _ in range(BLOCKS)]
        self.mix = Linear(hidden, hidden)

    def features(self, known: Whole, condition: Integers) -> Whole:
        """(h, w, known * CODE), (hidden,) to (h, w, hidden)."""
        x = integer_prior.bounded(self.embed(known) + condition.astype(np.float32))
        for block in self.context:
            x = block(x)
        return integer_prior.bounded(x + self.mix(x).clip(0, LIMIT))


class IntegerIndexPrior(Proven):
    """Distributions of indices in integers, made without numbers: complete once a state of `quantised` is loaded."""

    code: Integers
    first: Integers
    bias: Integers
    condition: Integers

    def __init__(self, starts: tuple[int, ...], hidden: int) -> None:
        total, offsets = starts[-1], len(OFFSETS)
        super().__init__(
            code=(total, CODE), first=(total,), bias=(HALVINGS, offsets, total),
            condition=(HALVINGS, offsets, len(starts) - 1, hidden),
        )  # fmt: skip
        self.books = [slice(a, b) for a, b in pairwise(starts)]
        self.steps = [IntegerIndexStep(1 + offset, hidden) for offset in range(offsets)]
        self.output = [Linear(b - a, hidden) for a, b in pairwise(starts)]

    def prove(self) -> None:
        check_bound("code", self.code, LIMIT)
        for name in ("first", "bias", "condition"):
            check_bound(name, getattr(self, name), OUTPUT_LIMIT)

    def codes(self, book: int) -> NDArray[np.int16]:
        """Activations of each entry of a codebook, (size, CODE)."""
        return self.code[self.books[book]].astype(np.int16)

    def of_first(self, book: int) -> Integers:
        """Logits of the positions that are left after all halvings, (size,), in 1 / LOGIT_FRACTIONS as all of them."""
        return self.first[self.books[book]]

    def features(self, book: int, halving: int, offset: int, known: NDArray[np.float32]) -> Whole:
        """Features that logits of the positions at an offset depend on: (h, w, known * CODE), whole, to (h, w, hidden).

        Args:
            halving: 0 for the finest; beyond the coarsest that there is it is as that.
        """
        return self.steps[offset].features(known, self.condition[min(halving, HALVINGS - 1), offset, book])

    def logits(self, book: int, halving: int, offset: int, features: Whole) -> Integers:
        """Logits (n, size) of features (n, hidden)."""
        bias = self.bias[min(halving, HALVINGS - 1), offset, self.books[book]]
        found: Integers = self.output[book](features).astype(np.int64) + bias
        return found


class EquallyLikely:
    """The prior of models that have none.

    Args:
        sizes: entries of each codebook.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes

    def codes(self, book: int) -> NDArray[np.int16]:
        """Nothing is known of entries: (size, 0)."""
        return np.zeros((self._sizes[book], 0), np.int16)

    def of_first(self, book: int) -> Integers:
        return np.zeros(self._sizes[book], np.int64)

    def features(self, book: int, halving: int, offset: int, known: NDArray[np.float32]) -> Whole:
        """(h, w, 0) to the same."""
        return known

    def logits(self, book: int, halving: int, offset: int, features: Whole) -> Integers:
        """Zeros (n, size), which take no memory."""
        return np.broadcast_to(np.int64(0), (len(features), self._sizes[book]))


AnyPrior = IntegerIndexPrior | EquallyLikely


def quantised(prior: IndexPrior) -> State:
    """State of an `IntegerIndexPrior` made from a trained one.

    Raises:
        ValueError: its weights are too great for sums to be exact.
    """
    made = {
        "code": whole(prior.code * SCALE).clip(-LIMIT, LIMIT),
        "first": whole(prior.first * LOGIT_FRACTIONS),
        "bias": whole(prior.bias * LOGIT_FRACTIONS),
        "condition": whole(prior.condition * SCALE),
    }
    for name, layer in prior.steps.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            # What follows a rectifier is not negative.
            low = 0 if "context" in name and name.endswith(("mix", "output")) else -LIMIT
            made |= layer_state(f"steps.{name}", layer.weight, layer.get_parameter("bias"), low, SCALE)
    for book, (start, stop) in enumerate(pairwise(prior.starts)):
        rows = prior.output.weight[start:stop], prior.output.bias[start:stop]
        made |= layer_state(f"output.{book}", *rows, -LIMIT, LOGIT_FRACTIONS)
    return made


def dequantised(prior: IntegerIndexPrior) -> dict[str, Tensor]:
    """State of the `IndexPrior` that integers stand for."""
    state = {
        "code": prior.code / SCALE, "first": prior.first / LOGIT_FRACTIONS, "bias": prior.bias / LOGIT_FRACTIONS,
        "condition": prior.condition / SCALE,
    }  # fmt: skip
    for name, layer in prior.layers():
        if name.startswith("steps."):
            state[f"{name}.weight"], state[f"{name}.bias"] = layer_weights(layer, SCALE)
    outputs = [layer_weights(layer, LOGIT_FRACTIONS) for layer in prior.output]
    state["output.weight"], state["output.bias"] = map(np.concatenate, zip(*outputs, strict=True))
    return {name: torch.from_numpy(np.float32(numbers)) for name, numbers in state.items()}
