"""The learned transform's networks: they take any picture, start as a KLT, and serve every lambda."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import photo_tensor, psnr

from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.networks.coding_order import OFFSETS, PRESETS, Preset, phase_masks
from codec.autoencoders.networks.progressive_prior import ProgressivePrior
from codec.autoencoders.networks.transform_config import Config
from codec.training import transform as training
from codec.training.transform_network import Transform

TINY = Config(latent=12, fine=32, coarse=16, encoder=(1, 1), decoder=(1, 1), expansion=1, knots=3)
photo = partial(photo_tensor, "coffee.png", top=100, left=100)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (15, 16), (17, 33), (48, 64)])
def test_takes_pictures_of_any_size(height: int, width: int) -> None:
    transform, lambdas = Transform(TINY), torch.tensor([1e-3])
    latents = transform.encode(photo(height, width), lambdas)
    assert latents.shape == (1, 12, -(-height // 16), -(-width // 16))
    assert latents.dtype == torch.float32
    made = transform.decode(latents, lambdas, height, width)
    assert made.shape == (1, 3, height, width)
    assert made.isfinite().all()


def test_repeats_edges_outwards() -> None:
    """A picture that ends within a patch is coded as if it went on as it ends."""
    transform, lambdas = Transform(TINY), torch.tensor([1e-3])
    small = photo(20, 24)
    repeated = torch.nn.functional.pad(small, (0, 8, 0, 12), mode="replicate")
    torch.testing.assert_close(transform.encode(small, lambdas), transform.encode(repeated, lambdas))


def test_one_colour_has_the_same_latent_everywhere() -> None:
    """At edges, too, whatever the weights; and in a picture of any size."""
    transform, lambdas = Transform(TINY), torch.tensor([1e-3])
    for parameter in transform.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    colour = torch.tensor([0.0, 1.0, 0.1]).view(1, 3, 1, 1)
    latents = transform.encode(colour.expand(1, 3, 80, 96), lambdas)
    torch.testing.assert_close(latents, latents[:, :, :1, :1].expand_as(latents))
    small = transform.encode(colour, lambdas)
    torch.testing.assert_close(small, latents[:, :, :1, :1])


def test_starts_as_a_klt() -> None:
    """More channels keep more, and the variances say what is lost."""
    picture, lambdas = photo(256, 256), torch.tensor([1e-3])
    found = {}
    for latent in (16, 96, 768):
        torch.manual_seed(0)
        transform = Transform(Config(latent, 192, 768, encoder=(1, 1), decoder=(1, 1), expansion=2))
        variances = transform.start_as_klt(picture)
        assert variances.shape == (latent,)
        assert (variances.diff() <= 1e-5).all()
        with torch.no_grad():
            found[latent] = psnr(transform.decode(transform.encode(picture, lambdas), lambdas, 256, 256), picture)
    assert found[16] + 3 < min(found[96], found[768])  # but for the noise that it starts with
    total = (2 * picture - 1).square().mean() * 768
    lost = (total - variances[:16].sum()) / 768 / 4
    assert found[16] == pytest.approx(float(-10 * lost.log10()), abs=0.3)


def test_gains_fall_with_lambda_and_are_interpolated() -> None:
    transform = Transform(TINY)
    low, high = TINY.lambdas
    gains = transform.gains(torch.tensor([low / 10, low, (low * high) ** 0.5, high, 10 * high])).detach()
    assert gains.shape == (5, 12, 1, 1)
    torch.testing.assert_close(gains[0], gains[1])
    torch.testing.assert_close(gains[3], gains[4])
    torch.testing.assert_close(gains[2], (gains[1] * gains[3]).sqrt())
    assert (gains[1] > gains[2]).all()
    assert (gains[2] > gains[3]).all()


def test_counts_its_multiplications() -> None:
    """As a count of weights, each used once at each position of its grid, says."""
    for config in (TINY, Config()):
        transform = Transform(config)
        for name, network in (("encoder", transform.encoder), ("decoder", transform.decoder)):
            total = 0.0
            for key, weight in network.named_parameters():
                if weight.dim() > 1 and key != "modulation":
                    fine = key.startswith(("embed", "unembed", "fine"))
                    total += weight.numel() / (64 if fine else 256) / 1000
            assert config.macs[name] == pytest.approx(total)


def test_default_decoder_costs_at_most_34_thousand_multiplications_a_pixel() -> None:
    assert Config().macs["decoder"] < 34


@pytest.mark.parametrize(
    "wrong",
    [
        {"latent": 0}, {"latent": 400}, {"fine": "192"}, {"coarse": 2000}, {"encoder": (1, -1)}, {"encoder": (1,)},
        {"knots": 1}, {"lambdas": (0.1, 0.01)}, {"lambdas": (0, 1)}, {"lambdas": (1e-3, float("nan"))},
        {"unknown": 1}, {"expansion": True},
    ],
)  # fmt: skip
def test_refuses_configurations_that_make_no_sense(wrong: dict[str, object]) -> None:
    told = {"architecture": "transform", "config": wrong}
    with pytest.raises(ModelFileError, match="some file holds no learned transform"):
        training.read_config({"clric": json.dumps(told)}, Path("some file"))


def test_configurations_come_back_from_their_files() -> None:
    assert training.read_config(training.describe(TINY), Path("some file")) == TINY
    for told, message in (
        ({}, "holds no learned transform"),
        ({"clric": '{"architecture": "base", "config": {}}'}, "of kind 'base', not a learned transform"),
    ):
        with pytest.raises(ModelFileError, match=message):
            training.read_config(told, Path("some file"))


class TestProgressivePrior:
    CHANNELS = 10

    def prior(self, preset: Preset) -> ProgressivePrior:
        torch.manual_seed(0)
        prior = ProgressivePrior(preset, self.CHANNELS, 3, hidden=24)
        for parameter in prior.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return prior

    def order(self, preset: Preset, row: int, column: int, channel: int) -> tuple[int, int, int, int]:
        """Place of an element in the order of coding: halving, offset, phase and group."""
        for halving in range(preset.halvings):
            offset = (row >> halving) % 2, (column >> halving) % 2
            if offset != (0, 0):
                y, x = (row >> 1 + halving) % 2, (column >> 1 + halving) % 2
                phase = {1: 0, 2: (y + x) % 2, 4: 2 * ((y + x) % 2) + y}[preset.phases[halving]]
                group = sum(channel >= bound for bound in preset.bounds(self.CHANNELS)[1:])
                return preset.halvings - halving, OFFSETS.index(offset), phase, group
        return 0, 0, 0, 0

    @pytest.mark.parametrize("name", PRESETS)
    @pytest.mark.parametrize(
        ("row", "column", "channel"),
        [(0, 0, 3), (8, 8, 0), (4, 8, 9), (2, 2, 1), (9, 5, 0), (3, 4, 4), (6, 7, 9), (5, 3, 2), (2, 3, 9), (7, 12, 9)],
    )
    def test_is_causal(self, name: str, row: int, column: int, channel: int) -> None:
        """An element changes the distributions of later ones only."""
        preset, knots = PRESETS[name], torch.tensor([[0.3, 0.7, 0.0]])
        prior = self.prior(preset)
        latents = torch.randn(1, self.CHANNELS, 16, 16)
        changed = latents.clone()
        changed[0, channel, row, column] += 3
        when, differing = self.order(preset, row, column, channel), 0
        for before, after in zip(prior(latents, knots), prior(changed, knots), strict=True):
            for place in ((before - after).abs() > 1e-5).nonzero().tolist():
                assert self.order(preset, place[2], place[3], place[1]) > when
                differing += 1
        last = preset.halvings, len(OFFSETS) - 1, preset.phases[0] - 1, len(preset.bounds(self.CHANNELS)) - 2
        assert differing or when == last

    @pytest.mark.parametrize("phases", [1, 2, 4])
    def test_phases_share_the_cells(self, phases: int) -> None:
        masks = np.stack(list(phase_masks(phases, 6, 8)))
        assert (masks.sum(0) == 1).all()
        assert (masks.mean((1, 2)) == 1 / phases).all()

    def test_presets_have_the_steps_of_their_description(self) -> None:
        """One for what is left at last, and one for each offset, phase and group."""
        steps = {n: 1 + len(OFFSETS) * sum(p.phases) * (1 + len(p.groups)) for n, p in PRESETS.items()}
        assert steps == {"baseline": 10, "normal": 28, "extra": 121}

    @pytest.mark.parametrize("name", PRESETS)
    def test_starts_as_wide_as_variances_say(self, name: str) -> None:
        prior = ProgressivePrior(PRESETS[name], self.CHANNELS, 3, hidden=24)
        variances = torch.linspace(4, 0.01, self.CHANNELS)
        prior.start(variances)
        _, log_scale = prior(torch.zeros(2, self.CHANNELS, 32, 16), torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]]))
        assert log_scale.shape == (2, self.CHANNELS, 32, 16)
        coarsest = log_scale[:, :, :: prior.cell, :: prior.cell]
        expected = (variances.sqrt() / 2).log()[None, :, None, None].expand_as(coarsest)
        torch.testing.assert_close(coarsest, expected)
