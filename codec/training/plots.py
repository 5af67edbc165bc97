"""Curves of a training, from its log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from codec.training.loop import read_log


def draw(folder: Path, path: Path) -> None:
    """Plot a training over core-hours: its loss, and each of the validations' figures with a line for each of its sets.

    Figures of validations are numbers in nested dictionaries: those at the top are of sets.
    """
    from matplotlib.figure import Figure

    lines = read_log(folder)
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {"loss": {"": []}}
    for line in lines:
        if "loss" in line:
            panels["loss"][""].append((line["core_hours"], line["loss"]))
        for label, figures in line.get("validation", {}).items():
            for name, value in _numbers(figures):
                panels.setdefault(name, {}).setdefault(label, []).append((line["core_hours"], value))
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    for axes, (name, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for label, points in curves.items():
            axes.plot(*zip(*points, strict=True), marker="o" if label else "", markersize=3, linewidth=1, label=label)
        axes.set(xlabel="core-hours", ylabel=name)
        axes.grid(alpha=0.3)
        if any(curves):
            axes.legend()
    figure.savefig(path, dpi=120)


def _numbers(figures: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in there, with the names of what they are in."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{above}{name}, ")
        elif isinstance(value, int | float):
            yield f"{above}{name}", value
