"""The training of the learned transform, and the loop that it shares: on made-up pictures, for seconds."""

from __future__ import annotations

import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from pictures import photo, photo_tensor
from PIL import Image
from torch import Tensor

from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.networks.transform_config import Config
from codec.distortion.pixels import coarse_error, picture_error, squared_error, structural_error
from codec.training import __main__ as command
from codec.training import plots, synthetic, validation
from codec.training.data import HELD_OUT, Photos, crop, find_benchmark, find_photos
from codec.training.loop import CHECKPOINT, DECAYED, Budget, Loop, read_log
from codec.training.optimizers import MuonAndAdam, Schedule, orthogonalised
from codec.training.transform import Model, Settings, TransformTask, export, read_weights
from codec.training.validation import Validation

SAMPLE = Path(__file__).parent.parent / "samples" / "coffee.png"
# As wide as Muon takes it, in other respects tiny.
TINY = Settings(Config(latent=8, fine=64, coarse=64, encoder=(1, 1), decoder=(1, 1), expansion=1, knots=3), 64, 2)
SCHEDULE = Schedule(1e-3, 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of made-up pictures, of which none but three are to train on."""
    for name, count in (("drawings/a", HELD_OUT + 3), ("kodak", 1)):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for i in range(count):
            picture = synthetic.draw(260, np.random.default_rng([len(name), i]))
            Image.fromarray(picture).save(folder / f"kodim{4 + i:02}.png")
    return tmp_path / "data"


@pytest.fixture
def photos(data: Path, tmp_path: Path) -> Photos:
    return Photos.load(find_photos(data)[0], tmp_path / "cache", 64)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """An export of a transform that has learned nothing."""
    torch.manual_seed(0)
    export(TINY.network, Model(TINY.network).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def state(loop: Loop) -> dict[str, Any]:
    return {
        "model": loop.task.model.state_dict(), "average": loop.average, "optimizer": loop.optimizer.state(),
        "iteration": loop.progress.iteration,
    }  # fmt: skip


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


class TestLoop:
    def test_learns_and_logs(self, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("codec.training.loop.LOGGED", 10)

        class Always(TransformTask):
            def batch(self, seed: int, iteration: int) -> Tensor:
                return super().batch(seed, 0)

        loop = Loop(Always(TINY, photos), tmp_path / "run", Schedule(2e-3, 5))
        loop.run(Budget(iterations=30))
        lines = read_log(tmp_path / "run")
        assert [line["iteration"] for line in lines] == [10, 20, 30]
        assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
        assert 0 < lines[0]["core_hours"] < lines[-1]["core_hours"]
        plots.draw(tmp_path / "run", tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as plot:
            assert min(plot.size) > 200

    def test_decay_leaves_the_training_as_it_was(self, photos: Photos, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        Loop(TransformTask(TINY, photos), folder, SCHEDULE).run(Budget(iterations=3))
        before = (folder / CHECKPOINT).read_bytes()
        for stop in (5, 100):  # in two runs
            decaying = Loop(TransformTask(TINY, photos), folder, SCHEDULE, decay=4)
            decaying.run(Budget(iterations=stop))
        assert decaying.progress.iteration == 7
        assert (folder / CHECKPOINT).read_bytes() == before
        assert (folder / DECAYED).exists()
        training = Loop(TransformTask(TINY, photos), folder, SCHEDULE)
        assert training.progress.iteration == 3
        training.run(Budget(iterations=4))
        assert Loop(TransformTask(TINY, photos), folder, SCHEDULE, decay=4).progress.iteration == 4

    def test_signals_end_it_after_the_iteration(self, photos: Photos, tmp_path: Path) -> None:
        class Stopped(TransformTask):
            def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
                os.kill(os.getpid(), signal.SIGTERM)
                return super().loss(batch, iteration)

        Loop(Stopped(TINY, photos), tmp_path / "run", SCHEDULE).run(Budget(iterations=100))
        assert Loop(TransformTask(TINY, photos), tmp_path / "run", SCHEDULE).progress.iteration == 1

    def test_ends_when_no_gradients_are_finite_any_more(
        self, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("codec.training.loop.SKIPPED", 3)

        class Endless(TransformTask):
            def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
                loss, figures = super().loss(batch, iteration)
                return loss if iteration == 2 else loss * math.inf, figures

        loop = Loop(Endless(TINY, photos), tmp_path / "run", SCHEDULE)
        with pytest.raises(FloatingPointError, match=r"3 iterations in a row .* with a lower learning rate"):
            loop.run(Budget(iterations=9))
        assert [line["iteration"] for line in read_log(tmp_path / "run")] == [0, 1, 3, 4, 5]

    def test_refuses_checkpoints_of_something_else(self, photos: Photos, tmp_path: Path) -> None:
        Loop(TransformTask(TINY, photos), tmp_path / "run", SCHEDULE).run(Budget(iterations=1))
        with pytest.raises(ValueError, match=r"was trained with config .* give the same, or another folder"):
            Loop(TransformTask(replace(TINY, muon=False), photos), tmp_path / "run", SCHEDULE)
        larger = Loop(TransformTask(replace(TINY, batch=3), photos), tmp_path / "run", SCHEDULE)
        assert larger.progress.iteration == 1
        with pytest.raises(ValueError, match="was trained with seed 0, not 1"):
            Loop(TransformTask(TINY, photos), tmp_path / "run", SCHEDULE, seed=1)

    def test_average_follows_the_parameters(self, photos: Photos, tmp_path: Path) -> None:
        loop = Loop(TransformTask(TINY, photos), tmp_path / "run", SCHEDULE)
        first = {name: tensor.clone() for name, tensor in loop.average.items()}
        loop.run(Budget(iterations=10))
        name = "transform.encoder.embed.weight"
        now = loop.task.model.state_dict()[name]
        between = (loop.average[name] - first[name]).norm() / (now - first[name]).norm()
        assert 0.3 < between < 1

    def test_validates_the_average_and_leaves_parameters_alone(self, photos: Photos, tmp_path: Path) -> None:
        seen = []

        class Validated(TransformTask):
            def validate(self, model: torch.nn.Module, *_: object) -> dict[str, Any]:
                seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
                return {"figure": 1}

        loop = Loop(Validated(TINY, photos), tmp_path / "run", SCHEDULE)
        loop.run(Budget(iterations=4), validate_every=1e-9)
        assert len(seen) == 4
        assert_same(seen[-1], dict(loop.average))
        assert [line["validation"] for line in read_log(tmp_path / "run")] == [{"figure": 1}] * 4
        plain = Loop(TransformTask(TINY, photos), tmp_path / "plain", SCHEDULE)
        plain.run(Budget(iterations=4))
        assert_same(state(plain), state(loop))


def test_learning_rate_rises_stays_and_falls() -> None:
    schedule = Schedule(1.0, 4)
    assert [schedule(i) for i in (0, 1, 3, 4, 1000)] == [0.25, 0.5, 1, 1, 1]
    decaying = replace(schedule, decay=(10, 20))
    assert [decaying(i) for i in (5, 10, 15, 20, 25)] == [1, 1, 0.5, 0, 0]


def test_optimizer_moves_all_parameters_and_some_faster() -> None:
    torch.manual_seed(0)
    kernel, plain, fast = (torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 4, 3, 3), (5,), (5,)))
    before = [p.detach().clone() for p in (kernel, plain, fast)]
    optimizer = MuonAndAdam([kernel], [kernel, plain, fast], fast=[fast], speed=5)
    (kernel.square().sum() + plain.sum() + fast.sum()).backward()
    optimizer.step(1e-3)
    moved = [(p - b).abs().mean().item() for p, b in zip((kernel, plain, fast), before, strict=True)]
    assert moved[1:] == pytest.approx([1e-3, 5e-3], rel=1e-3)
    assert 5e-5 < moved[0] < 5e-3


def test_optimizer_refuses_kernels_that_it_could_only_copy() -> None:
    kernel = torch.nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last))
    with pytest.raises(ValueError, match="contiguous kernels"):
        MuonAndAdam([kernel], [kernel])


def test_optimizer_trains_kernels_that_are_contiguous_in_either_order() -> None:
    kernel = torch.nn.Parameter(torch.randn(8, 4, 1, 1).to(memory_format=torch.channels_last))
    before, optimizer = kernel.detach().clone(), MuonAndAdam([kernel], [kernel])
    kernel.square().sum().backward()
    optimizer.step(1e-3)
    assert not torch.equal(kernel, before)


def test_optimizer_refuses_to_train_where_kernels_were_once() -> None:
    kernel = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
    optimizer = MuonAndAdam([kernel], [kernel])
    kernel.data = kernel.data.to(memory_format=torch.channels_last)  # as a module's `to` does it
    kernel.square().sum().backward()
    with pytest.raises(RuntimeError, match="no more where it was when its optimizer was made"):
        optimizer.step(1e-3)


def test_muon_steps_are_those_of_torch() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has none")
    generator = torch.Generator().manual_seed(0)
    for shape in ((64, 200), (200, 64)):
        ours = torch.nn.Parameter(torch.randn(shape, generator=generator))
        theirs = torch.nn.Parameter(ours.detach().clone())
        start, rate = ours.detach().clone(), 0.01
        optimizers = (
            MuonAndAdam([ours], [ours]),
            torch.optim.Muon([theirs], lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        )
        for _ in range(4):
            ours.grad = torch.randn(shape, generator=generator)
            theirs.grad = ours.grad.clone()
            optimizers[0].step(rate)
            optimizers[1].step()
        difference = (ours - theirs).norm() / (theirs - start).norm()
        assert difference < 0.02  # theirs are rounded to 8 bits


def test_muon_makes_singular_values_alike() -> None:
    u, _, v = torch.linalg.svd(torch.randn(48, 96, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    uneven = u * torch.linspace(0.1, 1, 48) @ v
    found = torch.linalg.svdvals(orthogonalised(uneven))
    assert found.min() > 0.6
    assert found.max() < 1.25


class TestData:
    def test_nothing_is_trained_on_that_is_held_out(self, data: Path) -> None:
        known, held_out = find_photos(data)
        assert (len(known), len(held_out)) == (3, HELD_OUT)
        assert not set(known) & set(held_out)
        assert not any("kodak" in path.parts for path in (*known, *held_out))
        assert find_benchmark(data, ["kodim04", "kodim99"]) == [data / "kodak" / "kodim04.png"]
        assert find_photos(data) == (known, held_out)

    def test_says_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"holds 0 photos, of which 20 are held out: put photos into folders"
        ):
            find_photos(tmp_path)

    def test_photos_are_decoded_once(self, data: Path, tmp_path: Path) -> None:
        known, _ = find_photos(data)
        first = Photos.load(known, tmp_path / "cache", 64)
        assert len(first) == len(known)
        for i, path in enumerate(known):
            with Image.open(path) as image:
                assert np.array_equal(np.asarray(image), first[i])
        stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
        again = Photos.load(known, tmp_path / "cache", 64)
        assert all(np.array_equal(first[i], again[i]) for i in range(len(known)))
        assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
        with pytest.raises(FileNotFoundError, match="none of 3 photos has 300 pixels on each side"):
            Photos.load(known, tmp_path / "cache", 300)

    def test_crops_depend_on_the_generator_only(self, photos: Photos) -> None:
        for seed in range(40):
            a, b = (crop(photos, 48, np.random.default_rng(seed)) for _ in range(2))
            assert a.shape == (48, 48, 3)
            assert a.dtype == np.uint8
            assert np.array_equal(a, b)

    @pytest.mark.parametrize("side", [16, 96, 300])
    def test_drawings_are_of_many_kinds(self, side: int) -> None:
        drawings = [synthetic.draw(side, np.random.default_rng(seed)) for seed in range(60)]
        assert {d.shape for d in drawings} == {(side, side, 3)}
        assert len({d.tobytes() for d in drawings}) > 50
        spreads = [float(d.std()) for d in drawings]
        assert min(spreads) < 1
        assert max(spreads) > 50


def test_losses_grow_with_differences() -> None:
    picture = photo_tensor("coffee.png", 128, 128, top=100, left=100)
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    for loss in (squared_error, coarse_error, structural_error, picture_error):
        values = [loss(picture + strength * noise, picture).item() for strength in (0, 0.05, 0.1)]
        assert values[0] == pytest.approx(0, abs=1e-6)
        assert values[0] < values[1] < values[2]
    # Which a change of brightness is, too, but not of structure.
    assert squared_error(picture + 0.1, picture).item() == pytest.approx(0.01, rel=1e-4)
    assert structural_error(picture + 0.1, picture).item() == pytest.approx(0, abs=1e-4)


def test_coarse_errors_count_once_for_each_side_that_they_reach() -> None:
    black = torch.zeros(1, 3, 64, 64)
    for side, reached in ((1, 0), (2, 0), (4, 1), (8, 2), (16, 3), (32, 4), (64, 4)):
        squares = (torch.arange(64)[:, None] // side + torch.arange(64) // side) % 2
        checker = (0.2 * squares - 0.1).expand(1, 3, -1, -1)
        assert coarse_error(checker, black).item() == pytest.approx(0.01 * reached, rel=1e-4, abs=1e-7)
    left = (torch.arange(64) < 32).float().expand(1, 1, 64, -1)
    assert coarse_error(black + 0.1, black, left).item() == pytest.approx(0.02, rel=1e-4)
    assert coarse_error(black[..., :5, :7] + 0.1, black[..., :5, :7]).item() == pytest.approx(0.04, rel=1e-4)


def test_rates_are_of_rounded_latents_and_gradients_reach_all() -> None:
    torch.manual_seed(0)
    model = Model(TINY.network)
    pictures, lambdas = torch.rand(2, 3, 64, 64), torch.tensor([0.001, 0.02])
    _, bits = model(pictures, lambdas)
    torch.testing.assert_close(bits, model.code(pictures, lambdas)[1])
    bits.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "decoder" not in name)


def test_validation_judges_and_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that adds noise, more of it at greater lambdas, is worse when it says that it needs more bits."""
    monkeypatch.setattr(validation, "LAMBDAS", (1e-2, 1e-3, 1e-4))
    monkeypatch.setattr(validation, "AVIF_QUALITIES", (20, 50, 80))
    monkeypatch.setattr(validation, "AVIF_SPEED", 10)
    picture = photo("coffee.png", 170, 200, top=60, left=60)
    checked = Validation({"few": {"coffee": picture}}, tmp_path / "cache", (1e-2, 1e-3, 1e-4))

    def coding(bits: float) -> validation.Code:
        def code(pictures: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
            noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
            return pictures + noise * lambdas.sqrt(), bits * lambdas**-0.3

        return code

    good, bad = (checked.run(coding(bits), torch.device("cpu"), f"{bits}", tmp_path)["few"] for bits in (0.02, 0.05))
    points = good["points"]
    for metric in validation.JUDGES:
        assert good["bd_rate"][metric] < bad["bd_rate"][metric]
        assert points[0][metric] < points[1][metric] < points[2][metric]
    assert points[1]["psnr"] == pytest.approx(30, abs=0.5)
    with Image.open(tmp_path / "sheets" / "0.02.png") as sheet:
        assert sheet.width == 5 * validation.SHEET_CROP


class TestCommand:
    def run(self, *arguments: object) -> Result:
        return CliRunner().invoke(command.main, ["transform", *map(str, arguments)])

    def test_trains_resumes_and_exports(self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(command, "Config", lambda: TINY.network)
        folder, weights = tmp_path / "run", tmp_path / "weights.safetensors"
        options = ("--hours", 1e-4, "--checkpoint", folder, "--data", data, "--batch", 2, "--validate", 0)
        for _ in range(2):
            result = self.run(*options, "--device", "cpu", "--export", weights)
            assert result.exit_code == 0, result.output
            done = torch.load(folder / CHECKPOINT, weights_only=True)
        assert "3 photos to train on; to validate with: 20 held out, 1 kodak" in result.output
        assert done["iteration"] >= 2
        network, loaded = read_weights(weights)
        assert network == TINY.network
        expected = done["average"]["transform.encoder.down.weight"].half().float()
        assert torch.equal(loaded["transform.encoder.down.weight"], expected)
        monkeypatch.undo()  # what starts from weights has their shape
        started = self.run(*options[:3], tmp_path / "other", *options[4:], "--device", "cpu", "--start", weights)
        assert started.exit_code == 0, started.output

    def test_says_what_is_wrong(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        result = self.run("--hours", 1, "--checkpoint", tmp_path / "run", "--data", tmp_path / "empty")
        assert result.exit_code == 1
        assert "put photos into folders there" in result.output

    def test_needs_judges_from_the_beginning(self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ssimulacra2", None)
        result = self.run("--hours", 1, "--checkpoint", tmp_path / "run", "--data", data)
        assert result.exit_code == 1
        assert "install pillow-clric[training]" in result.output


def test_exported_weights_start_another_training(photos: Photos, tmp_path: Path) -> None:
    loop = Loop(TransformTask(TINY, photos), tmp_path / "run", SCHEDULE)
    export(TINY.network, loop.average, tmp_path / "weights.safetensors")
    started = TransformTask(TINY, photos, weights=tmp_path / "weights.safetensors").model.state_dict()
    assert started.keys() == loop.average.keys()
    for name, tensor in loop.average.items():
        assert torch.equal(started[name], tensor.half().float())


def test_weights_of_another_shape_start_nothing(photos: Photos, tmp_path: Path) -> None:
    loop, path = Loop(TransformTask(TINY, photos), tmp_path / "run", SCHEDULE), tmp_path / "weights.safetensors"
    export(TINY.network, loop.average, path)
    wider = replace(TINY, network=replace(TINY.network, latent=16))
    with pytest.raises(
        ModelFileError, match=r"weights.safetensors does not fit its kind: weights prior\..* are .*, not "
    ):
        TransformTask(wider, photos, weights=path)
    path.write_bytes(b"no weights")
    with pytest.raises(ModelFileError, match="not a whole safetensors file"):
        TransformTask(TINY, photos, weights=path)
