"""The trainings of profile msp's priors and enhancement layer, on made-up pictures, for seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pictures import psnr
from test_transform_training import SCHEDULE, TINY, assert_same, data, photos, state, weights

import codec
from codec import Section, unpack
from codec.autoencoders import model_file, store
from codec.autoencoders.learned_transform import on_device
from codec.autoencoders.networks import enhancement
from codec.training import __main__ as command
from codec.training import msp_prior, synthetic
from codec.training.data import Photos
from codec.training.enhancement import EnhancementTask
from codec.training.grain import GrainTask
from codec.training.loop import Budget, Loop, Task
from codec.training.msp_prior import PriorTask
from codec.training.transform import transform_of

__all__ = ["data", "photos", "weights"]  # fixtures

LAYER = enhancement.Config(hidden=16, knots=3, lambdas=(1e-5, 1e-3))
SIDE, COUNT = 64, 2


@pytest.fixture
def model(photos: Photos, weights: Path, tmp_path: Path) -> Path:
    PriorTask(TINY, photos, weights, ["baseline"]).export(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def learnt(task: Task, folder: Path) -> tuple[float, float]:
    """Losses of the same crops before and after some iterations."""

    def loss() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return float(task.loss(task.batch(0, 0), 0)[0])

    before = loss()
    Loop(task, folder, SCHEDULE, torch.device("cpu")).run(Budget(iterations=5))
    return before, loss()


def test_priors_learn_and_a_model_comes_of_it(photos: Photos, weights: Path, tmp_path: Path) -> None:
    task = PriorTask(TINY, photos, weights, ["baseline", "normal"])
    before, after = learnt(task, tmp_path / "a")
    assert after < before - 0.01
    task.export(tmp_path / "model.safetensors")
    again = PriorTask(TINY, photos, weights, ["baseline"], tmp_path / "model.safetensors")
    trained, started = (dict(each.model.priors.named_parameters()) for each in (task, again))
    name = "baseline.steps.0.embed.weight"
    torch.testing.assert_close(started[name], trained[name], atol=0.02, rtol=0)
    assert store.load(tmp_path / "model.safetensors").name == msp_prior.NAME


def test_layer_learns_and_a_model_comes_of_it(photos: Photos, model: Path, tmp_path: Path) -> None:
    task = EnhancementTask(LAYER, photos, model, SIDE, COUNT)
    before, after = learnt(task, tmp_path / "a")
    assert after < before - 0.01
    task.export(tmp_path / "enhanced.safetensors")
    made = model_file.read(tmp_path / "enhanced.safetensors")
    assert made.config["enhancement"] == {"hidden": 16, "knots": 3, "lambdas": [1e-5, 1e-3]}
    assert {n for n in made.tensors if not n.startswith("enhancement.")} == set(model_file.read(model).tensors)
    with pytest.raises(ValueError, match="no enhancement layer of this shape"):
        EnhancementTask(LAYER, photos, model, SIDE, COUNT, start=model)
    again = EnhancementTask(LAYER, photos, model, SIDE, COUNT, start=tmp_path / "enhanced.safetensors")
    again.export(tmp_path / "again.safetensors")
    assert model_file.read(tmp_path / "again.safetensors").tensors.keys() == made.tensors.keys()
    torch.manual_seed(0)
    with torch.no_grad():
        assert float(again.loss(again.batch(0, 0), 0)[0]) == pytest.approx(after, rel=0.01)


def test_layer_of_a_good_quality_shows_the_picture(
    photos: Photos, model: Path, tmp_path: Path, own_store: Path
) -> None:
    """However little the transform knows of it."""
    EnhancementTask(LAYER, photos, model, SIDE, COUNT).export(tmp_path / "enhanced.safetensors")
    store.add(tmp_path / "enhanced.safetensors", "enhanced")
    picture = synthetic.draw(SIDE, np.random.default_rng(5))
    coded = codec.encode(picture, profile="msp", model="enhanced", effort=1, quality=100, device="cpu")
    assert Section.ENHANCEMENT in unpack(coded).sections
    assert psnr(codec.decode(coded, device="cpu"), picture) > 40


def test_texture_learns_what_is_lost_and_a_model_comes_of_it(photos: Photos, model: Path, tmp_path: Path) -> None:
    task = GrainTask(photos, model, SIDE, COUNT)
    before, after = learnt(task, tmp_path / "a")
    assert after < before - 0.01
    task.export(tmp_path / "grain.safetensors")
    made = on_device(model_file.read(tmp_path / "grain.safetensors"), "cpu")
    assert made.has_grain
    symbols = np.zeros((2, 3, made.channels), np.float32)
    plain, drawn = (made.decode(symbols, made.positions, 32, 48, grain=grain) for grain in (False, True))
    texture = (drawn - plain).mean(0).reshape(4, 8, 6, 8)
    assert np.abs(texture).max() > 1e-3
    assert np.abs(texture.mean((1, 3))).max() < 1e-4
    again = GrainTask(photos, tmp_path / "grain.safetensors", SIDE, COUNT)
    again.export(tmp_path / "again.safetensors")
    assert model_file.read(tmp_path / "again.safetensors").tensors.keys() == made.model.tensors.keys()
    config, found = transform_of(made.model)
    assert config.grain == 0
    assert not any(".grain." in name for name in found)


def test_resumed_is_the_same_as_uninterrupted_bit_by_bit(photos: Photos, model: Path, tmp_path: Path) -> None:
    def loop(folder: Path) -> Loop:
        return Loop(EnhancementTask(LAYER, photos, model, SIDE, COUNT), folder, SCHEDULE, torch.device("cpu"))

    whole = loop(tmp_path / "whole")
    whole.run(Budget(iterations=3))
    for iterations in (2, 3):
        resumed = loop(tmp_path / "parts")
        resumed.run(Budget(iterations=iterations))
    assert_same(state(whole), state(resumed))


def test_commands(data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "EnhancementConfig", lambda: LAYER)
    made, enhanced = tmp_path / "model.safetensors", tmp_path / "enhanced.safetensors"
    grain = tmp_path / "grain.safetensors"
    trainings = (("prior", weights, made), ("enhancement", made, enhanced), ("grain", enhanced, grain))
    for name, given, exported in trainings:
        arguments = (
            name, "--hours", 1e-5, "--data", data, "--checkpoint", tmp_path / name, "--weights", given, "--side", SIDE,
            "--batch", COUNT, "--validate", 0, "--device", "cpu", "--export", exported,
        )  # fmt: skip
        result = CliRunner().invoke(command.main, [*map(str, arguments)])
        assert result.exit_code == 0, result.output
    assert list(model_file.read(enhanced).config["presets"]) == ["baseline", "normal", "extra"]
    assert model_file.read(enhanced).config["enhancement"]["hidden"] == LAYER.hidden
