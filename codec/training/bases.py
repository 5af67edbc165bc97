"""The functions that fits start from, one for each of some lambdas, with the analysis that guesses the grids.

All photos share the functions here, so what is learned is what photos have in common. The first stage learns them
together with the analysis, whose grids are rounded with gradients passed straight through. In the second they go on
learning while some photos at a time are fitted: fitted grids differ from those that an analysis can guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.tensor_file import check_shapes
from codec.entropy.integer_arm import WEIGHT_BITS
from codec.files import write
from codec.overfit import initialisation, reference_weights
from codec.overfit.analysis import Analysis
from codec.overfit.fit import Schedule as Annealing
from codec.overfit.fit import cost, soften
from codec.overfit.function import Function
from codec.overfit.spec import BICUBIC, Spec
from codec.training.data import Photos, PhotoTask, as_pictures
from codec.training.optimizers import MuonAndAdam, Schedule
from codec.training.weights import Weights, whole

CYCLE = Annealing(warm_up=0, main=250, settle=0)  # in which some photos are fitted


class Model(nn.Module):
    """Functions for all lambdas, and the analysis."""

    lambdas: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, count = spec, len(reference_weights.LAMBDAS)
        self.weights = Weights(plain_weights(spec, count))
        self.analysis = Analysis(reference_weights.OUTPUTS, count)
        self.register_buffer("lambdas", torch.tensor(reference_weights.LAMBDAS), persistent=False)

    def guess(self, pictures: Tensor) -> list[Tensor]:
        """Grids of pictures (batch, 3, h, w) under every function, one after the other."""
        grids = [g.repeat(len(self.lambdas), 1, 1, 1) for g in self.analysis(pictures)]
        return self.analysis.scale(grids, self._which(pictures))

    def cost(self, pictures: Tensor, grids: list[Tensor]) -> Tensor:
        """Cost (functions, batch) of every picture under every function, with these grids."""
        which = self._which(pictures)
        function = Function(self.spec, {name: w[which] for name, w in self.weights.named().items()}, grids)
        found = cost(function, pictures.repeat(len(self.lambdas), 1, 1, 1), self.lambdas[which])
        return found.view(len(self.lambdas), -1)

    def _which(self, pictures: Tensor) -> Tensor:
        return torch.arange(len(self.lambdas), device=pictures.device).repeat_interleave(len(pictures))


def plain_weights(spec: Spec, batch: int) -> dict[str, Tensor]:
    """Initial weights: random where layers must differ, bicubic upsampling, zero otherwise; (batch, ...) each."""
    gains = {"arm.hidden1": 0.3, "arm.hidden2": 0.3, "synthesis.hidden": 1 / 16, "synthesis.output": 1.0}
    weights = {}
    for name, shape in spec.weight_shapes.items():
        weights[name] = torch.zeros(batch, *shape)
        if name == "upsampling.taps":
            weights[name] += torch.tensor(BICUBIC)
        elif name in gains:
            weights[name] = torch.randn(batch, *shape) * gains[name] / math.sqrt(shape[-1])
    weights["synthesis.output_bias"] += 0.5
    return weights


class GuessTask(PhotoTask):
    """First stage, from photos.

    Args:
        photos: to train on.
        side: of the crops.
        count: crops at once; each goes through every function.
    """

    name = "bases, first stage"
    schedule = Schedule(3e-3, 100)
    model: Model

    def __init__(self, photos: Photos, side: int = 128, count: int = 3) -> None:
        super().__init__(photos, side, count)
        self.config: Mapping[str, Any] = {}
        torch.manual_seed(0)
        self.model = Model(reference_weights.trained_spec(side, side, reference_weights.OUTPUTS))

    def optimizer(self) -> MuonAndAdam:
        return MuonAndAdam([], self.model.parameters())

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        pictures = as_pictures(batch)
        grids = [g + (g.round() - g).detach() for g in self.model.guess(pictures)]
        costs = self.model.cost(pictures, grids).mean(1)
        return (costs / self.model.lambdas**0.6).sum(), named(costs)  # so that all weigh about alike

    def export(self, path: Path) -> None:
        """Write functions and analysis to a folder: these as integers in units of 2**-12, that as float16."""
        analysis = {name: w.half().cpu().contiguous() for name, w in self.model.analysis.state_dict().items()}
        for file, tensors in (
            (reference_weights.FILE, whole(self.model.weights.named())),
            (initialisation.FILE, analysis),
        ):
            write(path / file.name, save(tensors))


class Fitting(MuonAndAdam):
    """Adam for the functions, and for the grids of a cycle at the learning rate that fits have."""

    def __init__(self, model: Model) -> None:
        super().__init__([], model.weights.parameters())
        self.epsilon = CYCLE.epsilon(model.spec)
        self.begin([torch.zeros(1)])  # of no cycle yet

    def begin(self, grids: list[Tensor]) -> None:
        """Fit other grids from now on."""
        self.grids = [g.detach().clone().requires_grad_() for g in grids]
        self.adam = torch.optim.Adam(self.grids, eps=self.epsilon, fused=True)

    def softened(self, part: float) -> list[Tensor]:
        """The grids, almost rounded and with noise, when so much of the cycle is done."""
        temperature, spread = CYCLE.softness(part)
        self.adam.param_groups[0]["lr"], _ = CYCLE.learning_rates(part)
        self.adam.zero_grad()
        noise = spread * torch.randn_like(torch.cat([g.detach().flatten(1) for g in self.grids], 1))
        return soften(self.grids, noise, noise.new_tensor(temperature))

    def step(self, learning_rate: float) -> None:
        super().step(learning_rate)
        self.adam.step()

    def state(self) -> list[dict[str, Any]]:
        return [*super().state(), {"grids": self.grids, "adam": self.adam.state_dict()}]

    def load(self, states: list[dict[str, Any]]) -> None:
        *others, own = states
        super().load(others)
        self.begin(own["grids"])
        self.adam.load_state_dict(own["adam"])


class FitTask(GuessTask):
    """Second stage: in cycles, crops are fitted from guessed grids, while the functions learn from them.

    Args:
        start: folder with an export of the first stage.
    """

    name = "bases, second stage"

    def __init__(self, photos: Photos, start: Path, side: int = 128, count: int = 3) -> None:
        super().__init__(photos, side, count)
        self._start(start)
        self.config = {"side": side, "count": count}  # a cycle goes on with its grids
        self.model.analysis.requires_grad_(False)

    def optimizer(self) -> MuonAndAdam:
        self.fitting = Fitting(self.model)
        return self.fitting

    def batch(self, seed: int, iteration: int) -> Tensor:
        """(count, side, side, 3) in 0..255, the same for a complete cycle"""
        return super().batch(seed, iteration // CYCLE.main)

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        pictures, done = as_pictures(batch), iteration % CYCLE.main
        if not done:
            with torch.no_grad():
                self.fitting.begin(self.model.guess(pictures))
        costs = self.model.cost(pictures, self.fitting.softened(done / CYCLE.main))
        return costs.sum(), named(costs.mean(1))

    @torch.no_grad()
    def _start(self, folder: Path) -> None:
        for file, parameters, unit in (
            (reference_weights.FILE, self.model.weights.named(), 2.0**-WEIGHT_BITS),
            (initialisation.FILE, self.model.analysis.state_dict(), 1.0),
        ):
            path = folder / file.name
            try:
                tensors = load_file(path)
            except (SafetensorError, OSError) as error:
                raise ModelFileError(f"{path} is not a whole safetensors file ({error}): export it again") from error
            check_shapes(tensors, parameters, str(path))
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name] * unit)


def named(costs: Tensor) -> dict[str, Tensor]:
    """Costs (functions,) for the log, times 1000 as tables have them."""
    return {f"cost {lam:g}": 1000 * c for lam, c in zip(reference_weights.LAMBDAS, costs.detach(), strict=True)}
