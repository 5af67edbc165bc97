"""Parts that the benchmarks share: the machine they ran on, photos, the other formats, files of results, tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

import pillow_clric
from codec import files
from codec.training.data import SUFFIXES
from codec.training.validation import AVIF_SPEED

# The formats that are compared with, and how Pillow writes them, so that they are small: AVIF takes longer than by
# default. JPEG XL and HEIC need pillow-jxl-plugin and pillow-heif.
OTHERS: dict[str, dict[str, Any]] = {
    "jpeg": {"optimize": True, "progressive": True}, "webp": {"method": 6}, "avif": {"speed": AVIF_SPEED},
    "jxl": {}, "heif": {},
}  # fmt: skip
ONLY = click.option("--only", default="", help="Names of photos, with commas between them; all by default.")


def numbers(text: str) -> list[float]:
    """Type of an option: numbers with commas between them."""
    return [float(number) for number in text.split(",")]


def size(text: str) -> tuple[int, int]:
    """Type of an option: width and height."""
    width, height = text.split("x")
    return int(width), int(height)


def machine(threads: int) -> dict[str, Any]:
    """Machine and versions that figures depend on. The load tells whether other programs were in the way."""
    import torch

    versions = {name: v for name, v in pillow_clric.info().items() if isinstance(v, str)}
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **versions},
    }


def _cpu() -> str:
    """The processor's model; Python only knows it on some systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit that is checked out, with "-dirty" if it was changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def chosen(folder: Path, only: str = "") -> list[Path]:
    """The photos of a folder, or of these those that `ONLY` names.

    Raises:
        click.BadParameter: some are not there.
    """
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    names = only.split(",") if only else list(found)
    if not names or set(names) - set(found):
        raise click.BadParameter(f"{folder} holds no {', '.join(sorted(set(names) - set(found))) or 'photo'}")
    return [path for name, path in found.items() if name in names]


def peak() -> float:
    """Greatest memory of this process so far, in MB."""
    import resource  # which Windows has not

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def photo(path: Path, crop: tuple[int, int] | None = None) -> Image.Image:
    """A photo, or the middle (width, height) of it, as the codec takes it.

    It has no metadata: bytes are then those of the picture.
    """
    with Image.open(path) as image:
        picture = Image.fromarray(np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")))
    if crop is None:
        return picture
    (width, height), left, top = crop, (picture.width - crop[0]) // 2, (picture.height - crop[1]) // 2
    return picture.crop((left, top, left + width, top + height))


def encode(image: Image.Image, codec: str, quality: float, options: Mapping[str, Any]) -> bytes:
    """A file of any of Pillow's formats; all but `.clric` know whole qualities only."""
    buffer = BytesIO()
    image.save(buffer, codec, quality=quality if codec == "clric" else round(quality), **options)
    return buffer.getvalue()


def write(path: Path, results: dict[str, Any]) -> None:
    """Write results whole or not at all, as a run may be interrupted."""
    files.write(path, (json.dumps(results, indent=1) + "\n").encode())


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; its first row is the header, its first column text."""
    widths = [max(4, *(len(cell) for cell in column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *rest in (rows[0], rule, *rows[1:]):
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
