"""Curves of a training, from its log."""

from __future__ import annotations

from pathlib import Path

from codec.training.loop import read_log
from codec.training.validation import JUDGES

NAMES = dict(zip(JUDGES, ("PSNR", "MS-SSIM", "SSIMULACRA2"), strict=True))


def draw(folder: Path, path: Path) -> None:
    """Plot the loss, and BD-rates against AVIF by set and judge, over core-hours."""
    from matplotlib.figure import Figure

    lines = read_log(folder)
    losses = [(line["core_hours"], line["loss"]) for line in lines if "loss" in line]
    validations = [line for line in lines if "validation" in line]
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([hours for hours, _ in losses], [loss for _, loss in losses], linewidth=1)
    left.set(ylabel="loss", xlabel="core-hours")
    for label, style in zip(validations[-1]["validation"] if validations else (), ("--", "-"), strict=False):
        for colour, metric in enumerate(JUDGES):
            found = [(line["core_hours"], line["validation"][label]["bd_rate"][metric]) for line in validations]
            points = [(hours, rate) for hours, rate in found if rate is not None]
            if points:
                name = f"{NAMES[metric]}, {label}"
                right.plot(*zip(*points, strict=True), f"o{style}", color=f"C{colour}", markersize=3, label=name)
    right.set(xlabel="core-hours", ylabel="BD-rate against AVIF, %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    if right.lines:
        right.legend()
    figure.savefig(path, dpi=120)
