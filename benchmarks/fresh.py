"""Time that a process takes that does nothing but decode one small photo, by part.

    OMP_NUM_THREADS=1 python benchmarks/fresh.py PHOTO --side 512 --json fresh.json

Each run is a process of its own. Profile `msp`, on the CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
from common import machine, photo, table, write

import pillow_clric

# What a process does: each part ends with a mark, of seconds on the clock and of the processor since the one before.
CHILD = """
import json, sys, time

marks, last = {}, [time.perf_counter(), 0.0]

def mark(name):
    now = [time.perf_counter(), time.process_time()]
    marks[name] = [b - a for a, b in zip(last, now)]
    last[:] = now

mark("Python")
import numpy
from PIL import Image
mark("importing NumPy and Pillow")
import pillow_clric
from codec.profiles.msp import decoder, latent_coding
mark("importing this package")
model = decoder.store.load("transform")
mark("reading the model and its hash")
decode = latent_coding.decode

def timed(*args, **options):
    mark("opening the file, proofs of the prior")
    symbols = decode(*args, **options)
    mark("prior and entropy coding")
    return symbols

latent_coding.decode = timed
pillow_clric.decode(open(sys.argv[1], "rb").read(), device="cpu")
mark("decoder's network, pixels")
assert "torch" not in sys.modules
print(json.dumps(marks))
"""


def run(file: Path) -> dict[str, list[float]]:
    """Seconds of the clock and of the processor that each part takes, in a new process."""
    told = subprocess.run([sys.executable, "-c", CHILD, str(file)], check=True, capture_output=True, text=True)
    parts: dict[str, list[float]] = json.loads(told.stdout)
    return parts


@click.command()
@click.argument("path", metavar="PHOTO", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--side", default=512, show_default=True, help="Pixels of the crop's sides.")
@click.option("--quality", default=60.0, show_default=True)
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "out", metavar="OUT", type=click.Path(path_type=Path), required=True, help="File of results.")
def main(path: Path, side: int, quality: float, repeat: int, out: Path) -> None:
    """Decode the upper left corner of PHOTO in new processes; medians."""
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    data = pillow_clric.encode(photo(path).crop((0, 0, side, side)), profile="msp", quality=quality, effort=1)
    with TemporaryDirectory() as folder:
        file = Path(folder, "x.clric")
        file.write_bytes(data)
        run(file)  # so that all files are in the system's cache
        runs = [run(file) for _ in range(repeat)]
    parts = {name: [median(each[name][i] for each in runs) for i in range(2)] for name in runs[0]}
    parts["whole"] = [median(sum(part[i] for part in each.values()) for each in runs) for i in range(2)]
    results: dict[str, Any] = {"machine": machine(threads), "side": side, "bytes": len(data), "repeat": repeat}
    results["points"] = [{"name": name, "seconds": a, "processor_s": b} for name, (a, b) in parts.items()]
    write(out, results)
    rows = [["part", "s", "processor s", "of processor time"]]
    total = parts["whole"][1]
    rows += [[name, f"{a:.2f}", f"{b:.2f}", f"{b / total:.0%}"] for name, (a, b) in parts.items()]
    click.echo(table(rows))


if __name__ == "__main__":
    main()
