"""The autoencoder of profile `clric`, and its universal function, trained together from photos.

As in the training of the transform, distortion and rate are lowered for every lambda at once, and the rate is that of
the probability models that files have. What the latent is like is left to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from codec.autoencoders.model_file import Model as ModelFile
from codec.autoencoders.networks.patch import Config, PatchAutoencoder
from codec.autoencoders.networks.progressive_prior import laplace_bits
from codec.autoencoders.networks.transform_config import PATCH, PIXELS
from codec.autoencoders.networks.transform_config import Config as TransformConfig
from codec.autoencoders.tensor_file import check_shapes, opened
from codec.blocks import to_multiple
from codec.device import reduced_precision
from codec.distortion.pixels import picture_error, squared_error
from codec.entropy.integer_arm import WEIGHT_BITS
from codec.overfit.spec import Spec
from codec.training import models
from codec.training.cost import balanced, draw_mixed, quantised
from codec.training.data import Photos, PhotoTask, as_pictures, crops
from codec.training.loop import Progress
from codec.training.optimizers import MuonAndAdam, Schedule, wide
from codec.training.prior import (
    LAMBDAS,
    MIDDLE,
    STEPS,
    description,
    distributions,
    function_shape,
    initial_function,
    integers,
    interpolated,
)  # fmt: skip
from codec.training.transform import Model as TransformModel
from codec.training.transform import compile_blocks, read_weights
from codec.training.transform_network import STEP
from codec.training.validation import Validation
from codec.training.weights import Weights

EVALUATED = (0.3, 0.12, 0.05, 0.02, 0.008, 0.003, 0.001)  # lambdas of validations
GREATEST = 7.9  # step, in units of the latent, that files hold
STARTED = 64  # pictures that a latent is made of to start with


@dataclass(frozen=True)
class Settings:
    """Network and crops of a training.

    Attributes:
        side: of the crops, a multiple of 16.
        batch: crops at once.
        usual: least and greatest lambda that most files have.
    """

    network: Config = field(default_factory=Config)
    side: int = 256
    batch: int = 8
    usual: tuple[float, float] = (0.003, 0.2)


class Model(nn.Module):
    """Autoencoder, and universal function of its latents."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.autoencoder, self.function = PatchAutoencoder(config), initial_function(config.latent)

    def forward(self, pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (batch, 3, h, w) as a decoder shows them, and bits per pixel (batch,), that are trained by."""
        (weights, step), latents = interpolated(self.function, lambdas), self._encode(pictures)
        spec = self._spec(latents)
        coded, bits = quantised(latents / step, partial(distributions, weights=weights, spec=spec))
        return self._decode(coded * step), bits / pictures[0, 0].numel()

    def code(self, pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same of pictures of any size, and of latents that are really rounded: what a codec does."""
        height, width = pictures.shape[2:]
        weights, step = interpolated(self.function, lambdas)
        rounded = (self._encode(to_multiple(pictures, PATCH)) / step).round()
        spec = self._spec(rounded)
        bits = laplace_bits(rounded, *distributions(rounded, weights, spec)).flatten(1).sum(1)
        return self._decode(rounded * step)[:, :, :height, :width], bits / (height * width)

    def _spec(self, latents: Tensor) -> Spec:
        channels, height, width = latents.shape[1:]
        return Spec(height, width, channels, **function_shape(channels))

    def _encode(self, pictures: Tensor) -> Tensor:
        with reduced_precision(pictures.device):
            return self.autoencoder.encode_tile(pictures).float()

    def _decode(self, latents: Tensor) -> Tensor:
        with reduced_precision(latents.device):
            return self.autoencoder.decode_tile(latents).float()


class AutoencoderTask(PhotoTask):
    """Training of an autoencoder from photos.

    Args:
        weights: an earlier export to start from, or a file of a transform that `codec.training.transform.read_weights`
            takes.
        compiled: as in `TransformTask`.
    """

    name = "autoencoder"
    schedule = Schedule(6e-4, 200)
    model: Model

    def __init__(
        self, settings: Settings, photos: Photos, validation: Validation | None, weights: Path, compiled: bool = False
    ) -> None:
        super().__init__(photos, settings.side, settings.batch)
        self.settings, self.validation = settings, validation
        self.config: Mapping[str, Any] = asdict(settings.network)
        torch.manual_seed(0)
        self.model = Model(settings.network)
        if is_autoencoder(weights):
            self.model.load_state_dict(read_autoencoder(weights)[1])
        else:
            self._start(*read_weights(weights))
        if compiled:
            compile_blocks(self.model)

    def optimizer(self) -> MuonAndAdam:
        function = list(self.model.function.parameters())
        return MuonAndAdam(wide(self.model, but=function), self.model.parameters(), fast=function)

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        pictures = as_pictures(batch)
        lambdas = draw_mixed(len(pictures), batch.device, self.settings.usual, LAMBDAS)
        made, bits = self.model(pictures, lambdas)
        loss = balanced(picture_error(made, pictures), bits, lambdas)
        return loss, {"squared_error": squared_error(made.detach(), pictures).mean(), "bpp": bits.detach().mean()}

    def validate(self, model: nn.Module, progress: Progress, folder: Path) -> dict[str, Any]:
        if self.validation is None:
            return {}
        trained = cast("Model", model)
        device = trained.function.get_parameter(STEPS).device
        return self.validation.run(trained.code, device, f"{progress.iteration:08d}", folder)

    def export(self, path: Path) -> None:
        """Write the model, with its universal function."""
        own, function = self.model.autoencoder, self.model.function
        networks = {name: w.half().cpu() for name, w in own.state_dict().items()}
        # Latents in units of a middling step, or larger ones where the greatest step is too large for a file else.
        steps = function.get_parameter(STEPS)
        middle = interpolated(function, torch.tensor([MIDDLE], device=steps.device))[1].flatten()
        unit = torch.maximum(middle, steps.exp().amax(0) / GREATEST)
        tensors, told = {**networks, **integers(function, unit)}, description(own.channels)
        neutral, scale = (0.0,) * own.channels, tuple((1 / unit).tolist())
        model = ModelFile(path.stem, "patch", dict(self.config), neutral, scale, tensors, told)
        models.write(model, path)

    @torch.no_grad()
    def _start(self, config: TransformConfig, weights: Mapping[str, Tensor]) -> None:
        """Begin as those layers of a transform that are at 1/8, with a linear map between them.

        It tells what the transform's decoder is given at 1/8 from what its encoder has there, as well as it can through
        so few channels (reduced-rank regression; Izenman, 1975).
        """
        trained, own = TransformModel(config), self.model.autoencoder
        trained.load_state_dict(weights)
        transform = trained.transform
        own.encoder.embed.load_state_dict(transform.encoder.embed.state_dict())
        own.encoder.fine.load_state_dict(transform.encoder.fine.state_dict(), strict=False)
        for block, known in zip(reversed(own.decoder.fine), reversed(transform.decoder.fine), strict=False):
            block.load_state_dict(known.state_dict())
        own.decoder.unembed.load_state_dict(transform.decoder.unembed.state_dict())
        given, wanted = list[Tensor](), list[Tensor]()
        transform.decoder.fine.register_forward_pre_hook(lambda _, inputs: wanted.append(_positions(inputs[0])))
        for pictures in as_pictures(crops(self.photos, self.side, STARTED, 0)).split(self.count):
            lambdas = torch.full((len(pictures),), LAMBDAS[0])
            given.append(_positions(own.encoder.features(2 * pictures - 1)))
            transform.decode(transform.encode(pictures, lambdas), lambdas, *pictures.shape[2:])
        mean, goal = torch.cat(given).mean(0), torch.cat(wanted).mean(0)
        x, y = torch.cat(given) - mean, torch.cat(wanted) - goal
        regression = torch.linalg.lstsq(x, y).solution
        axes = torch.linalg.eigh(torch.cov((x @ regression).T))[1].flip(1)[:, : own.channels]
        own.decoder.expand.weight.copy_(axes)
        own.decoder.expand.bias.copy_(goal)
        project = (regression @ axes).T
        unit = self._effect((x @ project.T).std()) / (STEP * MIDDLE**0.5)
        own.decoder.expand.weight.div_(unit)
        own.encoder.project.weight.copy_(unit * project)
        own.encoder.project.bias.copy_(-unit * project @ mean)

    def _effect(self, deviation: Tensor) -> Tensor:
        """Error in a patch, the root of its sum of squares in -1..1, for one of 1 in a channel of the latent.

        Args:
            deviation: of the latent's samples, to which errors are small.
        """
        own, noise = self.model.autoencoder.decoder, 0.05 * deviation
        latents = deviation * torch.randn(1, self.model.autoencoder.channels, 16, 16)
        change = own(latents + noise * torch.randn_like(latents)) - own(latents)
        effect: Tensor = change.square().mean().mul(PIXELS / latents.shape[1]).sqrt() / noise
        return effect


def is_autoencoder(path: Path) -> bool:
    """Whether a file is of an autoencoder with a universal function, rather than of a transform."""
    with opened(path) as file:
        return f"function.{STEPS}" in file.header


def network_from(path: Path, latent: int | None = None) -> Config:
    """Shape of an autoencoder that starts as a file says, which `AutoencoderTask` takes: its own, or a transform's.

    Args:
        latent: channels of the latent; by default those of the file, or of `Config`.
    """
    if is_autoencoder(path):
        config = read_autoencoder(path)[0]
    else:
        transform = read_weights(path)[0]
        config = Config(width=transform.fine, expansion=transform.expansion)
    return config if latent is None else replace(config, latent=latent)


def read_autoencoder(path: Path) -> tuple[Config, dict[str, Tensor]]:
    """Shape, and weights of a `Model` in float32, from what `AutoencoderTask.export` made.

    Raises:
        ModelFileError: the file is damaged, or something else.
    """
    model = models.read(path, "patch")
    knots = {name: w.float() * 2.0**-WEIGHT_BITS for name, w in model.component("function").items()}
    # Means are 0: what was trained is the latent before it was scaled, and steps of that.
    knots[STEPS] = (knots[STEPS] / torch.tensor(model.scale)).log()
    weights = {f"autoencoder.{name}": w.float() for name, w in model.networks.items()}
    weights |= {f"function.{name}": w for name, w in Weights(knots).state_dict().items()}
    config = Config(**model.config)
    check_shapes(weights, Model(config).state_dict(), str(path))
    return config, weights


def _positions(features: Tensor) -> Tensor:
    """(batch, channels, h, w) to (batch * h * w, channels)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)
