"""Priors of a learned transform, one for each preset, on latents of its encoder, which stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codec.autoencoders.model_file import Model, loaded
from codec.autoencoders.networks import msp
from codec.autoencoders.networks.coding_order import PRESETS
from codec.autoencoders.networks.dequantisation import dequantised
from codec.autoencoders.networks.integer_prior import LOG
from codec.autoencoders.networks.progressive_prior import HIDDEN, ProgressivePrior, laplace_bits
from codec.autoencoders.networks.transform_config import Config
from codec.autoencoders.tensor_file import Arrays
from codec.device import reduced_precision
from codec.entropy.layers import narrowed
from codec.training import models
from codec.training.cost import draw_mixed
from codec.training.data import Photos, PhotoTask, as_pictures
from codec.training.optimizers import MuonAndAdam, Schedule, wide
from codec.training.quantisation import State, quantised, whole
from codec.training.transform import USUAL, Settings, read_weights
from codec.training.transform import Model as TransformModel

NAME = "transform"


class Priors(nn.Module):
    """The priors that are trained, and the transform, which is no part of the state."""

    def __init__(self, config: Config, presets: Sequence[str]) -> None:
        super().__init__()
        self.priors = nn.ModuleDict(
            {name: ProgressivePrior(PRESETS[name], config.latent, config.knots) for name in presets}
        )


class PriorTask(PhotoTask):
    """Training of priors, those of all presets with the same latents.

    Args:
        weights: file of a transform and its usual prior, as `read_weights` takes it, of the shape that settings say.
        presets: names among `PRESETS`.
        start: a model whose priors the others start from; without it they start as the usual one, where they can.
    """

    name = "prior"
    schedule = Schedule(1.2e-3, 100)
    model: Priors

    def __init__(
        self, settings: Settings, photos: Photos, weights: Path, presets: Sequence[str], start: Path | None = None
    ) -> None:
        super().__init__(photos, settings.side, settings.batch)
        self.settings, self.presets = settings, list(presets)
        self.config: Mapping[str, Any] = {
            "network": asdict(settings.network), "presets": self.presets,
            "weights": models.fingerprint(weights),
        }  # fmt: skip
        torch.manual_seed(0)
        trained = TransformModel(settings.network)
        trained.load_state_dict(read_weights(weights)[1])
        self.transform = trained.transform.requires_grad_(False).eval()
        self.model = Priors(settings.network, presets)
        for name in presets:
            self._start(name, trained.prior)
        for name, prior in {} if start is None else read_integers(start).prior.items():
            if name in presets and name != USUAL:
                self.model.priors[name].load_state_dict(dequantised(prior).state_dict())

    def _start(self, name: str, usual: ProgressivePrior) -> None:
        """Begin as the usual prior, as far as layers have the same inputs and outputs."""
        known, own = usual.state_dict(), self.model.priors[name].state_dict()
        for key, numbers in own.items():
            if key.endswith(".embed.weight"):  # what the preset knows beside that comes last
                numbers[:, : known[key].shape[1]] = known[key]
            elif key in known and known[key].shape == numbers.shape:
                numbers.copy_(known[key])

    def optimizer(self) -> MuonAndAdam:
        fast = [p for name, p in self.model.named_parameters() if name.endswith((".log_scale", ".mean"))]
        return MuonAndAdam(wide(self.model, but=fast), self.model.parameters(), fast=fast)

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        pictures, transform = as_pictures(batch), self.transform.to(batch.device)
        lambdas = draw_mixed(len(pictures), batch.device, self.settings.usual, self.settings.network.lambdas)
        knots, gains = transform.knot_weights(lambdas), transform.gains(lambdas)
        with reduced_precision(batch.device):
            with torch.no_grad():
                scaled = transform.encode(pictures, lambdas) * gains
            symbols = scaled.round()
            found = {name: prior(symbols / gains, knots) for name, prior in self.model.priors.items()}
        loss, figures = lambdas.new_zeros(()), {}
        for name, distributions in found.items():
            bits = laplace_bits(symbols, *distributions.scaled(gains)).flatten(1).sum(1)
            bpp = bits / pictures[0, 0].numel()
            loss = loss + 10 * (lambdas.sqrt() * bpp).mean()
            figures[f"bpp of {name}"] = bpp.detach().mean()
        return loss, figures

    def export(self, path: Path) -> None:
        """Write a model for profile `msp`."""
        models.write(self._model(), path)

    def _model(self) -> Model:
        networks = {"encoder": self.transform.encoder, "decoder": self.transform.decoder}
        tensors = {f"{part}.{n}": w.half().cpu() for part, own in networks.items() for n, w in own.state_dict().items()}
        integers: State = {"gains.log": whole(self.transform.log_gain * LOG)}
        for name, prior in self.model.priors.items():
            assert isinstance(prior, ProgressivePrior)
            integers |= {f"prior.{name}.{key}": numbers for key, numbers in quantised(prior).items()}
        config = {"transform": asdict(self.settings.network), "presets": self.presets, "hidden": HIDDEN}
        return Model(NAME, "msp", config, (), (), {**tensors, **Arrays(narrowed(integers))})


def read_integers(path: Path) -> msp.Parts:
    """Return what a model for profile `msp` has in integers.

    Raises:
        ModelFileError: its file is damaged, or of another kind.
    """
    model = models.read(path, "msp")
    return loaded(msp.parts(model.config), model)
