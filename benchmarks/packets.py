"""Files in packets: how much larger they are, and pictures of those of which packets are lost.

    python benchmarks/packets.py FOLDER --lpips WEIGHTS --json packets.json
    python benchmarks/packets.py FOLDER --profile msp --resilience 4 --seeds 10 --json packets-msp.json

Of profile vq, for each codebook, whole files of the photos in FOLDER: bits per pixel, bits of an index in log2(K),
PSNR, MS-SSIM, and LPIPS with `--lpips`, and how much more a file takes by resilience, and how much of that is parity.
Then of files with the largest codebook the same of pictures of which some packets are overwritten, those for parity
among them, at random or in one burst, over some seeds. Of profile msp, at some qualities, how much more a file takes
by resilience, and PSNR of such pictures.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import click
import numpy as np
import torch
from common import ONLY, chosen, machine, numbers, table, write
from numpy.typing import NDArray
from PIL import Image

import codec
from codec import DamageWarning, metrics, unpack
from codec.autoencoders.networks.transform_config import DOWNSCALE
from codec.lpips import Lpips
from codec.profiles import by_id, packets
from codec.profiles.msp import bitstream
from codec.profiles.packets import Packets
from codec.profiles.vq import profile as vq
from codec.training.data import middle, read_rgb

Pixels = NDArray[np.uint8]
Judge = Callable[[Pixels, Pixels], dict[str, float]]

QUALITIES = tuple(100 * (book + 1) / 8 for book in range(8))  # of each codebook's largest files


RESILIENCES = (0, 1, 3, 4, 6, 9)  # of which sizes are compared, in profile msp
LAYOUTS = {"vq": vq.PACKETS, "msp": bitstream.PACKETS}


def psnr(photo: Pixels, made: Pixels) -> dict[str, float]:
    return {"psnr": metrics.psnr(photo, made)}


def judge_with(lpips: Path | None) -> Judge:
    """Distances of pictures (height, width, 3)."""
    distance = Lpips.load(lpips) if lpips else None

    def judge(photo: Pixels, made: Pixels) -> dict[str, float]:
        found = metrics.measure(photo, made, distance)
        return {**found, "msssim": metrics.decibels(found["msssim"])}

    return judge


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(mean(row[key] for row in rows), 4) for key in rows[0]}


def whole(photos: list[Pixels], quality: float, judge: Judge) -> dict[str, float]:
    """Means of files without damage."""
    rows = []
    for photo in photos:
        start = time.monotonic()
        data = codec.encode(photo, profile="vq", quality=quality)
        coded = time.monotonic()
        made, size = codec.decode(data), codec.describe(data)["codebook"]
        decoded = time.monotonic()
        count = math.prod(-(-side // DOWNSCALE) for side in photo.shape[:2])
        bits = 8 * (len(data) - unpack(data).header.size) / count
        pixels = photo[..., 0].size
        row = {"codebook": size, "bpp": 8 * len(data) / pixels, "of log2(K)": bits / math.log2(size)}
        times = {"encode_s": (coded - start) / pixels * 1e6, "decode_s": (decoded - coded) / pixels * 1e6}
        rows.append({**row, **judge(photo, made), **times})
    return means(rows)


def lost(data: bytes, share: float, burst: bool, generator: np.random.Generator) -> list[int]:
    """Numbers of packets of a file that are lost, those for parity among them: any, or some that follow each other."""
    numbers = list(all_packets(data))
    some = max(1, round(share * len(numbers)))
    if burst:
        start = int(generator.integers(len(numbers)))
        return (numbers[start:] + numbers[:start])[:some]
    return [int(number) for number in generator.choice(numbers, some, replace=False)]


def packets_of(data: bytes) -> Packets:
    container = unpack(data)
    return LAYOUTS[by_id(container.header.profile).name].of(container)


def all_packets(data: bytes) -> dict[int, bytes]:
    """All packets of a whole file, by number, in their order."""
    found = packets_of(data)
    return {n: packets.packet(found.head, n, stream) for n, stream in {**found.streams, **found.parity}.items()}


def damaged(data: bytes, numbers_lost: list[int]) -> bytes:
    """The file with some of its packets overwritten."""
    parts = all_packets(data)
    section = b"".join(bytes(len(part)) if number in numbers_lost else part for number, part in parts.items())
    return data[: len(data) - len(section)] + section


def parity_size(data: bytes) -> int:
    """Bytes of a file's parity packets."""
    found = packets_of(data)
    return sum(len(packets.packet(found.head, number, row)) for number, row in found.parity.items())


def sizes_by(photos: list[Pixels], resiliences: Iterable[int], **options: Any) -> tuple[dict[int, int], dict[int, int]]:
    """Means of bytes of files by resilience, and of those that are parity."""
    sizes, parity = dict[int, int](), dict[int, int]()
    for r in resiliences:
        files = [codec.encode(photo, resilience=r, **options) for photo in photos]
        sizes[r], parity[r] = round(mean(map(len, files))), round(mean(map(parity_size, files))) if r else 0
        ratio = sizes[r] / sizes[min(sizes)]
        click.echo(f"{options}, resilience {r}: {sizes[r]} bytes, {ratio:.3f} times; parity {parity[r]}")
    return sizes, parity


def losses(
    photos: list[Pixels], shares: list[float], seeds: int, judge: Judge, **options: Any
) -> Iterator[dict[str, Any]]:
    """Means of pictures by the share of packets that are lost, the first of none."""
    files = [codec.encode(photo, **options) for photo in photos]
    sizes = mean(len(data) for data in files)
    undamaged = [judge(photo, codec.decode(data)) for photo, data in zip(photos, files, strict=True)]
    yield {"lost": 0.0, "bytes": round(sizes), **means(undamaged)}
    for share in shares:
        for burst in (False, True):
            rows = []
            for i, (photo, data) in enumerate(zip(photos, files, strict=True)):
                whole_streams = packets_of(data).streams
                for seed in range(seeds):
                    gone = lost(data, share, burst, np.random.default_rng([i, seed]))
                    file = damaged(data, gone)
                    if packets_of(file).streams != whole_streams:
                        rows.append(judge(photo, codec.decode(file)))
                    else:  # restored exactly
                        rows.append(undamaged[i])
            yield {"lost": share, "burst": burst, "pictures": len(rows), **means(rows)}


def sheet(photos: list[Pixels], resilience: int, shares: list[float], side: int = 256) -> Image.Image:
    """Middles of photos, a row each: as they are, with codebooks of 16, 128 and 1024, and with packets lost."""
    rows = []
    for i, photo in enumerate(photos):
        made = [
            photo,
            *(codec.decode(codec.encode(photo, profile="vq", quality=QUALITIES[book])) for book in (1, 4, 7)),
        ]
        data = codec.encode(photo, profile="vq", quality=100, resilience=resilience)
        for share in shares:
            gone = lost(data, share, False, np.random.default_rng([i, 0]))
            made.append(codec.decode(damaged(data, gone)))
        rows.append(np.hstack([middle(picture, side) for picture in made]))
    return Image.fromarray(np.vstack(rows))


def resilient(
    photos: list[Pixels], quality: float, resilience: int, shares: list[float], seeds: int, judge: Judge
) -> dict[str, Any]:
    """Figures of profile msp at a quality: bytes by resilience, beside those of files in one piece; and losses."""
    sizes, parity = sizes_by(photos, RESILIENCES, profile="msp", quality=quality)
    found: dict[str, Any] = {"quality": quality, "sizes": sizes, "parity": parity}
    found["ratios"] = {r: round(size / sizes[0], 3) for r, size in sizes.items()}
    found["losses"] = []
    for row in losses(photos, shares, seeds, judge, profile="msp", quality=quality, resilience=resilience):
        found["losses"].append(row)
        click.echo(row)
    return found


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--profile", type=click.Choice(list(LAYOUTS)), default="vq", show_default=True)
@click.option("--qualities", type=numbers, default="30,60", show_default=True, help="Only of profile msp.")
@ONLY
@click.option("--resilience", type=int, default=5, show_default=True)
@click.option("--shares", type=numbers, default="0.1,0.2,0.3,0.5", show_default=True)
@click.option("--seeds", type=int, default=5, show_default=True, help="For each photo.")
@click.option("--lpips", type=click.Path(exists=True, path_type=Path), help="Weights of LPIPS; only of profile vq.")
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write all figures.")
@click.option(
    "--sheet", "picture", type=click.Path(path_type=Path), help="Write middles of the photos, and no figures."
)
def main(
    folder: Path, profile: str, qualities: list[float], only: str, resilience: int, shares: list[float], seeds: int,
    lpips: Path | None, threads: int, output: Path | None, picture: Path | None,
) -> None:  # fmt: skip
    """Measure files in packets, whole and damaged, for the photos in FOLDER."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", DamageWarning)
    paths = chosen(folder, only)
    photos = [read_rgb(path) for path in paths]
    if picture:
        sheet(photos, resilience, shares).save(picture, quality=90)
        return
    told = {"photos": [path.stem for path in paths], "resilience": resilience, "seeds": seeds}
    if profile == "msp":
        points = [resilient(photos, quality, resilience, shares, seeds, psnr) for quality in qualities]
        figures: dict[str, Any] = {"points": points}
    else:
        figures = of_codebooks(photos, resilience, shares, seeds, judge_with(lpips))
    if output:
        write(output, {**machine(threads), **told, **figures})


def of_codebooks(
    photos: list[Pixels], resilience: int, shares: list[float], seeds: int, judge: Judge
) -> dict[str, Any]:
    """Figures of profile vq."""
    points = [whole(photos, quality, judge) for quality in QUALITIES]
    click.echo(table([list(points[0]), *([f"{value:.4g}" for value in row.values()] for row in points)]))
    sizes, parity = sizes_by(photos, range(10), profile="vq", quality=100)
    found = []
    for row in losses(photos, shares, seeds, judge, profile="vq", quality=100, resilience=resilience):
        found.append(row)
        click.echo(row)
    return {"points": points, "sizes": sizes, "parity": parity, "losses": found}


if __name__ == "__main__":
    main()
