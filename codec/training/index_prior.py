"""Progressive prior of a map of codebook indices: by it they are coded, in far fewer bits than they are counted in.

The map is halved again and again, as a latent is by the multi-scale progressive prior. What is left at last has
the same distribution everywhere; then each halving's missing positions follow, the middles of four known ones first,
each under a categorical distribution given all that is known around it. One network serves all codebooks and halvings.

Files are coded by the same networks in integers (`networks/integer_index_prior.py`).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.networks.coding_order import OFFSETS
from codec.autoencoders.networks.integer_index_prior import CODE, HALVINGS
from codec.autoencoders.networks.progressive_prior import Context, bounded
from codec.autoencoders.networks.transform import Pointwise, initialise
from codec.blocks import to_multiple


class IndexStep(Context):
    """Features of one position of each cell, of which distributions are made."""

    def __init__(self, known: int, hidden: int) -> None:
        super().__init__(known * CODE, hidden)
        self.mix = Pointwise(hidden, hidden)
        initialise(self.embed)
        initialise(self.mix)

    def forward(self, known: Tensor, condition: Tensor) -> Tensor:
        """(batch, known * CODE, h, w), (batch, hidden, 1, 1) to (batch, hidden, h, w)."""
        context = self.embedded(known, condition)
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
