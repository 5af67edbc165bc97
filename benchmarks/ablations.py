"""Compare configurations of the learned transform, each trained from the beginning for the same processor time.

    python benchmarks/ablations.py DATA --folder ablations --core-hours 1 --only baseline,fine192 --json ablations.json

DATA is the folder that `python -m codec.training transform` trains with. Each has a folder of its own, from which an
interrupted one goes on. Their figures are of the averaged weights, at a learning rate that stays.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from common import machine, table, write

from codec.autoencoders.networks.transform_config import Config
from codec.training.loop import Budget, Loop, read_log
from codec.training.optimizers import Schedule
from codec.training.transform import Settings, TransformTask
from codec.training.validation import JUDGES, compare, photos_and_validation

BASELINE = Settings()
VARIANTS = {
    "baseline": BASELINE,
    "fine160": replace(BASELINE, network=Config(fine=160)),
    "fine192": replace(BASELINE, network=Config(fine=192)),
    "blocks3": replace(BASELINE, network=Config(decoder=(3, 2))),
    "latent320": replace(BASELINE, network=Config(latent=320)),
    "expansion3": replace(BASELINE, network=Config(expansion=3)),
    "adam": replace(BASELINE, muon=False),
    "batch16": replace(BASELINE, batch=16),
    "double-rate": BASELINE,
}
RATES = {"adam": 6e-4, "double-rate": 2.4e-3}  # learning rates other than the usual


def train(name: str, data: Path, folder: Path, core_hours: float) -> None:
    """Train one of the variants, and validate it at the end."""
    settings = VARIANTS[name]
    photos, validation = photos_and_validation(data, folder / "cache", settings.side)
    task = TransformTask(settings, photos, validation)
    loop = Loop(task, folder / name, Schedule(RATES.get(name, 1.2e-3), 500))
    loop.run(Budget(core_hours=core_hours))
    loop.validate()


def row(name: str, folder: Path) -> dict[str, Any]:
    """Figures of one that was trained: BD-rates by judge against AVIF, of the set that was validated last."""
    lines = read_log(folder / name)
    figures = list(lines[-1]["validation"].values())[-1]
    config = VARIANTS[name].network
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
