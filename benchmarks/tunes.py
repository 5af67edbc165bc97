"""Judges of the same files of profile msp, shown for fidelity and for looks: what texture that is drawn costs.

    python benchmarks/tunes.py FOLDER --json tunes.json

Numbers cannot say what it is worth: see `pairs.py`.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import click
import torch
from common import ONLY, chosen, machine, numbers, table, write

import codec
from codec.profiles.options import TUNES
from codec.training.data import read_rgb
from codec.training.validation import JUDGES, judge


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--qualities", type=numbers, default="10,25,40,55,65", show_default=True)
@click.option("--effort", type=int, default=3, show_default=True)
@ONLY
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write all figures.")
def main(folder: Path, qualities: list[float], effort: int, only: str, threads: int, output: Path | None) -> None:
    """Judge both tunes for the photos in FOLDER."""
    torch.set_num_threads(threads)
    paths = chosen(folder, only)
    rows = []
    for quality in qualities:
        found: list[dict[str, float]] = []
        for photo in map(read_rgb, paths):
            data = codec.encode(photo, profile="msp", quality=quality, effort=effort)
            row = {"bpp": 8 * len(data) / photo[..., 0].size}
            for tune in TUNES:
                row |= {f"{name}, {tune}": value for name, value in judge(photo, codec.decode(data, tune=tune)).items()}
            found.append(row)
        drops = [row[f"{JUDGES[-1]}, {TUNES[0]}"] - row[f"{JUDGES[-1]}, {TUNES[1]}"] for row in found]
        means = {name: round(mean(row[name] for row in found), 4) for name in found[0]}
        rows.append({"quality": quality, **means, f"greatest loss of {JUDGES[-1]}": round(max(drops), 4)})
    click.echo(table([list(rows[0]), *([f"{value:.3f}" for value in row.values()] for row in rows)]))
    if output:
        figures = {"effort": effort, "photos": [path.stem for path in paths], "rows": rows}
        write(output, {**machine(threads), **figures})


if __name__ == "__main__":
    main()
