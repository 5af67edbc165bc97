"""Training of what knows codebook indices: the prior that they are coded under, and the transformer that fills them in.

Both learn from maps of an encoder that stays as it is, with codebooks of all sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.model_file import Model as ModelFile
from codec.autoencoders.model_file import build, loaded
from codec.autoencoders.networks import vq
from codec.autoencoders.networks.index_transformer import UNKNOWN, WINDOW, IndexTransformer
from codec.autoencoders.networks.integer_index_prior import CODE
from codec.autoencoders.networks.vq import Config, IndexConfig
from codec.autoencoders.tensor_file import Arrays, check_shapes
from codec.device import reduced_precision
from codec.entropy.layers import narrowed
from codec.training import models
from codec.training.data import Photos, PhotoTask, as_pictures
from codec.training.index_prior import IndexPrior
from codec.training.optimizers import MuonAndAdam, Schedule, wide
from codec.training.quantisation import dequantised_indices, quantised_indices
from codec.training.vq import Model, read_codebooks

NAME = "vq"
LATTICES, BLOCKS = (2, 3, 4), (2, 4, 8)  # periods of indices that are lost together, and sides of areas that are


class Indices(nn.Module):
    """The networks that are trained."""

    def __init__(self, starts: tuple[int, ...], config: IndexConfig) -> None:
        super().__init__()
        self.prior = IndexPrior(starts, config.hidden)
        self.transformer = IndexTransformer(starts, config.width, config.layers, config.heads)


class IndexTask(PhotoTask):
    """Training of prior and transformer.

    Args:
        weights: what the training of the autoencoder exported, or a model for profile `vq`.
        side: of the crops, at least that of the windows that the transformer sees.
        count: crops at once.
        start: a model for profile `vq` whose prior and transformer to start from.
    """

    name = "vq-indices"
    schedule = Schedule(1.5e-3, 100)
    model: Indices

    def __init__(
        self, config: IndexConfig, photos: Photos, weights: Path, side: int, count: int, start: Path | None = None
    ) -> None:
        super().__init__(photos, side, count)
        self.indices = config
        network, found = read_codebooks(weights)
        self.config: Mapping[str, Any] = {
            "indices": asdict(self.indices), "weights": models.fingerprint(weights),
        }  # fmt: skip
        torch.manual_seed(0)
        trained = Model(network)
        trained.load_state_dict(found)
        self.autoencoder = trained.autoencoder.requires_grad_(False).eval()
        self.model = Indices(network.starts, self.indices)
        if start is None:
            self._start(network, trained.use)
        else:
            self._go_on(models.read(start, "vq"))

    def _go_on(self, model: ModelFile) -> None:
        """Begin as prior and transformer of a model with as many entries."""
        known = build(model).state_dict().items()
        transformer = {name.removeprefix("transformer."): w for name, w in known if name.startswith("transformer.")}
        prior = dequantised_indices(loaded(vq.parts(model.config), model).prior)
        for part, state in ((self.model.prior, prior), (self.model.transformer, transformer)):
            check_shapes(state, part.state_dict(), model.name)
            part.load_state_dict(state)

    @torch.no_grad()
    def _start(self, network: Config, use: Tensor) -> None:
        """Begin with what codebooks say: which entries are alike, and how frequent they were in their training."""
        prior, transformer = self.model.prior, self.model.transformer
        entries = self.autoencoder.entries / self.autoencoder.entries.std()
        count = min(CODE, entries.shape[1])
        prior.code[:, :count] = entries[:, :count]
        mixed = torch.randn(entries.shape[1], transformer.entries.shape[1]) * entries.shape[1] ** -0.5
        transformer.entries.copy_(0.5 * entries @ mixed)
        sizes = torch.tensor(network.sizes)
        totals = torch.stack([part.sum() for part in use.split(network.sizes)]).repeat_interleave(sizes)
        frequency = (use / totals).clamp_min(1e-5).log()
        for bias in (prior.first, prior.output.bias, transformer.bias):
            bias.copy_(frequency)

    def optimizer(self) -> MuonAndAdam:
        prior = self.model.prior
        tables = [prior.code, prior.first, prior.bias, prior.condition, self.model.transformer.entries]
        fast = [prior.first, prior.bias]
        return MuonAndAdam(wide(self.model, but=tables), self.model.parameters(), fast=fast)

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        pictures, autoencoder, device = as_pictures(batch), self.autoencoder.to(batch.device), batch.device
        sizes = torch.tensor(autoencoder.config.sizes, device=device)
        books = (torch.randperm(len(pictures), device=device) + iteration) % len(sizes)
        with torch.no_grad(), reduced_precision(device):
            places = autoencoder.quantised(autoencoder.encode(pictures, books), books)[1]
        with reduced_precision(device):
            coded = self.model.prior(places, books).mean((1, 2)) / sizes[books].log()
            filled = self._filled(places[:, :WINDOW, :WINDOW], books)
        figures = {"of log2(K)": coded.detach().mean(), "filled in": filled.detach()}
        return coded.mean() + filled, figures

    def _filled(self, places: Tensor, books: Tensor) -> Tensor:
        """Cross entropy of indices that are lost, given the others, in log2(K)."""
        transformer, sizes = self.model.transformer, torch.tensor(self.autoencoder.config.sizes, device=books.device)
        lost = lost_indices(places)
        features = transformer(places.masked_fill(lost, UNKNOWN), books)
        losses = []
        for book in books.unique().tolist():
            own = books == book
            entries = slice(transformer.starts[book], transformer.starts[book + 1])
            logits = transformer.logits(features[own], entries)[lost[own]].float()
            loss = F.cross_entropy(logits, places[own][lost[own]] - entries.start, reduction="sum")
            losses.append(loss / sizes[book].log())
        return torch.stack(losses).sum() / lost.sum().clamp_min(1)

    def export(self, path: Path) -> None:
        """Write a model for profile `vq`."""
        models.write(self._model(), path)

    def _model(self) -> ModelFile:
        autoencoder, transformer = self.autoencoder, self.model.transformer
        floats = dict(autoencoder.state_dict())
        floats |= {f"transformer.{name}": weight for name, weight in transformer.state_dict().items()}
        whole = {f"prior.{name}": numbers for name, numbers in quantised_indices(self.model.prior).items()}
        tensors = {name: weight.detach().half().cpu() for name, weight in floats.items()}
        config = {"autoencoder": asdict(autoencoder.config), "indices": asdict(self.indices)}
        return ModelFile(NAME, "vq", config, (), (), {**tensors, **Arrays(narrowed(whole))})


def lost_indices(places: Tensor) -> Tensor:
    """Random indices that are lost in maps (count, height, width), bool.

    Of each map it is any part, at random: single ones, those of some phases of a lattice, or areas.
    """
    (count, height, width), device = places.shape, places.device
    share = torch.rand(count, 1, 1, device=device)
    single = torch.rand(count, height, width, device=device) < share
    period, side = (options[int(torch.randint(len(options), ()))] for options in (LATTICES, BLOCKS))
    phases = torch.rand(count, period, period, device=device) < share
    lattice = phases.repeat(1, -(-height // period), -(-width // period))[:, :height, :width]
    squares = torch.rand(count, -(-height // side), -(-width // side), device=device) < share
    areas = squares.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, :height, :width]
    kind = torch.randint(3, (count, 1, 1), device=device)
    return torch.where(kind == 0, single, torch.where(kind == 1, lattice, areas))
