"""Fidelity of autoencoders to photos that are not compressed at all, and the time they take.

python benchmarks/autoencoders.py FOLDER --models base,taef2 --lpips WEIGHTS --json autoencoders.json [--sheet FILE]
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import torch
from common import chosen, machine, photo, table, write
from metrics import as_tensor, lpips, psnr
from PIL import Image
from torch import Tensor

from codec.autoencoders import store
from codec.autoencoders.autoencoder import Autoencoder

TILE = 256  # of the tiles that are compared with the whole


def to_image(made: Tensor) -> Image.Image:
    return Image.fromarray((made[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


@torch.inference_mode()
def measure(autoencoder: Autoencoder, image: Image.Image, weights: Path) -> tuple[dict[str, float], Image.Image]:
    """Figures for one photo, and the reconstruction."""
    pictures, size = as_tensor(image), (image.height, image.width)
    start = time.perf_counter()
    latents = autoencoder.encode(pictures)
    encoded = time.perf_counter()
    made = autoencoder.decode(latents, *size).cpu()
    end = time.perf_counter()
    noisy = autoencoder.decode(latents + torch.rand_like(latents) - 0.5, *size).cpu()
    usual, autoencoder.tile = autoencoder.tile, TILE
    tiled = autoencoder.decode(autoencoder.encode(pictures), *size).cpu()
    autoencoder.tile = usual
    versions = {"": to_image(made), "_noise": to_image(noisy)}
    figures = {f"psnr{which}": psnr(image, version) for which, version in versions.items()}
    figures |= {f"lpips{which}": lpips(weights, image, v) for which, v in versions.items()}
    figures |= {"encode_s": encoded - start, "decode_s": end - encoded}
    figures["tiles"] = float((tiled - made).clamp(-1, 1).abs().mean()) * 255
    return figures, versions[""]


def sheet(pairs: list[tuple[Image.Image, Image.Image]], size: int = 256) -> Image.Image:
    """The middle of each photo above its reconstruction."""
    page = Image.new("RGB", (len(pairs) * size, 2 * size))
    for i, pair in enumerate(pairs):
        for row, version in enumerate(pair):
            left, top = (version.width - size) // 2, (version.height - size) // 2
            page.paste(version.crop((left, top, left + size, top + size)), (i * size, row * size))
    return page


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--models", default="base", show_default=True, help="Names, folders or files, with commas between them.")
@click.option(
    "--lpips", "weights", type=click.Path(exists=True, path_type=Path), required=True, help="Weights of LPIPS."
)
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="File for the results.")
@click.option(
    "--sheet", "picture", type=click.Path(path_type=Path), help="Picture of the last model's reconstructions."
)
def main(
    folder: Path, models: str, weights: Path, device: str, threads: int, out: Path | None, picture: Path | None
) -> None:
    """Measure autoencoders on the photos of a folder."""
    torch.set_num_threads(threads)
    paths = chosen(folder)
    results: dict[str, Any] = {"machine": machine(threads), "models": {}}
    rows = [["model", "PSNR", "LPIPS", "PSNR, noise", "LPIPS, noise", "encode, s", "decode, s", "tiles"]]
    for name in models.split(","):
        autoencoder = Autoencoder(store.load(name), torch.device(device))
        images = [photo(path).convert("RGB") for path in paths]
        measure(autoencoder, images[0], weights)  # what is done once is not in the times
        found = [measure(autoencoder, image, weights) for image in images]
        figures = {key: [round(f[key], 5) for f, _ in found] for key in found[0][0]}
        results["models"][autoencoder.model.name] = {"photos": [path.stem for path in paths], **figures}
        means = [f"{mean(figures[key]):.4f}" for key in ("psnr", "lpips", "psnr_noise", "lpips_noise")]
        times = [f"{median(figures[key]):.3f}" for key in ("encode_s", "decode_s")]
        rows.append([autoencoder.model.name, *means, *times, f"{mean(figures['tiles']):.4f}"])
    click.echo(table(rows))
    if out is not None:
        write(out, results)
    if picture is not None:
        sheet(list(zip(images, (made for _, made in found), strict=True))).save(picture, quality=92)


if __name__ == "__main__":
    main()
