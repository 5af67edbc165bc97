"""The autoencoder that ships with the package.

The loss is L1 + 0.3 LPIPS + lambda * bits per pixel, with lambda drawn for every picture: the latent is trained to be
cheap to code, at any rate. See `codec/training/prior.py` for how its rate is estimated.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from codec.autoencoders import model as model_files
from codec.autoencoders.networks.residual import Config, Residual
from codec.device import reduced_precision
from codec.files import replacing
from codec.training.data import Photos, PhotoTask, as_pictures
from codec.training.loop import Progress
from codec.training.lpips import Lpips
from codec.training.optimizers import MuonAndAdam, Schedule
from codec.training.prior import CheckerboardPrior, Gains, draw_lambdas

LPIPS_WEIGHT = 0.3
WIDE = 32  # rows and columns from which on a kernel is left to Muon
FRUGAL = 11_000  # iterations after which rate counts fully
TYPICAL = 0.1  # lambda at which the latent is scaled as its gains say
EVALUATED = (None, 0.02, 0.1, 0.5)  # lambdas; None is without quantisation


class Model(Residual):
    """Autoencoder, gains and prior."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.gains, self.prior = Gains(config.latent), CheckerboardPrior(config.latent)

    def forward(self, pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions, and bits per pixel (batch,), as training sees them.

        The rate is that of latents with uniform noise; the decoder gets half of the latents rounded, with gradients
        passed straight through, some with that noise, and some as they are (Minnen and Singh, ICIP 2020).
        """
        latents = self.encode_tile(pictures).float()
        gains = self.gains(lambdas)
        scaled = latents * gains
        noisy = scaled + torch.rand_like(scaled) - 0.5
        bits = self.prior(noisy, gains, lambdas) / pictures[0, 0].numel()
        rounded = scaled + (scaled.round() - scaled).detach()
        kind = torch.rand(len(pictures), 1, 1, 1, device=pictures.device)
        coded = torch.where(kind < 0.5, rounded, torch.where(kind < 0.85, noisy, scaled))
        return self.decode_tile(coded / gains), bits

    def code(self, picture: Tensor, lam: float | None) -> tuple[Tensor, float]:
        """A picture (1, 3, h, w) in 0..1 after its latent was really rounded, or not for None; and bits per pixel."""
        lambdas = torch.tensor([lam or TYPICAL], device=picture.device)
        latent, gains = self.encode_tile(picture), self.gains(lambdas)
        if lam is None:
            return self.decode_tile(latent).clamp(0, 1), math.nan
        scaled = (latent * gains).round()
        bits = self.prior(scaled, gains, lambdas).item() / picture[0, 0].numel()
        return self.decode_tile(scaled / gains).clamp(0, 1), bits


def frugality(iteration: int) -> float:
    """Factor of all lambdas: the latent first learns to be useful, then to be cheap."""
    return float(0.02 ** max(0.0, 1 - iteration / FRUGAL))


class AutoencoderTask(PhotoTask):
    """Training of an autoencoder from photos.

    Args:
        photos: to train on.
        held_out: pictures (count, 3, side, side) in 0..1 to validate with.
        lpips: weights of LPIPS.
        side: of the crops, a multiple of 8.
        count: crops at once.
    """

    name = "autoencoder"
    schedule = Schedule(6e-4, 500)
    model: Model

    def __init__(
        self, photos: Photos, held_out: Tensor, lpips: Lpips, network: Config, side: int = 128, count: int = 8
    ) -> None:
        super().__init__(photos, side, count)
        self.held_out, self.lpips = held_out, lpips
        self.config = asdict(network)
        torch.manual_seed(0)
        self.model = Model(network)

    def optimizer(self) -> MuonAndAdam:
        networks = [*self.model.encoder.parameters(), *self.model.decoder.parameters()]
        wide = [p for p in networks if p.dim() == 4 and min(p.shape[:2]) >= WIDE]
        return MuonAndAdam(wide, self.model.parameters())

    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        pictures = as_pictures(batch)
        lambdas = draw_lambdas(len(pictures), batch.device)
        some = slice(None, None, 2)  # LPIPS takes as long as the rest
        with reduced_precision(batch.device):
            made, bits = self.model(pictures, lambdas)
            seen = self.lpips.to(batch.device)(made[some], pictures[some]).mean()
        error = (made.float() - pictures).abs().mean()
        loss = error + LPIPS_WEIGHT * seen + frugality(iteration) * (lambdas * bits).mean()
        return loss, {"absolute_error": error.detach(), "lpips": seen.detach(), "bpp": bits.detach().mean()}

    def validate(self, model: nn.Module, progress: Progress, folder: Path) -> dict[str, Any]:
        """Mean bpp, PSNR and LPIPS by lambda."""
        trained, device = cast("Model", model), next(model.parameters()).device
        figures = {}
        for lam in EVALUATED:
            rows = []
            for picture in self.held_out.to(device).split(1):
                made, bpp = trained.code(picture, lam)
                psnr = -10 * math.log10((made - picture).square().mean().item())
                rows.append((bpp, psnr, self.lpips.to(device)(made, picture).item()))
            means = torch.tensor(rows).mean(0).tolist()
            named = {name: round(mean, 4) for name, mean in zip(("bpp", "psnr", "lpips"), means, strict=True)}
            figures["not quantised" if lam is None else f"lambda {lam:g}"] = named
        return figures

    def export(self, path: Path) -> None:
        """Write the autoencoder, in float16, with what its latent is like on the pictures that are held out."""
        device = next(self.model.parameters()).device
        latents = torch.cat([self.model.encode_tile(picture.to(device)) for picture in self.held_out.split(1)])
        gains = self.model.gains(torch.tensor([TYPICAL], device=device)).flatten()
        mean, scale = (tuple(round(v, 4) for v in t.tolist()) for t in (latents.mean((0, 2, 3)), gains))
        weights = self.model.state_dict()
        networks = {n: w.half().cpu() for n, w in weights.items() if n.startswith(("encoder", "decoder"))}
        with replacing(path) as temporary:
            model_files.write(model_files.Model(path.stem, "base", self.config, mean, scale, networks), temporary)
