"""Make the golden files anew: `cd tests && python -m golden.make`.

Only for a new version of the format: files that were written once must decode to the same symbols for ever.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from test_golden import FOLDER, fingerprint, symbols

import codec
from codec import Header, Section, pack
from codec.overfit import bitstream
from codec.overfit.bases import PLAIN
from codec.overfit.bitstream import QuantisedWeight, QuantisedWeights
from codec.overfit.function import BICUBIC, Spec

SAMPLES = Path(__file__).parents[2] / "samples"


def crop(name: str, box: tuple[int, int, int, int], mode: str) -> NDArray[np.uint8]:
    with Image.open(SAMPLES / name) as image:
        return np.asarray(image.convert(mode).crop(box))


def unusual() -> bytes:
    """A function of a shape that the encoder does not choose, and so on the plain base; some numbers are large."""
    spec = Spec(23, 37, 3, features=(2, 1, 3, 1), spatial=24, references=7, hidden=5, residuals=3)
    generator = np.random.default_rng(0)
    weights: dict[str, QuantisedWeight] = {}
    for name, shape in spec.weight_shapes.items():
        integers = np.rint(generator.laplace(0, 2, shape)).astype(np.int32)
        integers[generator.random(shape) < 0.02] *= 100 if name.startswith("arm.") else 4
        weights[name] = QuantisedWeight(integers, 6)
    weights["synthesis.output_bias"].integers[:] = 32
    weights["upsampling.taps"] = QuantisedWeight(np.rint(generator.normal(0, 9, (3, len(BICUBIC)))).astype(np.int32), 8)
    grids = [np.rint(generator.laplace(0, 1, (n, *s))) for n, s in zip(spec.features, spec.sizes, strict=True)]
    grids[0][1, 3:5, 7] = 16383, -16383
    grids[2][1] = 0
    whole = [g.astype(np.int32) for g in grids]
    sections = bitstream.write(spec, QuantisedWeights(PLAIN, weights), whole)
    header = Header(width=spec.width, height=spec.height, mode="RGB", profile=0)
    return pack(header, dict(zip((Section.WEIGHTS, Section.GRIDS), sections, strict=True)))


def main() -> None:
    files = {
        "rgb": codec.encode(crop("astronaut.png", (180, 60, 244, 108), "RGB"), effort=2, device="cpu"),
        "grey": codec.encode(crop("coffee.png", (360, 150, 417, 183), "L"), quality=40, effort=1, device="cpu"),
        "tall": codec.encode(crop("rocket.jpg", (300, 50, 301, 200), "RGB"), quality=95, effort=1, device="cpu"),
        "unusual": unusual(),
    }
    for name, data in files.items():
        (FOLDER / f"{name}.clric").write_bytes(data)
        Image.fromarray(codec.decode(data, device="cpu")).save(FOLDER / f"{name}.png")
        hashes = fingerprint(symbols(data))
        (FOLDER / f"{name}.json").write_text(json.dumps(hashes, indent=4) + "\n")


if __name__ == "__main__":
    main()
