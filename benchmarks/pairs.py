"""Pairs of crops to be judged by eye, of one profile and of AVIF or another one of equal size, without knowing which.

    python benchmarks/pairs.py make FOLDER --profile msp --rates 0.06,0.12,0.25 --out PAIRS
    python benchmarks/pairs.py make FOLDER --profile vq --against clric --rates 0.024 --out PAIRS
    python benchmarks/pairs.py make FOLDER --tune looks --against msp --out PAIRS
    python benchmarks/pairs.py count PAIRS ANSWERS

`make` leaves numbered pictures in PAIRS: the photo in the middle, the two codings at its sides, above a crop as it is
and below its middle twice as large; and key.json, which says what is where, and which nobody may look at before all are
judged. Places of crops are drawn by the photo's name. A run that was interrupted goes on. ANSWERS is a text of lines
such as "12 left", "13 right" or "14 equal", of the pictures' numbers; `count` says how often the profile was preferred,
by rate.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import ONLY, chosen, numbers, table, write
from numpy.typing import NDArray
from PIL import Image
from smallest import Coded, best_avif, coded

import codec
from codec.training.data import middle, read_rgb

Pixels = NDArray[np.uint8]

CROP, SMALLER = 320, (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
GAP = 8


def crop(pictures: list[Pixels], chance: random.Random) -> list[Pixels]:
    """The same part of all pictures, at a place where the first one is not nearly flat."""
    height, width = pictures[0].shape[:2]
    while True:
        top, left = chance.randrange(max(1, height - CROP + 1)), chance.randrange(max(1, width - CROP + 1))
        parts = [picture[top : top + CROP, left : left + CROP] for picture in pictures]
        if parts[0].std() >= pictures[0].std() / 2:
            return parts


def sheet(parts: list[Pixels]) -> Image.Image:
    """Parts side by side, and below them the middle of each, twice as large."""
    made = Image.new("RGB", (len(parts) * (CROP + GAP) - GAP, 2 * CROP + GAP), "white")
    for column, part in enumerate(parts):
        inner = Image.fromarray(middle(part, CROP // 2))
        made.paste(Image.fromarray(part), (column * (CROP + GAP), 0))
        twice = inner.resize((2 * inner.width, 2 * inner.height), Image.Resampling.NEAREST)
        made.paste(twice, (column * (CROP + GAP), CROP + GAP))
    return made


def codings(photo: Pixels, options: Mapping[str, Any], against: str, rate: float) -> tuple[Coded, Coded]:
    """The photo in so many bits per pixel, and in no more bytes what it is compared with.

    AVIF is in the number of pixels that measures best.
    """
    ours = coded(photo, target_size=round(rate * photo[..., 0].size / 8), **options)
    if against == "avif":
        return ours, best_avif(photo, ours[0], SMALLER)
    return ours, coded(photo, against, target_size=ours[0])


@click.group()
def main() -> None:
    """Make pairs of crops, or count what was preferred."""


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--profile", default="msp", show_default=True)
@click.option("--against", default="avif", show_default=True, help="Or another profile.")
@click.option("--effort", type=int, default=3, show_default=True)
@click.option("--tune", help="As of the profile, for its side of the pairs.")
@click.option("--rates", type=numbers, default="0.06,0.12,0.25", show_default=True, help="Bits per pixel.")
@ONLY
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def make(
    folder: Path, profile: str, against: str, effort: int, tune: str | None, rates: list[float], only: str, seed: int,
    out: Path,
) -> None:  # fmt: skip
    """Make pairs of the photos in FOLDER."""
    options = {"profile": profile, "effort": effort, **({"tune": tune} if tune else {})}
    out.mkdir(parents=True, exist_ok=True)
    paths = chosen(folder, only)
    wanted = [(path, rate) for path in paths for rate in rates]
    random.Random(seed).shuffle(wanted)
    told = out / "key.json"
    key: dict[str, dict[str, Any]] = json.loads(told.read_text()) if told.exists() else {}
    for number, (path, rate) in enumerate(wanted, 1):
        if str(number) in key:
            continue
        photo = read_rgb(path)
        try:
            (size, ours), (other_size, other) = codings(photo, options, against, rate)
        except codec.BatchError as error:
            click.echo(f"{path.stem} at {rate:g} bits per pixel is left out: {error}")
            continue
        chance = random.Random(f"{seed} {path.stem} {rate}")
        original, our, their = crop([photo, ours, other], chance)
        ours_left = chance.random() < 0.5
        sheet([our, original, their] if ours_left else [their, original, our]).save(out / f"{number:03d}.png")
        key[str(number)] = {
            "photo": path.stem, "rate": rate, "ours": "left" if ours_left else "right",
            "bytes": size, "other_bytes": other_size,
        }  # fmt: skip
        write(told, key)


@main.command()
@click.argument("pairs", type=click.Path(exists=True, path_type=Path))
@click.argument("answers", type=click.Path(exists=True, path_type=Path))
def count(pairs: Path, answers: Path) -> None:
    """Count how often the profile was preferred."""
    key = json.loads((pairs / "key.json").read_text())
    found: dict[float, Counter[str]] = {}
    for line in answers.read_text().splitlines():
        if line.strip():
            number, answer = line.split()[:2]
            told = key[str(int(number))]
            name = "equal" if answer == "equal" else "ours" if answer == told["ours"] else "other"
            found.setdefault(told["rate"], Counter())[name] += 1
    rows = [[f"{rate:g}", *(str(found[rate][name]) for name in ("ours", "equal", "other"))] for rate in sorted(found)]
    click.echo(table([["bits per pixel", "ours", "equal", "other"], *rows]))


if __name__ == "__main__":
    main()
