"""The learned transform: lowers distortion and rate together, for every lambda at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.model_file import Model as ModelFile
from codec.autoencoders.model_file import build, loaded, read
from codec.autoencoders.networks import msp
from codec.autoencoders.networks.coding_order import PRESETS
from codec.autoencoders.networks.dequantisation import dequantised
from codec.autoencoders.networks.integer_prior import LOG
from codec.autoencoders.networks.progressive_prior import Distributions, ProgressivePrior, laplace_bits
from codec.autoencoders.networks.transform import Block
from codec.autoencoders.networks.transform_config import Config
from codec.autoencoders.tensor_file import METADATA, check_shapes, opened, read_safetensors
from codec.device import reduced_precision
from codec.distortion.pixels import picture_error, squared_error
from codec.files import write
from codec.training.cost import balanced, draw_mixed, quantised
from codec.training.data import Photos, PhotoTask, as_pictures, crops
from codec.training.loop import Progress
from codec.training.optimizers import MuonAndAdam, Schedule, wide
from codec.training.transform_network import Transform
from codec.training.validation import Validation

USUAL = "normal"  # preset of the prior
LARGE, OFTEN = 1.5, 8  # every so many batches, crops have sides so much longer


@dataclass(frozen=True)
class Settings:
    """Network, crops and loss of a training.

    Attributes:
        network: of the transform.
        side: of the crops, a multiple of 16.
        batch: crops of that side at once.
        usual: least and greatest lambda that most files have, of all that the network is for.
        muon: whether matrices are left to Muon; otherwise Adam does it all.
        distortion: of pictures made (batch, 3, h, w) and wanted: (batch,).
    """

    network: Config = field(default_factory=Config)
    side: int = 256
    batch: int = 8
    usual: tuple[float, float] = (4e-4, 5e-2)
    muon: bool = True
    distortion: Callable[[Tensor, Tensor], Tensor] = picture_error


class Model(nn.Module):
    """The transform, and the prior that says what its latents cost."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.prior = ProgressivePrior(PRESETS[USUAL], config.latent, config.knots)

    def forward(self, pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (batch, 3, h, w) as a decoder shows them, and bits per pixel (batch,), that are trained by."""
        gains = self.transform.gains(lambdas)
        scaled = self.transform.encode(pictures, lambdas) * gains
        coded, bits = quantised(scaled, partial(self.distributions, gains=gains, lambdas=lambdas))
        return self.transform.decode(coded / gains, lambdas, *pictures.shape[2:]), bits / pictures[0, 0].numel()

    def code(self, pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same of latents that are really rounded: what a codec does."""
        gains = self.transform.gains(lambdas)
        rounded = (self.transform.encode(pictures, lambdas) * gains).round()
        bits = laplace_bits(rounded, *self.distributions(rounded, gains, lambdas)).flatten(1).sum(1)
        return self.transform.decode(rounded / gains, lambdas, *pictures.shape[2:]), bits / pictures[0, 0].numel()

    def distributions(self, rounded: Tensor, gains: Tensor, lambdas: Tensor) -> Distributions:
        """Distributions of scaled latents, which are rounded when they are context: (batch, latent, h, w)."""
        found: Distributions = self.prior(rounded / gains, self.transform.knot_weights(lambdas))
        return found.scaled(gains)


class TransformTask(PhotoTask):
    """Training of a transform from photos.

    Args:
        weights: a file that `read_weights` takes, of a network of the same shape, to start from; otherwise the network
            starts as a KLT of the photos.
        compiled: whether blocks are compiled for the crops' sizes, which takes a minute and a C++ compiler, and saves a
            third of the time of each iteration.
    """

    name = "transform"
    schedule = Schedule(7e-4, 500)
    model: Model

    def __init__(
        self, settings: Settings, photos: Photos, validation: Validation | None = None, weights: Path | None = None,
        compiled: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(photos, settings.side, settings.batch)
        self.settings, self.validation = settings, validation
        self.config: Mapping[str, Any] = {"network": asdict(settings.network), "muon": settings.muon}
        torch.manual_seed(0)
        self.model = Model(settings.network)
        if weights is None:
            self._start()
        else:
            _, found = read_weights(weights)
            check_shapes(found, self.model.state_dict(), str(weights))
            self.model.load_state_dict(found)
        if compiled:
            compile_blocks(self.model)

    @property
    def fast(self) -> list[nn.Parameter]:
        """Parameters that learn faster than others, and are no matrices."""
        model = self.model
        return [model.transform.log_gain, model.prior.log_scale, model.prior.mean]

    def optimizer(self) -> MuonAndAdam:
        kernels = wide(self.model, but=self.fast) if self.settings.muon else []
        return MuonAndAdam(kernels, self.model.parameters(), fast=self.fast)

    def batch(self, seed: int, iteration: int) -> Tensor:
        """(count, side, side, 3) in 0..255; now and then fewer, larger ones."""
        if iteration % OFTEN != OFTEN - 1:
            return super().batch(seed, iteration)
        return crops(self.photos, round(self.side * LARGE), max(1, round(self.count / LARGE**2)), seed, iteration)

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        pictures = as_pictures(batch)
        lambdas = draw_mixed(len(pictures), batch.device, self.settings.usual, self.settings.network.lambdas)
        with reduced_precision(batch.device):
            made, bits = self.model(pictures, lambdas)
        loss = balanced(self.settings.distortion(made, pictures), bits, lambdas)
        return loss, {"squared_error": squared_error(made.detach(), pictures).mean(), "bpp": bits.detach().mean()}

    def validate(self, model: nn.Module, progress: Progress, folder: Path) -> dict[str, Any]:
        if self.validation is None:
            return {}
        trained = cast("Model", model)
        device = trained.prior.mean.device
        return self.validation.run(trained.code, device, f"{progress.iteration:08d}", folder)

    def export(self, path: Path) -> None:
        export(self.settings.network, self.model.state_dict(), path)

    def _start(self) -> None:
        pictures = as_pictures(crops(self.photos, self.settings.side, 256, 0))
        self.model.prior.start(self.model.transform.start_as_klt(pictures))


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks of networks for each size of crops, on its first use."""
    for block in model.modules():
        if isinstance(block, Block):
            block.compile(dynamic=False)


def export(config: Config, weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a model's weights in float16, with what describes the networks.

    The transform's own have their names in a `Transform`, the prior's begin with "prior.".
    """
    tensors = {name.removeprefix("transform."): w.half().cpu().contiguous() for name, w in weights.items()}
    write(path, save(tensors, describe(config)))


def read_weights(path: Path) -> tuple[Config, dict[str, Tensor]]:
    """Shape of a transform, and weights of a `Model` in float32, from what `export` made, or a model for profile `msp`.

    Raises:
        ModelFileError: the file is damaged, or something else.
    """
    with opened(path) as file:
        for_files = "gains.log" in file.header
    if not for_files:
        metadata, tensors = read_safetensors(path)
        own = {name if name.startswith("prior.") else f"transform.{name}": w.float() for name, w in tensors.items()}
        return read_config(metadata, path), own
    model = read(path)
    config, weights = transform_of(model)
    prior = dequantised(loaded(msp.parts(model.config), model).prior[USUAL]).state_dict().items()
    return config, {f"transform.{n}": w for n, w in weights.items()} | {f"prior.{n}": w for n, w in prior}


def describe(config: Config) -> dict[str, str]:
    """Metadata of a file of weights, for `read_config`."""
    told = {"architecture": "transform", "config": {f.name: getattr(config, f.name) for f in fields(config)}}
    return {METADATA: json.dumps(told, sort_keys=True)}


def read_config(metadata: dict[str, str], path: Path) -> Config:
    """The configuration in a file's metadata.

    Raises:
        ModelFileError: there is none, or it makes no sense.
    """
    try:
        told: dict[str, Any] = json.loads(metadata[METADATA])
        if told["architecture"] != "transform":
            raise ModelFileError(f"{path} holds networks of kind {told['architecture']!r}, not a learned transform")
        return Config(**told["config"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} holds no learned transform: {error}") from error


def transform_of(model: ModelFile) -> tuple[Config, dict[str, Tensor]]:
    """Shape and weights of a `Transform` in float32, from a model for profile `msp`.

    Without what draws texture, which is trained when the transform is done.
    """
    parts = msp.parts(model.config)
    networks = build(model).state_dict().items()
    weights = {name: weight for name, weight in networks if not name.startswith("decoder.grain.")}
    weights["log_gain"] = torch.from_numpy(loaded(parts.gains, model, "gains.").log) / LOG
    return replace(parts.config, grain=0), weights
