"""The trainings: they run, resume, learn, and export what the package uses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.autoencoders import import_checkpoint, store
from codec.autoencoders.autoencoder import Autoencoder
from codec.autoencoders.networks.residual import Config
from codec.autoencoders.perceptual_loss import FILE
from codec.overfit import initialisation, reference_weights
from codec.overfit.fit import Schedule
from codec.overfit.lambda_conditioned_weights import LAST
from codec.profiles.clric import initialisation as starts
from codec.training import autoencoder, function, perception, prior
from codec.training import bases as training
from codec.training.lpips import Lpips
from codec.training.photos import Crops, load, to_tensor

SAMPLE = Path(__file__).parent.parent / "samples" / "coffee.png"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(SAMPLE) as image:
        for left in (0, 96):
            image.convert("RGB").crop((left, 0, left + 96, 80)).save(folder / f"{left}.png")
    return folder


@pytest.fixture
def large_photos(tmp_path: Path) -> Path:
    folder = tmp_path / "large"
    folder.mkdir()
    with Image.open(SAMPLE) as image:
        for left in (0, 200):
            image.convert("RGB").crop((left, 0, left + 200, 200)).save(folder / f"{left}.png")
    return folder


def test_both_stages_resume_and_export(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CYCLE", Schedule(warm_up=0, main=3, settle=0))
    checkpoint, exported = tmp_path / "state.pt", tmp_path / "exported"
    exported.mkdir()

    def run(stage: str, length: int) -> None:
        arguments = f"--images {photos} --checkpoint {checkpoint} --stage {stage} --minutes 5 --length {length}"
        arguments += f" --size 64 --batch 1 --export {exported}"
        result = CliRunner().invoke(training.main, arguments.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.output

    for stage, length, done in (
        ("guess", 2, {"guess": 2, "fit": 0}),
        ("guess", 4, {"guess": 4, "fit": 0}),
        ("fit", 1, {"guess": 4, "fit": 1}),
        ("fit", 2, {"guess": 4, "fit": 2}),
    ):
        run(stage, length)
        assert torch.load(checkpoint, weights_only=True)["done"] == done
    for file in (reference_weights.FILE, initialisation.FILE):
        trained, shipped = load_file(exported / file.name), load_file(file)
        assert {k: (v.shape, v.dtype) for k, v in trained.items()} == {
            k: (v.shape, v.dtype) for k, v in shipped.items()
        }


def test_training_lowers_the_cost(photos: Path) -> None:
    trainer = training.Trainer(64, "cpu")
    crops = Crops(load(sorted(photos.iterdir()), 64), 64, np.random.default_rng(0)).draw(2)
    costs = [trainer.guess(crops).sum() for _ in range(40)]
    assert costs[-1] < 0.9 * costs[0]


@pytest.fixture
def lpips(tmp_path: Path) -> Path:
    """Weights in the shape of LPIPS: random ones, which make a distance all the same."""
    torch.manual_seed(0)
    metric = Lpips()
    weights = {name: w.abs() + 0.1 if name.startswith("lin") else w for name, w in metric.state_dict().items()}
    save_file(weights, tmp_path / "lpips.safetensors")
    return tmp_path / "lpips.safetensors"


def test_lpips_is_a_distance(lpips: Path) -> None:
    metric = Lpips.load(lpips)
    a, b = torch.rand(2, 1, 3, 64, 80)
    assert metric(a, a).item() == 0
    assert metric(a, b).item() == pytest.approx(metric(b, a).item())
    assert metric(a, (a + b) / 2).item() < metric(a, b).item()


def test_autoencoder_resumes_exports_and_plots(large_photos: Path, tmp_path: Path, lpips: Path) -> None:
    checkpoint = tmp_path / "state.pt"

    def run(*more: str) -> Result:
        arguments = f"--images {large_photos} --lpips {lpips} --checkpoint {checkpoint} --minutes 5 --size 64 --batch 2"
        return CliRunner().invoke(
            autoencoder.main, [*arguments.split(), "--latent", "5", *more], catch_exceptions=False
        )

    for length in (2, 3):
        result = run("--length", str(length))
        assert result.exit_code == 0, result.output
        state = torch.load(checkpoint, weights_only=True)
        assert state["done"] == length
        assert {row["iteration"] for row in state["history"]} == set(range(2, length + 1))
    files = tmp_path / "mine.safetensors", tmp_path / "curves.png"
    assert run("--length", "3", "--export", str(files[0]), "--plot", str(files[1])).exit_code == 0
    with Image.open(files[1]) as plot:
        assert min(plot.size) > 200
    trained = Autoencoder(import_checkpoint.read(files[0]), torch.device("cpu"))
    assert (trained.model.name, trained.channels) == ("mine", 5)
    assert trained.encode(torch.rand(1, 3, 64, 64)).shape == (1, 5, 8, 8)
    assert "too few photos" in run("--size", "300").output


def test_autoencoder_learns(lpips: Path) -> None:
    trainer = autoencoder.Trainer(Config(latent=8), lpips, "cpu")
    with Image.open(SAMPLE) as image:
        photo = np.asarray(image.convert("RGB").crop((100, 100, 228, 228)).resize((64, 64)))
    losses = [trainer.step(to_tensor([photo, photo]), 1e-3, 0.01).item() for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]


def test_universal_function_resumes_and_exports(large_photos: Path, tmp_path: Path, lpips: Path) -> None:
    checkpoint, exported = tmp_path / "state.pt", tmp_path / "mine.safetensors"

    def run(*more: str) -> Result:
        arguments = f"--images {large_photos} --lpips {lpips} --checkpoint {checkpoint} --minutes 5 --batch 2"
        return CliRunner().invoke(function.main, [*arguments.split(), *more], catch_exceptions=False)

    for length in (1, 2):
        result = run("--size", "64", "--length", str(length), "--export", str(exported))
        assert result.exit_code == 0, result.output
        assert torch.load(checkpoint, weights_only=True)["done"] == length
    assert "lambda 0.1" in result.output
    trained, before = import_checkpoint.read(exported), store.load("base")
    assert trained.name == "mine"
    assert trained.prefix != before.prefix
    assert all(torch.equal(trained.networks[name], w) for name, w in before.networks.items())
    universal = starts.universal_of(trained)
    spec = universal.spec(8, 8, 16)
    assert {name: w.shape for name, w in universal.weights(300).items()} == spec.weight_shapes
    assert (universal.step(1) < universal.step(LAST)).all()
    assert "too few photos" in run("--size", "300").output


def test_universal_function_learns(lpips: Path) -> None:
    trainer = function.Trainer("base", lpips, 64, "cpu")
    with Image.open(SAMPLE) as image:
        photo = np.asarray(image.convert("RGB"))[100:164, 100:164]
    pictures, lambdas = to_tensor([photo, photo]), torch.tensor((0.05, 0.5))

    def cost() -> float:
        with torch.no_grad():
            distortion, bits = trainer.code(trainer.knots, pictures, lambdas)
        return float((distortion + lambdas * bits).sum())

    before = cost()
    for _ in range(15):
        trainer.step(pictures, 3e-3)
    assert cost() < 0.95 * before


def test_perception_resumes_and_exports(large_photos: Path, tmp_path: Path, lpips: Path) -> None:
    checkpoint, exported = tmp_path / "state.pt", tmp_path / "mine.safetensors"

    def run(*more: str) -> Result:
        arguments = f"--images {large_photos} --lpips {lpips} --checkpoint {checkpoint} --minutes 5 --batch 1"
        return CliRunner().invoke(perception.main, [*arguments.split(), *more], catch_exceptions=False)

    for length in (1, 2):
        result = run("--size", "64", "--length", str(length), "--export", str(exported))
        assert result.exit_code == 0, result.output
        assert torch.load(checkpoint, weights_only=True)["done"] == length
    trained, shipped = load_file(exported), load_file(FILE)
    assert {k: (v.shape, v.dtype) for k, v in trained.items()} == {k: (v.shape, v.dtype) for k, v in shipped.items()}
    assert "no photos" in run("--size", "300").output


@pytest.mark.parametrize("apart", [True, False])
def test_perception_learns(lpips: Path, apart: bool) -> None:
    trainer = perception.Trainer("base", lpips, "cpu")
    with Image.open(SAMPLE) as image:
        photo = np.asarray(image.convert("RGB"))[100:164, 100:164]
    pictures = to_tensor([photo])
    views = trainer.views(pictures)

    def losses() -> Tensor:
        with torch.no_grad():
            return trainer.losses(views, apart=apart)

    before = losses()
    for _ in range(15):
        trainer.step(pictures, 1e-3, apart=apart)
    assert losses().sum() < 0.5 * before.sum()


class TestPrior:
    def test_bits_are_those_of_laplace_distributions(self) -> None:
        mean, log_scale = torch.randn(2, 500, dtype=torch.float64)
        values = mean + 2 * log_scale.exp() * torch.randn(500, dtype=torch.float64)
        reference = torch.distributions.Laplace(mean, log_scale.exp())
        probability = reference.cdf(values + 0.5) - reference.cdf(values - 0.5)
        torch.testing.assert_close(prior.laplace_bits(values, mean, log_scale), -probability.log2())
        far = torch.tensor([1e4, 2e4]), torch.zeros(2), torch.zeros(2)
        torch.testing.assert_close(prior.laplace_bits(*far), far[0] / math.log(2), rtol=1e-3, atol=0)

    def test_is_causal(self) -> None:
        """Each element's distribution depends only on what comes before it: all first halves of a channel's
        checkerboard know earlier channels, second halves know the first half of their own too."""
        torch.manual_seed(0)
        model = prior.CheckerboardPrior(3, hidden=4)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        latent, gains, lambdas = torch.randn(1, 3, 6, 6), torch.ones(1, 3, 1, 1), torch.tensor([0.1])
        expected = model.distributions(latent, gains, lambdas)
        for channel in range(3):
            for half in (0, 1):
                changed = latent.clone()
                odd = (torch.arange(6)[:, None] + torch.arange(6)) % 2
                changed[:, channel] += odd == half
                found = model.distributions(changed, gains, lambdas)
                for before, after in zip(expected, found, strict=True):
                    torch.testing.assert_close(after[:, :channel], before[:, :channel])
                    same = odd == 0 if half == 0 else odd >= 0
                    torch.testing.assert_close(after[:, channel][:, same], before[:, channel][:, same])
                    if channel < 2:
                        assert not torch.equal(after[:, channel + 1], before[:, channel + 1])

    def test_gains_fall_with_lambda(self) -> None:
        lambdas = torch.tensor((0.001, 0.005, 0.1, 3.0, 50.0))
        gains = prior.Gains(2)(lambdas)
        assert gains.shape == (5, 2, 1, 1)
        assert torch.equal(gains[0], gains[1])
        assert torch.equal(gains[3], gains[4])
        assert (gains[1] > gains[2]).all()
        assert (gains[2] > gains[3]).all()
