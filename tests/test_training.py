"""All trainings: they resume, learn, and export what the package uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file
from test_transform_training import TINY, assert_same, state
from torch import Tensor

from codec.autoencoders import import_checkpoint, store
from codec.autoencoders.autoencoder import Autoencoder
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.networks.progressive_prior import laplace_bits
from codec.autoencoders.networks.residual import Config
from codec.autoencoders.perceptual_loss import FILE
from codec.overfit import fit, initialisation, reference_weights
from codec.overfit.lambda_conditioned_weights import LAST
from codec.profiles.clric.initialisation import universal_of
from codec.training import bases as base_functions
from codec.training import perception, prior, synthetic
from codec.training.__main__ import main
from codec.training.autoencoder import AutoencoderTask
from codec.training.bases import FitTask, GuessTask
from codec.training.data import HELD_OUT, Photos, as_pictures
from codec.training.function import FunctionTask
from codec.training.loop import CHECKPOINT, Budget, Loop, Task, read_log
from codec.training.lpips import Lpips
from codec.training.optimizers import Schedule
from codec.training.perception import PerceptionTask
from codec.training.transform import OFTEN, TransformTask
from codec.training.weights import whole

SAMPLE = Path(__file__).parent.parent / "samples" / "coffee.png"
SHIPPED = reference_weights.FILE.parent
# As wide as Muon takes it, in other respects tiny.
NETWORK = Config(latent=4, fine=32, coarse=32, encoder=(1, 1), decoder=(1, 1))


def random_lpips() -> Lpips:
    """Random weights, which make a distance all the same."""
    torch.manual_seed(0)
    metric = Lpips()
    weights = {name: w.abs() + 0.1 if name.startswith("lin") else w for name, w in metric.state_dict().items()}
    metric.load_state_dict(weights)
    return metric


@dataclass
class Material:
    """Data of tiny trainings."""

    photos: Photos
    held_out: Tensor
    lpips: Lpips


@pytest.fixture
def material() -> Material:
    with Image.open(SAMPLE) as image:
        picture = np.asarray(image.convert("RGB").crop((100, 100, 228, 196)))
    drawing = synthetic.draw(80, np.random.default_rng(0))
    photos = Photos(np.concatenate([picture.ravel(), drawing.ravel()]), ((96, 128), (80, 80)))
    held_out = as_pictures(torch.from_numpy(picture[None, :64, :64].copy()))
    return Material(photos, held_out, random_lpips())


TASKS: dict[str, Callable[[Material], Task]] = {
    "transform": lambda m: TransformTask(TINY, m.photos),
    "autoencoder": lambda m: AutoencoderTask(m.photos, m.held_out, m.lpips, NETWORK, 64, 2),
    "function": lambda m: FunctionTask(m.photos, m.held_out, m.lpips, store.load("base"), 64, 2),
    "perception": lambda m: PerceptionTask(m.photos, m.lpips, store.load("base"), 64, 2),
    "bases, first stage": lambda m: GuessTask(m.photos, 64, 2),
    "bases, second stage": lambda m: FitTask(m.photos, SHIPPED, 64, 2),
}


def shorten(cycle: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_functions, "CYCLE", fit.Schedule(warm_up=0, main=cycle, settle=0))


@pytest.mark.parametrize("name", TASKS)
def test_resumed_is_the_same_as_uninterrupted_bit_by_bit(
    name: str, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(5, monkeypatch)  # so that one is interrupted, and another one begins
    length = OFTEN + 1  # so that the transform has a batch of larger crops
    make, schedule = TASKS[name], Schedule(1e-3, 2)
    whole = Loop(make(material), tmp_path / "whole", schedule)
    whole.run(Budget(iterations=length))
    for stop in (3, length):
        torch.rand(stop)  # which must not matter
        resumed = Loop(make(material), tmp_path / "resumed", schedule)
        resumed.run(Budget(iterations=stop), workers=2)
    assert whole.progress.iteration == length
    assert_same(state(whole), state(resumed))


@pytest.mark.parametrize(
    ("name", "rate", "iterations", "bound"),
    [
        ("autoencoder", 1e-3, 25, 0.8), ("function", 3e-3, 15, 0.95),
        ("perception", 1e-3, 15, 0.5), ("perception, not apart", 1e-3, 15, 0.5), ("bases, first stage", 3e-3, 30, 0.9),
        ("bases, second stage", 3e-3, 15, 0.95),
    ],
)  # fmt: skip
def test_learns(
    name: str, rate: float, iterations: int, bound: float, material: Material, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The loss of a batch is less after this was learnt for a while."""
    shorten(iterations, monkeypatch)
    if "not apart" in name:
        monkeypatch.setattr(perception, "APART", 0)
    task = TASKS[name.removesuffix(", not apart")](material)
    batch = task.batch(0, 0)
    monkeypatch.setattr(task, "batch", lambda *_: batch)
    loop = Loop(task, tmp_path, Schedule(rate, 1))

    def loss(iteration: int) -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return task.loss(batch, iteration)[0].item()

    before = loss(0)
    loop.run(Budget(iterations=iterations))
    assert loss(iterations - 1) < bound * before


def test_differences_are_worth_no_less_than_nothing(material: Material, tmp_path: Path) -> None:
    task = TASKS["perception"](material)
    assert isinstance(task, PerceptionTask)
    with torch.no_grad():
        for importance in task.model.importance:
            importance.fill_(1e-9)
    Loop(task, tmp_path, Schedule(1e-2, 1)).run(Budget(iterations=2))
    least = [importance.min().item() for importance in task.model.importance]
    assert min(least) == 0


class TestCommand:
    """Trainings from the command line, each resumed once, and what they export."""

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        folder = tmp_path / "data" / "some"
        folder.mkdir(parents=True)
        for i in range(HELD_OUT + 2):
            Image.fromarray(synthetic.draw(72, np.random.default_rng(i))).save(folder / f"{i}.png")
        return tmp_path / "data"

    @pytest.fixture
    def lpips(self, tmp_path: Path) -> Path:
        save_file(random_lpips().state_dict(), tmp_path / "lpips.safetensors")
        return tmp_path / "lpips.safetensors"

    def run(self, *arguments: object) -> Result:
        return CliRunner().invoke(main, [*map(str, arguments)])

    def train(self, name: str, data: Path, folder: Path, exported: Path, *more: object) -> None:
        """Train twice for an iteration or more."""
        shared = ("--hours", 1e-7, "--checkpoint", folder, "--data", data, "--device", "cpu", "--export", exported)
        for done in (1, 2):
            result = self.run(name, *shared, "--side", 64, "--batch", 1, "--validate", done - 1, *more)
            assert result.exit_code == 0, result.output
            assert torch.load(folder / CHECKPOINT, weights_only=True)["iteration"] == done
        with Image.open(folder / "curves.png") as plot:
            assert min(plot.size) > 200

    def test_autoencoder(self, data: Path, lpips: Path, tmp_path: Path) -> None:
        path, folder = tmp_path / "mine.safetensors", tmp_path / "run"
        self.train("autoencoder", data, folder, path, "--lpips", lpips, "--latent", 5)
        trained = Autoencoder(import_checkpoint.read(path), torch.device("cpu"))
        assert (trained.model.name, trained.channels) == ("mine", 5)
        assert trained.encode(torch.rand(1, 3, 64, 64)).shape == (1, 5, 8, 8)
        figures = read_log(folder)[-1]["validation"]
        assert figures.keys() == {"not quantised", "lambda 0.02", "lambda 0.1", "lambda 0.5"}
        assert figures["lambda 0.02"]["bpp"] > figures["lambda 0.5"]["bpp"] > 0

    def test_function(self, data: Path, lpips: Path, tmp_path: Path) -> None:
        path, folder = tmp_path / "mine.safetensors", tmp_path / "run"
        self.train("function", data, folder, path, "--lpips", lpips)
        trained, before = import_checkpoint.read(path), store.load("base")
        assert trained.name == "mine"
        assert trained.prefix != before.prefix
        assert all(torch.equal(trained.networks[name], w) for name, w in before.networks.items())
        universal = universal_of(trained)
        spec = universal.spec(8, 8, 16)
        assert {name: w.shape for name, w in universal.weights(300).items()} == spec.weight_shapes
        assert (universal.step(1) < universal.step(LAST)).all()
        figures = read_log(folder)[-1]["validation"]
        assert figures["lambda 0.02"]["bpp"] > figures["lambda 0.5"]["bpp"] > 0

    def test_perception(self, data: Path, lpips: Path, tmp_path: Path) -> None:
        path = tmp_path / "mine.safetensors"
        self.train("perception", data, tmp_path / "run", path, "--lpips", lpips)
        self.assert_alike(path, FILE)

    def test_bases(self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shorten(3, monkeypatch)
        first, second = tmp_path / "first", tmp_path / "second"
        self.train("bases", data, tmp_path / "run1", first)
        self.train("bases", data, tmp_path / "run2", second, "--start", first)
        for file in (reference_weights.FILE, initialisation.FILE):
            self.assert_alike(first / file.name, file)
            self.assert_alike(second / file.name, file)
        analyses = [(folder / initialisation.FILE.name).read_bytes() for folder in (first, second)]
        assert analyses[0] == analyses[1]
        assert (
            load_file(first / reference_weights.FILE.name).keys()
            == load_file(second / reference_weights.FILE.name).keys()
        )
        refused = self.run("bases", "--hours", 1, "--checkpoint", tmp_path / "run2", "--data", data, "--side", 64)
        assert "was trained with task bases, second stage, not bases, first stage" in refused.output

    def assert_alike(self, path: Path, shipped: Path) -> None:
        """Both have the same names, shapes and types."""
        a, b = ({name: (w.shape, w.dtype) for name, w in load_file(file).items()} for file in (path, shipped))
        assert a == b

    def test_lists_what_can_be_trained(self) -> None:
        for arguments in ((), ("--help",)):
            output = self.run(*arguments).output
            assert all(name in output for name in ("autoencoder", "bases", "function", "perception", "transform"))

    def test_says_what_is_wrong(self, data: Path, lpips: Path, tmp_path: Path) -> None:
        shared = ("--hours", 1, "--checkpoint", tmp_path / "run", "--data", data)
        for arguments, message in (
            (("autoencoder", "--lpips", lpips, "--side", 128), "none of 20 photos held out has 128 pixels"),
            (("autoencoder", "--lpips", lpips, "--side", 64, "--latent", 999), "latent must be a whole number from 1"),
            (("perception", "--lpips", lpips, "--side", 128), "none of 2 photos has 128 pixels"),
            (("perception", "--lpips", lpips, "--side", 64, "--model", "none"), "there is no model 'none'"),
            (("bases", "--side", 72), "must be a multiple of 16, 64 at least, not 72"),
            (("bases", "--side", 64, "--export", SHIPPED), "files depend on what is in"),
            (("bases", "--side", 64, "--start", tmp_path), "functions.safetensors is not a whole safetensors file"),
        ):
            result = self.run(*arguments, *shared)
            assert result.exit_code in (1, 2)
            assert message in " ".join(result.output.split()), result.output


def test_weights_that_files_cannot_hold_are_refused() -> None:
    assert whole({"a": torch.tensor([7.9, -1.0])})["a"].tolist() == [32358, -4096]
    for value in (8.0, -8.0, math.nan):
        with pytest.raises(ValueError, match="weights b are not all within 8, more than a file can hold"):
            whole({"a": torch.zeros(2), "b": torch.tensor([0.0, value])})


def test_weights_of_another_shape_start_nothing(tmp_path: Path, material: Material) -> None:
    for file in (reference_weights.FILE, initialisation.FILE):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(reference_weights.FILE)
    save_file(
        {**weights, "arm.output": weights["arm.output"][:, :1].contiguous()}, tmp_path / reference_weights.FILE.name
    )
    with pytest.raises(ModelFileError, match=r"functions.safetensors does not fit its kind: weights arm.output are"):
        FitTask(material.photos, tmp_path, 64, 2)


def test_lpips_is_a_distance(tmp_path: Path) -> None:
    save_file(random_lpips().state_dict(), tmp_path / "lpips.safetensors")
    metric = Lpips.load(tmp_path / "lpips.safetensors")
    a, b = torch.rand(2, 1, 3, 64, 80)
    assert metric(a, a).item() == 0
    assert metric(a, b).item() == pytest.approx(metric(b, a).item())
    assert metric(a, (a + b) / 2).item() < metric(a, b).item()


class TestPrior:
    def test_bits_are_those_of_laplace_distributions(self) -> None:
        mean, log_scale = torch.randn(2, 500, dtype=torch.float64)
        values = mean + 2 * log_scale.exp() * torch.randn(500, dtype=torch.float64)
        reference = torch.distributions.Laplace(mean, log_scale.exp())
        probability = reference.cdf(values + 0.5) - reference.cdf(values - 0.5)
        torch.testing.assert_close(laplace_bits(values, mean, log_scale), -probability.log2())
        far = torch.tensor([1e4, 2e4]), torch.zeros(2), torch.zeros(2)
        torch.testing.assert_close(laplace_bits(*far), far[0] / math.log(2), rtol=1e-3, atol=0)

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
