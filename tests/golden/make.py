"""Make the golden files anew, all or those named: `cd tests && python -m golden.make [NAME ...]`.

Only for a new version of the format: files that were written once must decode to the same symbols for ever.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latents import (
    HIDDEN,
    TINY,
    TINY_ENHANCED,
    TINY_GRAIN,
    TINY_PATCH,
    TINY_VQ,
    latent_coded,
    latent_file,
    random_prior,
    transform_of,
)
from numpy.typing import NDArray
from PIL import Image
from test_golden import FOLDER, fingerprint, function_of, latent_fingerprint, symbols
from torch.nn.functional import pixel_unshuffle

import codec
from codec import Header, Section, pack, unpack
from codec.autoencoders import model_file, store
from codec.autoencoders.model_file import Model
from codec.autoencoders.networks.coding_order import PRESETS
from codec.autoencoders.networks.enhancement import PRESET
from codec.autoencoders.networks.index_transformer import IndexTransformer
from codec.autoencoders.networks.integer_prior import LOG
from codec.autoencoders.networks.patch import Config as PatchConfig
from codec.autoencoders.networks.patch import PatchAutoencoder
from codec.autoencoders.networks.transform import Grain
from codec.autoencoders.networks.transform_config import PATCH, PIXELS
from codec.autoencoders.networks.transform_config import Config as TransformConfig
from codec.autoencoders.networks.vq import Config as VqConfig
from codec.autoencoders.tensor_file import Arrays
from codec.entropy.layers import narrowed
from codec.overfit import bitstream
from codec.overfit.bitstream import Origin, QuantisedWeight, QuantisedWeights
from codec.overfit.reference_weights import PLAIN
from codec.overfit.spec import BICUBIC, Spec
from codec.profiles.clric.initialisation import universal_of
from codec.tensors import to_tensor
from codec.training.index_prior import IndexPrior
from codec.training.prior import STEPS, description, initial_function, integers
from codec.training.quantisation import quantised, quantised_indices, whole
from codec.training.quantiser import Quantiser
from codec.training.transform_network import Transform

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
    sections = bitstream.write(spec, QuantisedWeights(Origin(PLAIN), weights), whole)
    header = Header(width=spec.width, height=spec.height, mode="RGB", profile=0)
    return pack(header, dict(zip((Section.WEIGHTS, Section.GRIDS), sections, strict=True)))


def clric_unusual() -> bytes:
    """A function of base's latent as the encoder makes none: many features at all levels, and some large numbers."""
    spec = Spec(
        5, 8, 16, features=(3, 17, 2), spatial=6, references=5, hidden=3, residuals=2, separate=True, linear=True
    )
    generator = np.random.default_rng(0)
    weights: dict[str, QuantisedWeight] = {}
    for name, shape in spec.weight_shapes.items():
        integers = np.rint(generator.laplace(0, 0.5, shape)).astype(np.int32)
        integers[generator.random(shape) < 0.01] *= 100 if name.startswith("arm.") else 4
        weights[name] = QuantisedWeight(integers, 5)
    grids = [np.rint(generator.laplace(0, 1, (n, *s))) for n, s in zip(spec.features, spec.sizes, strict=True)]
    grids[0][1, 3:5, 7] = 16383, -16383
    grids[1][::5] = 0
    whole = [g.astype(np.int32) for g in grids]
    model = store.load("base")
    sections = bitstream.write(spec, QuantisedWeights(Origin(PLAIN, universal_of(model)), weights), whole)
    header = Header(width=61, height=38, mode="RGB", profile=1, model=model.prefix)
    return pack(header, dict(zip((Section.WEIGHTS, Section.GRIDS), sections, strict=True)))


def clric_differences() -> bytes:
    """A photo whose function differs from the universal one, as the encoder's never do."""
    container = unpack(
        codec.encode(
            crop("coffee.png", (300, 120, 359, 177), "RGB"), profile="clric", model="base", effort=1, device="cpu"
        )
    )
    spec, weights, grids = bitstream.read(*function_of(container))
    generator = np.random.default_rng(0)
    differences = dict(weights.differences)
    for name in ("arm.output_bias", "synthesis.linear", "synthesis.residual1_bias"):
        integers = np.rint(generator.laplace(0, 1, spec.weight_shapes[name])).astype(np.int32)
        differences[name] = QuantisedWeight(integers, 6)
    sections = bitstream.write(spec, QuantisedWeights(weights.origin, differences), grids)
    return pack(container.header, dict(zip((Section.WEIGHTS, Section.GRIDS), sections, strict=True)))


def encoded(name: str, box: tuple[int, int, int, int], mode: str, **options: Any) -> Callable[[], bytes]:
    return lambda: codec.encode(crop(name, box, mode), **options, device="cpu")


def disc(height: int, width: int) -> NDArray[np.uint8]:
    """Alpha of a soft disc."""
    y, x = np.mgrid[:height, :width]
    soft: NDArray[np.uint8] = np.clip(40 * (20 - np.hypot(y - 18, x - 22)), 0, 255).astype(np.uint8)
    return soft


def with_alpha(name: str, box: tuple[int, int, int, int], mode: str, **options: Any) -> Callable[[], bytes]:
    """A photo behind a soft disc."""
    colours = crop(name, box, mode)
    return lambda: codec.encode(np.dstack([colours, disc(*colours.shape[:2])]), **options, device="cpu")


def tiny_model() -> Model:
    """A transform of a few channels that is a KLT of photos, with priors of random weights."""
    torch.manual_seed(0)
    config = {
        "latent": 10, "fine": 4, "coarse": 12, "encoder": [1, 1], "decoder": [1, 1], "expansion": 1, "knots": 3,
        "lambdas": [3e-5, 0.1],
    }  # fmt: skip
    transform = Transform(TransformConfig(**config))  # type: ignore[arg-type]
    photos = [crop(name, (96, 96, 352, 352), "RGB") for name in ("coffee.png", "astronaut.png")]
    variances = transform.start_as_klt(to_tensor(photos, torch.device("cpu")))
    floats = {name: tensor.detach().half() for name, tensor in transform.state_dict().items() if name != "log_gain"}
    integers = {"gains.log": whole(transform.log_gain * LOG)}
    for name, preset in PRESETS.items():
        prior = random_prior(preset, variances, transform.config.knots)
        integers |= {f"prior.{name}.{key}": numbers for key, numbers in quantised(prior).items()}
    told = {"transform": config, "presets": list(PRESETS), "hidden": HIDDEN}
    return Model("tiny", "msp", told, (), (), {**floats, **Arrays(narrowed(integers))})


def tiny_enhanced_model() -> Model:
    """The tiny model with an enhancement layer, whose prior has random weights."""
    torch.manual_seed(0)
    tiny = model_file.read(TINY)
    config = {"hidden": HIDDEN, "knots": 2, "lambdas": [1e-5, 1e-3]}
    prior = random_prior(PRESET, torch.linspace(0.04, 0.01, PIXELS).square(), 2)
    layer = {"gains.log": np.array([4000, 1900])[:, None].repeat(PIXELS, 1)}
    layer |= {f"prior.{key}": numbers for key, numbers in quantised(prior).items()}
    tensors = Arrays({f"enhancement.{key}": numbers for key, numbers in narrowed(layer).items()})
    config = {**tiny.config, "enhancement": config}
    return replace(tiny, name="tinyenhanced", config=config, tensors={**tiny.tensors, **tensors})


def tiny_grain_model() -> Model:
    """The tiny model with an enhancement layer that draws texture of random strengths, too."""
    torch.manual_seed(0)
    tiny = model_file.read(TINY_ENHANCED)
    told = {**tiny.config["transform"], "grain": 5}
    grain = Grain(TransformConfig(**told))
    for parameter in grain.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    grain.condition.data -= 3
    own = {f"decoder.grain.{name}": tensor.half() for name, tensor in grain.state_dict().items()}
    return replace(tiny, name="tinygrain", config={**tiny.config, "transform": told}, tensors={**tiny.tensors, **own})


def tiny_vq_model() -> Model:
    """An autoencoder that is a KLT of photos, codebooks of its latents, a prior and a transformer of random weights."""
    torch.manual_seed(0)
    shape = {"fine": 4, "coarse": 12, "encoder": [1, 1], "decoder": [1, 1], "expansion": 1}
    config = {"sizes": [4, 16, 40], "dimensions": 6, **shape}
    indices = {"hidden": HIDDEN, "width": 12, "layers": 1, "heads": 2}
    transform = Transform(TransformConfig(latent=6, knots=3, **shape))  # type: ignore[arg-type]
    photos = to_tensor(
        [crop(n, (96, 96, 352, 352), "RGB") for n in ("coffee.png", "astronaut.png")], torch.device("cpu")
    )
    transform.start_as_klt(photos)
    made = Quantiser(VqConfig(**config))  # type: ignore[arg-type]
    made.encoder, made.decoder = transform.encoder, transform.decoder
    points = made.encode(photos, torch.zeros(2, dtype=torch.int64)).permute(0, 2, 3, 1).flatten(0, 2)
    made.entries.copy_(points[torch.randint(len(points), (len(made.entries),))])
    starts, (hidden, *rest) = made.config.starts, indices.values()
    prior, transformer = IndexPrior(starts, hidden), IndexTransformer(starts, *rest)
    for parameter in prior.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    floats = made.state_dict() | {f"transformer.{name}": weight for name, weight in transformer.state_dict().items()}
    integers = {f"prior.{name}": numbers for name, numbers in quantised_indices(prior).items()}
    halves = {name: tensor.detach().half() for name, tensor in floats.items()}
    return Model(
        "tinyvq", "vq", {"autoencoder": config, "indices": indices}, (), (), {**halves, **Arrays(narrowed(integers))}
    )


def tiny_patch_model() -> Model:
    """An autoencoder of random weights beside an identity of a few frequencies, with a universal function of some."""
    torch.manual_seed(0)
    config = {"latent": 6, "width": 12, "encoder": 1, "decoder": 1, "expansion": 1}
    made = PatchAutoencoder(PatchConfig(**config))
    photos = to_tensor(
        [crop(n, (96, 96, 352, 352), "RGB") for n in ("coffee.png", "astronaut.png")], torch.device("cpu")
    )
    patches = pixel_unshuffle(2 * photos - 1, PATCH).permute(0, 2, 3, 1).flatten(0, 2)
    axes = torch.linalg.eigh(torch.cov(patches.T))[1].flip(1)[:, :12]
    with torch.no_grad():
        made.encoder.embed.weight.zero_()[..., 1, 1] = axes.T
        made.encoder.project.weight.copy_(torch.eye(6, 12))
        made.decoder.expand.weight.copy_(torch.eye(12, 6))
        made.decoder.unembed.weight.zero_()[..., 1, 1] = axes
    function = initial_function(6)
    for name, parameter in function.named_parameters():
        if name != STEPS:
            parameter.data += 0.05 * torch.randn_like(parameter)
    networks = {name: tensor.detach().half() for name, tensor in made.state_dict().items()}
    tensors = {**networks, **integers(function)}
    return Model("tinypatch", "patch", config, (0.0,) * 6, (1.0,) * 6, tensors, description(6))


def msp_alpha() -> bytes:
    colours = crop("astronaut.png", FACE, "RGB")
    return latent_coded("extra", np.dstack([colours, disc(*colours.shape[:2])]), 320)


def msp_packets_alpha() -> bytes:
    colours = crop("astronaut.png", (160, 40, 288, 140), "RGB")
    return latent_coded("extra", np.dstack([colours, disc(*colours.shape[:2])]), 77, resilience=1)


def msp_unusual() -> bytes:
    """A latent as no picture has one, with numbers as large as they can be."""
    latent = np.random.default_rng(0).laplace(0, 3, (9, 14, transform_of().channels)).astype(np.float32)
    latent[2, 3], latent[8, 13, ::2], latent[5:7, :, 4] = 16383, -16383, 0
    return latent_file("extra", (141, 211, 3), 511, latent)


FACE, PORTRAIT, CUP, COLUMN = (180, 60, 244, 108), (100, 0, 356, 300), (360, 150, 417, 183), (300, 50, 301, 200)
FILES: dict[str, Callable[[], bytes]] = {
    "rgb": encoded("astronaut.png", FACE, "RGB", profile="coolchic", effort=2),
    "grey": encoded("coffee.png", CUP, "L", profile="coolchic", quality=40, effort=1),
    "wide": encoded("astronaut.png", FACE, "RGB", profile="coolchic", quality=70, effort=3),
    "tall": encoded("rocket.jpg", COLUMN, "RGB", profile="coolchic", quality=95, effort=1),
    "alpha": with_alpha("coffee.png", CUP, "L", profile="coolchic", quality=40, effort=1),
    "unusual": unusual,
    "clric-rgb": encoded("astronaut.png", FACE, "RGB", profile="clric", model="base", effort=2),
    "clric-grey": encoded("coffee.png", CUP, "L", profile="clric", model="base", quality=40, effort=1),
    "clric-alpha": with_alpha("astronaut.png", FACE, "RGB", profile="clric", model="base", effort=2),
    "clric-patches": encoded("astronaut.png", FACE, "RGB", profile="clric", model=TINY_PATCH, quality=75, effort=2),
    "clric-differences": clric_differences,
    "clric-unusual": clric_unusual,
    "msp-photo": lambda: latent_coded("normal", crop("astronaut.png", FACE, "RGB"), 200),
    "msp-grey": lambda: latent_coded("baseline", crop("coffee.png", CUP, "L"), 257),
    "msp-alpha": msp_alpha,
    "msp-tall": lambda: latent_coded("normal", crop("rocket.jpg", COLUMN, "RGB"), 0),
    "msp-unusual": msp_unusual,
    "msp-packets": lambda: latent_coded("normal", crop("coffee.png", (0, 0, 320, 200), "RGB"), 200, resilience=9),
    "msp-packets-alpha": msp_packets_alpha,
    "msp-parity": lambda: latent_coded("baseline", crop("rocket.jpg", (250, 60, 410, 220), "RGB"), 150, resilience=3),
    "msp-enhanced": encoded("astronaut.png", FACE, "RGB", profile="msp", model=TINY_ENHANCED, quality=85),
    "msp-enhanced-alpha": with_alpha("coffee.png", CUP, "L", profile="msp", model=TINY_ENHANCED, quality=97.3),
    "msp-looks": encoded("coffee.png", CUP, "RGB", profile="msp", model=TINY_GRAIN, quality=50, tune="looks"),
    "vq-photo": encoded("astronaut.png", PORTRAIT, "RGB", profile="vq", model=TINY_VQ),
    "vq-grey": encoded("coffee.png", CUP, "L", profile="vq", model=TINY_VQ, quality=30),
    "vq-alpha": with_alpha("astronaut.png", FACE, "RGB", profile="vq", model=TINY_VQ, resilience=1),
    "vq-packets": encoded(
        "coffee.png", (0, 0, 320, 200), "RGB", profile="vq", model=TINY_VQ, quality=100, resilience=9
    ),
    "vq-parity": encoded(
        "rocket.jpg", (250, 60, 410, 220), "RGB", profile="vq", model=TINY_VQ, quality=100, resilience=4
    ),
}


def main() -> None:
    models = (
        (TINY, tiny_model), (TINY_ENHANCED, tiny_enhanced_model), (TINY_GRAIN, tiny_grain_model),
        (TINY_VQ, tiny_vq_model), (TINY_PATCH, tiny_patch_model),
    )  # fmt: skip
    for path, made in models:
        if not path.exists():
            model_file.write(made(), path)
    os.environ[store.VARIABLE] = str(FOLDER)
    for name in sys.argv[1:] or FILES:
        data = FILES[name]()
        (FOLDER / f"{name}.clric").write_bytes(data)
        Image.fromarray(codec.decode(data, device="cpu")).save(FOLDER / f"{name}.png")
        hashes = latent_fingerprint(data) if name.startswith(("msp", "vq")) else fingerprint(symbols(data))
        (FOLDER / f"{name}.json").write_text(json.dumps(hashes, indent=4) + "\n")


if __name__ == "__main__":
    main()
