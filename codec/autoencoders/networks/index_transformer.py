"""A transformer that fills in codebook indices that are not known from those that are, wherever these lie.

It is trained as in Chang et al., "MaskGIT: masked generative image transformer", CVPR 2022. A picture shows the mean of
what is likely. A file must have indices, which are filled in as there: in rounds, in each of which those that it is
surest of become known.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

WINDOW = 16  # side of the windows that it sees at once
STEP = 8  # from one window to the next in larger maps
AT_ONCE = 16  # windows
ROUNDS = 6
UNKNOWN = -1

Indices = NDArray[np.int32]
Window = tuple[slice, slice]


class IndexTransformer(nn.Module):
    """Distributions of indices, as places among the entries of all codebooks.

    Args:
        starts: where each codebook begins among the entries, and where the last one ends.
        width: of tokens, a multiple of `heads`.
    """

    def __init__(self, starts: tuple[int, ...], width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.starts = starts
        self.entries = nn.Parameter(0.5 * torch.randn(starts[-1], width))
        self.unknown = nn.Parameter(0.5 * torch.randn(len(starts) - 1, width))
        self.position = nn.Parameter(0.1 * torch.randn(WINDOW, WINDOW, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(starts[-1]))

    def forward(self, places: Tensor, books: Tensor) -> Tensor:
        """Features that logits are made of, (batch, h, w, width).

        Args:
            places: (batch, h, w), int64, sides of at most `WINDOW`; `UNKNOWN` where they are not known.
            books: (batch,), int64, index of each map's codebook.
        """
        height, width = places.shape[1:]
        known = (places != UNKNOWN)[..., None]
        tokens = torch.where(known, self.entries[places.clamp_min(0)], self.unknown[books][:, None, None])
        tokens = (tokens + self.position[:height, :width]).flatten(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
        found: Tensor = self.norm(tokens).unflatten(1, (height, width))
        return found

    def logits(self, features: Tensor, entries: slice) -> Tensor:
        """Logits (..., n) of some entries."""
        logits: Tensor = features @ self.entries[entries].T + self.bias[entries]
        return logits

    @torch.no_grad()
    def mend(self, indices: Indices, book: int) -> Indices:
        """Indices (h, w) of a codebook in place of those that are `UNKNOWN`."""
        places, entries = self._placed(indices, book)
        for left in reversed(range(ROUNDS)):
            unknown = places == UNKNOWN
            if not unknown.any():
                break
            confidence, likeliest = self._likeliest(places, book, entries)
            confidence = confidence.masked_fill(~unknown, -1)
            count = int(unknown.sum()) // (1 + left) or 1
            chosen = confidence.flatten().topk(count).indices
            places.view(-1)[chosen] = likeliest.flatten()[chosen]
        mended: Indices = (places - entries.start).cpu().numpy().astype(np.int32)
        return mended

    @torch.no_grad()
    def expected(self, indices: Indices, book: int, vectors: Tensor) -> Tensor:
        """Mean, by their probabilities, of the entries at each position where an index is `UNKNOWN`; zeros elsewhere.

        Which textures are there is not decided so, but the error is the least: (h, w, n).

        Args:
            indices: (h, w) of a codebook.
            vectors: entries of that, (size, n).
        """
        places, entries = self._placed(indices, book)
        total, count = vectors.new_zeros(*places.shape, vectors.shape[1]), vectors.new_zeros(*places.shape, 1)
        for some, logits in self._seen(places, book, entries):
            for window, mean in zip(some, logits.softmax(-1) @ vectors, strict=True):
                total[window] += mean
                count[window] += 1
        return total / count.clamp_min(1) * (places == UNKNOWN)[..., None]

    def _placed(self, indices: Indices, book: int) -> tuple[Tensor, slice]:
        """Places (h, w) of a codebook's indices among the entries of all, and which entries are the codebook's."""
        entries = slice(self.starts[book], self.starts[book + 1])
        places = torch.from_numpy(indices.astype(np.int64)).to(self.bias.device)
        return torch.where(places == UNKNOWN, UNKNOWN, places + entries.start), entries

    def _seen(self, places: Tensor, book: int, entries: slice) -> Iterator[tuple[list[Window], Tensor]]:
        """Windows in which some index is unknown, and logits of entries at each position in them (n, h, w, entries)."""
        windows = [w for w in _windows(*places.shape) if (places[w] == UNKNOWN).any()]
        for some in (windows[i : i + AT_ONCE] for i in range(0, len(windows), AT_ONCE)):
            stacked = torch.stack([places[window] for window in some])
            features = self(stacked, torch.full((len(some),), book, device=places.device))
            yield some, self.logits(features, entries)

    def _likeliest(self, places: Tensor, book: int, entries: slice) -> tuple[Tensor, Tensor]:
        """Probability of the likeliest index at each position, and its place, (h, w) both.

        Each position is seen in up to four windows, of which the surest counts.
        """
        confidence, likeliest = torch.full(places.shape, -1.0, device=places.device), places.clone()
        for some, logits in self._seen(places, book, entries):
            surest, found = logits.softmax(-1).max(-1)
            for window, sure, place in zip(some, surest, found + entries.start, strict=True):
                better = sure > confidence[window]
                confidence[window][better], likeliest[window][better] = sure[better], place[better]
        return confidence, likeliest


def _windows(height: int, width: int) -> Iterator[Window]:
    """Windows that cover a map."""
    for top in _starts(height):
        for left in _starts(width):
            yield slice(top, top + WINDOW), slice(left, left + WINDOW)


def _starts(length: int) -> list[int]:
    return [*range(0, max(1, length - WINDOW), STEP), max(0, length - WINDOW)] if length > WINDOW else [0]
