"""All trainings: they resume, learn, and export what the package uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from pictures import photo
from PIL import Image
from safetensors.torch import load_file, save_file
from test_transform_training import TINY, assert_same, state
from torch import Tensor

from codec.autoencoders import import_checkpoint, store
from codec.autoencoders.autoencoder import Autoencoder
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.networks.patch import Config
from codec.autoencoders.networks.progressive_prior import laplace_bits
from codec.overfit import arm, fit, initialisation, reference_weights
from codec.overfit.lambda_conditioned_weights import LAST, tensor_shapes
from codec.overfit.spec import Spec
from codec.profiles.clric.initialisation import universal_of
from codec.training import bases as base_functions
from codec.training import data as training_data
from codec.training import prior, synthetic
from codec.training.__main__ import main
from codec.training.autoencoder import AutoencoderTask, network_from
from codec.training.autoencoder import Model as PatchModel
from codec.training.autoencoder import Settings as AutoencoderSettings
from codec.training.bases import FitTask, GuessTask
from codec.training.data import HELD_OUT, Photos, as_pictures
from codec.training.function import FunctionTask
from codec.training.loop import CHECKPOINT, Budget, Loop, Task, read_log
from codec.training.optimizers import Schedule
from codec.training.transform import OFTEN, TransformTask, export
from codec.training.transform import Model as TransformModel
from codec.training.weights import whole

SAMPLE = Path(__file__).parent.parent / "samples" / "coffee.png"
SHIPPED = reference_weights.FILE.parent
# Of layers of `TINY`, and one in each network that no transform has.
PATCHES = AutoencoderSettings(Config(latent=5, width=64, encoder=2, decoder=2), 64, 2)


@dataclass
class Material:
    """Data of tiny trainings."""

    photos: Photos
    held_out: Tensor
    autoencoder: AutoencoderTask  # to be copied: how a regression is summed depends on places in memory


@pytest.fixture
def transform(tmp_path: Path) -> Path:
    """An export of a transform that has learned nothing."""
    torch.manual_seed(0)
    export(TINY.network, TransformModel(TINY.network).state_dict(), tmp_path / "transform.safetensors")
    return tmp_path / "transform.safetensors"


@pytest.fixture
def material(transform: Path) -> Material:
    picture = photo("coffee.png", 96, 128, top=100, left=100)
    drawing = synthetic.draw(80, np.random.default_rng(0))
    photos = Photos(np.concatenate([picture.ravel(), drawing.ravel()]), ((96, 128), (80, 80)))
    held_out = as_pictures(torch.from_numpy(picture[None, :64, :64].copy()))
    return Material(photos, held_out, AutoencoderTask(PATCHES, photos, None, transform))


TASKS: dict[str, Callable[[Material], Task]] = {
    "transform": lambda m: TransformTask(TINY, m.photos),
    "autoencoder": lambda m: deepcopy(m.autoencoder),
    "function": lambda m: FunctionTask(m.photos, m.held_out, store.load("base"), 64, 2),
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
        ("autoencoder", 1e-3, 25, 0.8), ("function", 3e-4, 25, 0.95),
        ("bases, first stage", 3e-3, 30, 0.9),
        ("bases, second stage", 3e-3, 15, 0.95),
    ],
)  # fmt: skip
def test_learns(
    name: str, rate: float, iterations: int, bound: float, material: Material, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The loss of a batch is less after this was learnt for a while."""
    shorten(iterations, monkeypatch)
    task = TASKS[name](material)
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


class TestCommand:
    """Trainings from the command line, each resumed once, and what they export."""

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        folder = tmp_path / "data" / "some"
        folder.mkdir(parents=True)
        for i in range(HELD_OUT + 2):
            Image.fromarray(synthetic.draw(72, np.random.default_rng(i))).save(folder / f"{i}.png")
        return tmp_path / "data"

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

    def test_autoencoder(self, transform: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Validated with few photos, as judging each of many takes a second."""
        monkeypatch.setattr(training_data, "HELD_OUT", 2)
        data, path, folder = tmp_path / "large", tmp_path / "mine.safetensors", tmp_path / "run"
        data.mkdir()
        for i in range(3):
            Image.fromarray(synthetic.draw(168, np.random.default_rng(i))).save(data / f"{i}.png")
        self.train("autoencoder", data, folder, path, "--start", transform, "--latent", 5)
        trained = Autoencoder(import_checkpoint.read(path), torch.device("cpu"))
        assert (trained.model.name, trained.channels) == ("mine", 5)
        assert trained.encode(torch.rand(1, 3, 64, 64)).shape == (1, 5, 8, 8)
        universal = universal_of(trained.model)
        assert universal.weights(300).keys() == universal.spec(8, 8, 5).weight_shapes.keys()
        middle = universal.step(universal.number(prior.MIDDLE))
        assert middle == pytest.approx(1, rel=0.01)  # the latent's scale is such
        points = read_log(folder)[-1]["validation"]["held out"]["points"]
        assert [point["lambda"] for point in points] == sorted((point["lambda"] for point in points), reverse=True)
        assert points[-1]["bpp"] > points[0]["bpp"] > 0

    def test_function(self, data: Path, tmp_path: Path) -> None:
        path, folder = tmp_path / "mine.safetensors", tmp_path / "run"
        self.train("function", data, folder, path, "--model", "base")
        trained, before = import_checkpoint.read(path), store.load("base")
        assert trained.name == "mine"
        assert trained.prefix != before.prefix
        assert all(torch.equal(trained.networks[name], w) for name, w in before.networks.items())
        universal = universal_of(trained)
        spec = universal.spec(8, 8, 16)
        assert {name: w.shape for name, w in universal.weights(300).items()} == spec.weight_shapes
        assert (universal.step(1) < universal.step(LAST)).all()
        figures = read_log(folder)[-1]["validation"]
        assert figures["lambda 0.003"]["bpp"] > figures["lambda 0.1"]["bpp"] > 0

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
            assert all(name in output for name in ("autoencoder", "bases", "function", "transform"))

    def test_says_what_is_wrong(self, data: Path, transform: Path, tmp_path: Path) -> None:
        start = ("--start", transform)
        shared = ("--hours", 1, "--checkpoint", tmp_path / "run", "--data", data)
        for arguments, message in (
            (("function", "--side", 64, "--model", "none"), "there is no model 'none'"),
            (("function", "--side", 128), "none of 20 photos held out has 128 pixels"),
            (("autoencoder", *start, "--side", 128), "none of 2 photos has 128 pixels"),
            (("autoencoder", *start, "--side", 64, "--latent", 999), "latent must be a whole number from 1"),
            (("autoencoder", "--start", SAMPLE, "--side", 64), "coffee.png is not a whole safetensors file"),
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


@pytest.mark.usefixtures("full_precision")
def test_autoencoders_go_on_from_what_was_exported(material: Material, tmp_path: Path) -> None:
    task, path = material.autoencoder, tmp_path / "exported.safetensors"
    task.export(path)
    assert network_from(path) == PATCHES.network
    again = AutoencoderTask(PATCHES, material.photos, None, path)
    for lam in prior.LAMBDAS:
        with torch.no_grad():
            (made, bits), (expected, wanted) = (
                each.model.code(material.held_out, torch.tensor([lam])) for each in (again, task)
            )
        assert (made - expected).square().mean().sqrt() < 0.01
        torch.testing.assert_close(bits, wanted, rtol=0.01, atol=0)


def test_weights_of_another_shape_start_nothing(tmp_path: Path, material: Material) -> None:
    for file in (reference_weights.FILE, initialisation.FILE):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(reference_weights.FILE)
    save_file(
        {**weights, "arm.output": weights["arm.output"][:, :1].contiguous()}, tmp_path / reference_weights.FILE.name
    )
    with pytest.raises(ModelFileError, match=r"functions.safetensors does not fit its kind: weights arm.output are"):
        FitTask(material.photos, tmp_path, 64, 2)


class TestPrior:
    def test_bits_are_those_of_laplace_distributions(self) -> None:
        mean, log_scale = torch.randn(2, 500, dtype=torch.float64)
        values = mean + 2 * log_scale.exp() * torch.randn(500, dtype=torch.float64)
        reference = torch.distributions.Laplace(mean, log_scale.exp())
        probability = reference.cdf(values + 0.5) - reference.cdf(values - 0.5)
        torch.testing.assert_close(laplace_bits(values, mean, log_scale), -probability.log2())
        far = torch.tensor([1e4, 2e4]), torch.zeros(2), torch.zeros(2)
        torch.testing.assert_close(laplace_bits(*far), far[0] / math.log(2), rtol=1e-3, atol=0)

    def test_is_that_of_files(self) -> None:
        """Bits that autoencoders learn by are those of the probability models that files are coded with."""
        torch.manual_seed(0)
        function = PatchModel(PATCHES.network).function
        for parameter in function.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        weights, step = prior.interpolated(function, torch.tensor([0.001, 0.01, 0.4]))
        spec = Spec(7, 6, 5, **prior.function_shape(5))
        grid = torch.randn(3, 5, 7, 6).round()
        bits = laplace_bits(grid, *prior.distributions(grid, weights, spec)).flatten(1).sum(1)
        expected = arm.rate([grid], weights, spec)  # in which no symbol has more than 16 bits
        torch.testing.assert_close(bits, expected, rtol=1e-3, atol=0)
        assert step.shape == (3, 5, 1, 1)

    def test_functions_are_between_knots(self) -> None:
        low, high = prior.LAMBDAS
        middle = (low * high) ** 0.5
        _, steps = prior.interpolated(prior.initial_function(2), torch.tensor([low / 2, low, middle, high, 2 * high]))
        expected = torch.tensor([low, low, middle, high, high]).div(prior.MIDDLE).sqrt()
        torch.testing.assert_close(steps[:, 0, 0, 0], expected)

    @pytest.mark.parametrize("channels", [1, 4, 16, 24, 40])
    def test_functions_of_any_latent_fit_the_format(self, channels: int) -> None:
        shapes = tensor_shapes(prior.description(channels), channels, prior.KNOTS)
        found = prior.integers(prior.initial_function(channels))
        assert {f"function.{name}": shape for name, shape in shapes.items()} == {n: w.shape for n, w in found.items()}
