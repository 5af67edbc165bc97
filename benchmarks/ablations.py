"""Compare configurations of the learned transform, each trained from the beginning for the same processor time.

    python benchmarks/ablations.py DATA --folder ablations --core-hours 1 --only baseline,fine192 --json ablations.json

DATA is the folder that `python -m codec.training transform` trains with. Each has a folder of its own, from which an
interrupted one goes on. Their figures are of the averaged weights, at a learning rate that stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from common import machine, table, write
from torch import Tensor, nn

from codec.autoencoders.networks.transform_config import Config
from codec.distortion.pixels import COARSE, coarse_error, squared_error
from codec.overfit.soap import EVERY, Soap
from codec.training.loop import Budget, Loop, read_log
from codec.training.optimizers import SPEED, MuonAndAdam, Schedule, wide
from codec.training.transform import Settings, TransformTask
from codec.training.validation import JUDGES, compare, photos_and_validation

BASELINE = Settings(network=Config(latent=192, expansion=2))
WARM_UP = 100  # iterations


class SoapAndAdam(MuonAndAdam):
    """SOAP for some kernels, each as a matrix that shares its memory, and Adam for the rest.

    Args:
        kernels, parameters, fast, speed: as of `MuonAndAdam`.
    """

    def __init__(
        self, kernels: Iterable[nn.Parameter], parameters: Iterable[nn.Parameter], fast: Iterable[nn.Parameter],
        speed: float,
    ) -> None:  # fmt: skip
        self.kernels = {kernel: kernel.detach().view(1, len(kernel), -1).requires_grad_() for kernel in kernels}
        own = {id(kernel) for kernel in self.kernels}
        super().__init__([], [p for p in parameters if id(p) not in own], fast=fast, speed=speed)
        self.soap, self.steps = Soap(self.kernels.values()), 0
        self.soap.param_groups[0]["times"] = 1.0
        self.optimizers.append(self.soap)

    def step(self, learning_rate: float) -> None:
        for kernel, matrix in self.kernels.items():
            assert kernel.grad is not None
            matrix.grad = kernel.grad.view_as(matrix)
        super().step(learning_rate)
        self.steps += 1
        if self.steps % EVERY == 0:
            self.soap.turn()


class SoapTask(TransformTask):
    """The training with SOAP in Muon's place."""

    def optimizer(self) -> MuonAndAdam:
        return SoapAndAdam(wide(self.model, but=self.fast), self.model.parameters(), self.fast, SPEED)


def without_structure(made: Tensor, pictures: Tensor) -> Tensor:
    """Squared and coarse errors of pictures (batch, 3, h, w): (batch,)."""
    return squared_error(made, pictures) + COARSE * coarse_error(made, pictures)


@dataclass(frozen=True)
class Variant:
    """A configuration of the training.

    Attributes:
        rate: learning rate where it stays.
    """

    settings: Settings = BASELINE
    rate: float = 1.2e-3
    task: type[TransformTask] = TransformTask


def _network(**changed: Any) -> Variant:
    return Variant(replace(BASELINE, network=replace(BASELINE.network, **changed)))


VARIANTS = {
    "baseline": Variant(),
    "fine160": _network(fine=160),
    "fine192": _network(fine=192),
    "blocks3": _network(decoder=(3, 2)),
    "latent128": _network(latent=128),
    "latent320": _network(latent=320),
    "expansion1": _network(expansion=1),
    "adam": Variant(replace(BASELINE, muon=False), 6e-4),
    "soap": Variant(rate=6e-4, task=SoapTask),
    "without-structure": Variant(replace(BASELINE, distortion=without_structure)),
    "batch16": Variant(replace(BASELINE, batch=16)),
}


def train(name: str, data: Path, folder: Path, core_hours: float) -> None:
    """Train one of the variants, and validate it at the end, with Kodak's photos only."""
    variant = VARIANTS[name]
    photos, validation = photos_and_validation(data, folder / "cache", variant.settings.side)
    validation = replace(validation, sets=dict(list(validation.sets.items())[-1:]))
    task = variant.task(variant.settings, photos, validation, compiled=True)
    loop = Loop(task, folder / name, Schedule(variant.rate, WARM_UP))
    loop.run(Budget(core_hours=core_hours))
    loop.validate()


def row(name: str, folder: Path) -> dict[str, Any]:
    """Figures of one that was trained: BD-rates by judge against AVIF, of the set that was validated last."""
    lines = read_log(folder / name)
    figures = list(lines[-1]["validation"].values())[-1]
    config = VARIANTS[name].settings.network
    return {
        "name": name, "decoder_kmacs": round(config.macs["decoder"], 1), "iterations": lines[-1]["iteration"],
        "core_hours": lines[-1]["core_hours"], **figures,
    }  # fmt: skip


def against_baseline(found: dict[str, Any], baseline: dict[str, Any], metric: str) -> str:
    """BD-rate against the baseline."""
    change = compare(found["points"], baseline["points"], metric)
    return "-" if change is None else f"{change:+.1f} %"


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="For checkpoints and logs.")
@click.option("--core-hours", type=float, default=1.0, show_default=True)
@click.option("--only", default=",".join(VARIANTS), help="Names with commas between them.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write all figures.")
def main(data: Path, folder: Path, core_hours: float, only: str, output: Path | None) -> None:
    """Train the variants one after the other, each with one thread, and compare them."""
    torch.set_num_threads(1)
    names = only.split(",")
    for name in names:
        start = time.monotonic()
        train(name, data, folder, core_hours)
        click.echo(f"{name}: {time.monotonic() - start:.0f} s")
    rows = [row(name, folder) for name in names]
    baseline = next((r for r in rows if r["name"] == "baseline"), None)
    header = ["variant", "decoder, kMAC/px", "iterations", *(f"{m} against AVIF" for m in JUDGES)]
    header += [f"{m} against baseline" for m in JUDGES] if baseline else []
    cells = [header]
    for r in rows:
        line = [r["name"], str(r["decoder_kmacs"]), str(r["iterations"]), *(f"{r['bd_rate'][m]} %" for m in JUDGES)]
        cells.append(line + ([against_baseline(r, baseline, m) for m in JUDGES] if baseline else []))
    click.echo(table(cells))
    if output:
        write(output, {"machine": machine(1), "core_hours": core_hours, "rows": rows})


if __name__ == "__main__":
    main()
