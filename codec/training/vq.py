"""Training of an autoencoder with codebooks of several sizes, all at once.

The entries of a codebook are running means of the latents that are nearest to them (van den Oord, Vinyals and
Kavukcuoglu, 2017); one that hardly any latent is near to is moved to where some are. The small codebooks begin as
k-means of the largest one, as in "Extreme image compression using fine-tuned VQGANs" (Mao et al., 2023).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.k_means import k_means
from codec.autoencoders.model_file import build
from codec.autoencoders.networks.transform_config import PATCH
from codec.autoencoders.networks.vq import Config
from codec.autoencoders.tensor_file import METADATA, check_shapes, opened, read_safetensors
from codec.device import reduced_precision
from codec.distortion.pixels import picture_error, squared_error, structural_error
from codec.distortion.texture import texture
from codec.distortion.wasserstein import LEVELS, wasserstein
from codec.files import write
from codec.training import models
from codec.training.data import Photos, PhotoTask, as_pictures, crops
from codec.training.loop import Progress
from codec.training.optimizers import MuonAndAdam, Schedule, wide
from codec.training.quantiser import Quantiser
from codec.training.transform import compile_blocks, read_weights
from codec.training.vgg import Vgg

DECAY = 0.95  # of what entries have been means of, in each iteration
LASTING = 1e4  # latents that a codebook's entries are means of after a while, of usual batches
DEAD = 0.05  # part of the mean use of a codebook's entries below which one is moved
STARTED = 256  # pictures whose latents the first codebooks are made of
COMMITMENT = 1.0  # weight of the latents' squared distance from their entries, relative to the latents' energy
SEEN = 128  # side of the part of each crop whose features are compared
SCALE = 100.0  # of the loss, which is about 1 then


@dataclass(frozen=True)
class Settings:
    """Network, crops and loss of a training.

    Attributes:
        side: of the crops, a multiple of 16.
        batch: crops at once.
        texture: weight of the Wasserstein distortion beside `picture_error`.
    """

    network: Config = field(default_factory=Config)
    side: int = 256
    batch: int = 16
    texture: float = 0.01


class Model(nn.Module):
    """The autoencoder, and how much each entry was used, in latents."""

    use: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.autoencoder = Quantiser(config)
        self.register_buffer("use", torch.ones(config.starts[-1]))

    def forward(self, pictures: Tensor, books: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (batch, 3, h, w) as a decoder shows them, and squared distance of latents from their entries.

        That is relative to the latents' energy. Gradients pass quantisation as they are. In training, entries follow
        the latents that they stand for.
        """
        autoencoder = self.autoencoder
        latents = autoencoder.encode(pictures, books)
        quantised, places = autoencoder.quantised(latents.detach(), books)
        if self.training and latents.isfinite().all():  # or entries would be lost, though the step is not taken
            self._follow(latents.detach(), places, books)
        commitment = (latents - quantised).square().mean() / latents.detach().square().mean()
        passed = latents + (quantised - latents).detach()
        return autoencoder.decode(passed, books, *pictures.shape[2:]), commitment

    @torch.no_grad()
    def _follow(self, latents: Tensor, places: Tensor, books: Tensor) -> None:
        """Move entries towards the means of their latents, and those without any to some of these."""
        starts = self.autoencoder.config.starts
        for book in books.unique().tolist():
            part = slice(starts[book], starts[book + 1])
            entries, use = self.autoencoder.entries[part], self.use[part]
            points = latents[books == book].permute(0, 2, 3, 1).flatten(0, 2)
            indices = places[books == book].flatten() - part.start
            before, counts = use * DECAY, indices.bincount(minlength=len(use))
            use.copy_(before + counts)
            sums = (entries * before[:, None]).index_add_(0, indices, points)
            entries.copy_(sums / use.clamp_min(1e-6)[:, None])
            dead, usual = torch.nonzero(use < DEAD * use.mean())[:, 0], use.mean()
            entries[dead], use[dead] = points[torch.randint(len(points), (len(dead),), device=points.device)], usual


class VqTask(PhotoTask):
    """Training of an autoencoder with codebooks from photos.

    Args:
        vgg: features that pictures are compared by, beside their samples.
        held_out: pictures (count, 3, side, side) in 0..1 to validate with.
        weights: of a learned transform to start from; or what `export` made, or a model for profile `vq`.
        compiled: as in `TransformTask`.
    """

    name = "vq"
    schedule = Schedule(2e-4, 100)
    model: Model

    def __init__(
        self, settings: Settings, photos: Photos, held_out: Tensor, vgg: Vgg, weights: Path, compiled: bool = False
    ) -> None:
        super().__init__(photos, settings.side, settings.batch)
        self.settings, self.held_out, self.vgg = settings, held_out, vgg
        self.config: Mapping[str, Any] = {"network": asdict(settings.network)}
        torch.manual_seed(0)
        self.model = Model(settings.network)
        if has_codebooks(weights):
            self.model.load_state_dict(read_codebooks(weights)[1])
        else:
            self._start(read_weights(weights)[1])
        if compiled:
            compile_blocks(self.model)

    def optimizer(self) -> MuonAndAdam:
        return MuonAndAdam(wide(self.model), self.model.parameters())

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        pictures, settings = as_pictures(batch), self.settings
        count = len(settings.network.sizes)
        books = (torch.randperm(len(pictures), device=batch.device) + iteration) % count
        with reduced_precision(batch.device):
            made, commitment = self.model(pictures, books)
        error, texture = picture_error(made, pictures).mean(), self._texture(made, pictures).mean()
        squares = squared_error(made.detach(), pictures).mean()
        distortion = error + settings.texture * texture
        figures = {"error": error, "squared_error": squares, "texture": texture, "commitment": commitment}
        figures = {name: figure.detach() for name, figure in figures.items()}
        return SCALE * distortion + COMMITMENT * commitment, figures

    def _texture(self, made: Tensor, pictures: Tensor) -> Tensor:
        """Wasserstein distortion of a part of each picture, at a random place: (batch,).

        Details count where they are where people look for them, at edges and on what is smooth.
        """
        vgg, side = self.vgg.to(made.device), min(SEEN, *made.shape[2:])
        top, left = (int(torch.randint(length - side + 1, ())) for length in made.shape[2:])
        made, pictures = (x[:, :, top : top + side, left : left + side] for x in (made, pictures))
        with reduced_precision(made.device):
            with torch.no_grad():
                wanted = vgg(pictures)
            found = vgg(made)
        sigma = LEVELS * texture(pictures, PATCH)
        return wasserstein([made, *(x.float() for x in found)], [pictures, *(x.float() for x in wanted)], sigma)

    def validate(self, model: nn.Module, progress: Progress, folder: Path) -> dict[str, Any]:
        """PSNR in dB, structural error, and bits of an index that all positions' entries would take, by codebook."""
        autoencoder, found = cast("Model", model).autoencoder, {}
        pictures = self.held_out.to(autoencoder.entries.device)
        for book, size in enumerate(self.settings.network.sizes):
            books = torch.full((len(pictures),), book, device=pictures.device)
            with torch.no_grad():
                quantised, places = autoencoder.quantised(autoencoder.encode(pictures, books), books)
                made = autoencoder.decode(quantised, books, *pictures.shape[2:]).clamp(0, 1)
            part = places.flatten().bincount().float() / places.numel()
            found[str(size)] = {
                "psnr": round(float((-10 * squared_error(made, pictures).log10()).mean()), 3),
                "structure": round(float(structural_error(made, pictures).mean()), 4),
                "bits": round(float(torch.special.entr(part).sum() / math.log(2)), 3),
            }
        return found

    def export(self, path: Path) -> None:
        """Write the weights in float16, for the training of priors."""
        told = {METADATA: json.dumps({"architecture": self.name, "config": self.config["network"]}, sort_keys=True)}
        write(path, save({name: w.half().cpu().contiguous() for name, w in self.model.state_dict().items()}, told))

    @torch.no_grad()
    def _start(self, transform: Mapping[str, Tensor]) -> None:
        """Begin as the transform at its lowest rate, with its latent's main directions, and with k-means of these."""
        autoencoder, (encoder, decoder) = self.model.autoencoder, _parts(transform)
        gain = transform["transform.log_gain"][-1].exp()
        pictures = as_pictures(crops(self.photos, self.settings.side, STARTED, 0))
        for part, own in ((autoencoder.encoder, encoder), (autoencoder.decoder, decoder)):
            known = {n: w for n, w in own.items() if n in part.state_dict() and w.shape == part.state_dict()[n].shape}
            part.load_state_dict(known, strict=False)
            part.modulation.copy_(own["modulation"][-1].expand_as(part.modulation))
        project, expand = encoder["project.weight"] * gain[:, None], decoder["expand.weight"] / gain
        features: list[Tensor] = []
        hook = autoencoder.encoder.project.register_forward_pre_hook(lambda _, given: features.append(given[0]))
        for some in pictures.split(self.settings.batch):
            autoencoder.encode(some, torch.zeros(len(some), dtype=torch.int64))
        hook.remove()
        points = torch.cat(features).permute(0, 2, 3, 1).flatten(0, 2) @ project.T + encoder["project.bias"] * gain
        mean, axes = (
            points.mean(0),
            torch.linalg.eigh(torch.cov(points.T))[1].flip(1)[:, : self.settings.network.dimensions],
        )
        autoencoder.encoder.project.weight.copy_(axes.T @ project)
        autoencoder.encoder.project.bias.copy_(axes.T @ (encoder["project.bias"] * gain - mean))
        autoencoder.decoder.expand.weight.copy_(expand @ axes)
        autoencoder.decoder.expand.bias.copy_(decoder["expand.bias"] + expand @ mean)
        autoencoder.entries.copy_(codebooks((points - mean) @ axes, self.settings.network.sizes))


def _parts(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of a transform's encoder and decoder, by their names in these."""
    encoder, decoder = (
        {name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)}
        for start in ("transform.encoder.", "transform.decoder.")
    )
    return encoder, decoder


def codebooks(points: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Entries (sum of sizes, dimensions): the largest codebook by k-means of points (n, dimensions), others of that.

    Raises:
        ImportError: scikit-learn is not there.
    """
    entries, labels = k_means(points, sizes[-1])
    counts = labels.bincount(minlength=sizes[-1])
    return torch.cat([*(k_means(entries, size, counts)[0] for size in sizes[:-1]), entries])


def has_codebooks(path: Path) -> bool:
    """Whether a file is what `VqTask.export` made, or a model for profile `vq`, rather than a transform."""
    with opened(path) as file:
        return "autoencoder.entries" in file.header or "entries" in file.header


def network_from(path: Path) -> Config:
    """Shape of an autoencoder that starts as a file that `VqTask` takes says: its own, or with a transform's layers."""
    if has_codebooks(path):
        return read_codebooks(path)[0]
    transform = read_weights(path)[0]
    return Config(fine=transform.fine, coarse=transform.coarse, expansion=transform.expansion)


def read_codebooks(path: Path) -> tuple[Config, dict[str, Tensor]]:
    """Configuration, and weights of a `Model` in float32, from what `VqTask.export` made, or a model for profile `vq`.

    Raises:
        ModelFileError: the file is damaged, or something else.
    """
    with opened(path) as file:
        for_files = "entries" in file.header
    if for_files:
        model = models.read(path, "vq")
        config = Config(**model.config["autoencoder"])
        networks = build(model).state_dict().items()
        weights = {f"autoencoder.{name}": w for name, w in networks if not name.startswith("transformer.")}
        weights["use"] = torch.cat([torch.full((size,), LASTING / size) for size in config.sizes])
    else:
        metadata, tensors = read_safetensors(path)
        try:
            config = Config(**json.loads(metadata[METADATA])["config"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{path} is no export of the training of codebooks: {error}") from error
        weights = {name: tensor.float() for name, tensor in tensors.items()}
    check_shapes(weights, Model(config).state_dict(), str(path))
    return config, weights
