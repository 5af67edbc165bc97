"""The training of base functions and analysis: both stages run, resume and export what fits start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from codec.overfit import bases, initial
from codec.overfit.fit import Schedule
from codec.training import function as training
from codec.training.photos import Crops, load

SAMPLE = Path(__file__).parent.parent / "samples" / "coffee.png"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(SAMPLE) as image:
        for left in (0, 96):
            image.convert("RGB").crop((left, 0, left + 96, 80)).save(folder / f"{left}.png")
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
    for file in (bases.FILE, initial.FILE):
        trained, shipped = load_file(exported / file.name), load_file(file)
        assert {k: (v.shape, v.dtype) for k, v in trained.items()} == {
            k: (v.shape, v.dtype) for k, v in shipped.items()
        }


def test_training_lowers_the_cost(photos: Path) -> None:
    trainer = training.Trainer(64, "cpu")
    crops = Crops(load(sorted(photos.iterdir()), 64), 64, np.random.default_rng(0)).draw(2)
    costs = [trainer.guess(crops).sum() for _ in range(40)]
    assert costs[-1] < 0.9 * costs[0]
