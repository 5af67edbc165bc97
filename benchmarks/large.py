"""Seconds and memory that large pictures take, a photo enlarged, each in a process of its own.

python benchmarks/large.py PHOTO --megapixels 12,48 --efforts 2,3 --json large.json
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import torch
from common import machine, numbers, peak, photo, table, write
from thumbnails import enlarged

import pillow_clric

COLUMNS = ("megapixels", "effort", "bpp", "encode_seconds", "decode_seconds", "encode_gigabytes", "decode_gigabytes")


def encoded(path: Path, megapixels: float, threads: int, options: dict[str, Any]) -> tuple[bytes, float, float]:
    """The file, seconds, and the process's peak memory in GB."""
    torch.set_num_threads(threads)
    picture = enlarged(photo(path), megapixels)
    start = time.perf_counter()
    data = pillow_clric.encode(picture, **options)
    return data, time.perf_counter() - start, peak() / 1000


def decoded(data: bytes, threads: int) -> tuple[int, float, float]:
    """Pixels, seconds, and the process's peak memory in GB."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    picture = pillow_clric.decode(data)
    return picture.width * picture.height, time.perf_counter() - start, peak() / 1000


def alone(function: Any, *arguments: Any) -> Any:
    """The function's result, of a process that does nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@click.command()
@click.argument("path", metavar="PHOTO", type=click.Path(exists=True, path_type=Path))
@click.option("--megapixels", type=numbers, default="12,48", show_default=True)
@click.option("--profile", default="msp", show_default=True)
@click.option("--efforts", type=numbers, default="2,3", show_default=True)
@click.option("--quality", default=50.0, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path))
def main(
    path: Path, megapixels: list[float], profile: str, efforts: list[float], quality: float, threads: int,
    output: Path | None,
) -> None:  # fmt: skip
    """Code PHOTO enlarged, and print a table."""
    rows: list[dict[str, float]] = []
    for size in megapixels:
        for effort in map(int, efforts):
            options = {"profile": profile, "quality": quality, "effort": effort}
            data, *encoding = alone(encoded, path, size, threads, options)
            pixels, *decoding = alone(decoded, data, threads)
            times, memory = zip(encoding, decoding, strict=True)
            figures = pixels / 1e6, effort, 8 * len(data) / pixels, *times, *memory
            rows.append({name: round(figure, 3) for name, figure in zip(COLUMNS, figures, strict=True)})
            click.echo(rows[-1])
            if output:
                settings = {"photo": path.name, "profile": profile, "quality": quality}
                write(output, {"machine": machine(threads), **settings, "rows": rows})
    names = [name.replace("_", ", ") for name in COLUMNS]
    click.echo(table([names, *([str(row[name]) for name in COLUMNS] for row in rows)]))


if __name__ == "__main__":
    main()
