"""The trainings of profile vq, on made-up pictures, for seconds; and the distortion of textures that they lower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from safetensors.torch import save_file
from test_transform_training import SCHEDULE, assert_same, data, photos, state, weights
from torch import Tensor

import codec
from codec.autoencoders import store
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.model_file import read
from codec.autoencoders.networks.index_transformer import IndexTransformer
from codec.autoencoders.networks.vq import Config, IndexConfig
from codec.autoencoders.vector_quantised import VectorQuantised
from codec.distortion.texture import texture
from codec.distortion.wasserstein import LEVELS, wasserstein
from codec.training import __main__ as command
from codec.training import vq
from codec.training.data import Photos
from codec.training.loop import Budget, Loop
from codec.training.quantiser import Quantiser
from codec.training.vgg import BLOCKS, Vgg
from codec.training.vq import Settings, VqTask, codebooks, network_from, read_codebooks
from codec.training.vq_indices import IndexTask, lost_indices

__all__ = ["data", "photos", "weights"]  # fixtures

TINY = Settings(Config((2, 4, 9), 6, 64, 64, (1, 1), (1, 1), 1), 64, 3)
INDICES = IndexConfig(hidden=64, width=64, layers=1, heads=2)


@pytest.fixture
def vgg(tmp_path: Path) -> Path:
    """A VGG-16 of random weights, with fewer features."""
    torch.manual_seed(0)
    channels, tensors = 3, {}
    for number in (number for block in BLOCKS for number in block):
        tensors[f"features.{number}.weight"] = torch.randn(4, channels, 3, 3) / 3
        tensors[f"features.{number}.bias"] = torch.randn(4) / 3
        channels = 4
    save_file(tensors, tmp_path / "vgg.safetensors")
    return tmp_path / "vgg.safetensors"


@pytest.fixture
def task(photos: Photos, vgg: Path, weights: Path) -> VqTask:
    held_out = torch.rand(2, 3, 64, 64)
    return VqTask(TINY, photos, held_out, Vgg(vgg), weights)


@pytest.fixture
def exported(task: VqTask, tmp_path: Path) -> Path:
    task.export(tmp_path / "autoencoder.safetensors")
    return tmp_path / "autoencoder.safetensors"


def noise(seed: int, strength: float = 0.1) -> Tensor:
    """A texture: (1, 3, 64, 64), the same statistics everywhere."""
    return 0.5 + strength * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


# Wasserstein distortion


def test_samples_of_one_texture_are_alike_and_meshes_and_blurs_are_not() -> None:
    picture, other = noise(0), noise(1)
    mesh = picture.clone()
    mesh[..., ::2, ::2] += 0.3
    sigma = torch.full((1, 1, 1, 1), 2.5)
    unlike = (other, mesh, torch.full_like(picture, 0.5), picture + 0.3)
    far = [float(wasserstein([x], [picture], sigma)) for x in unlike]
    assert float(wasserstein([picture], [picture], sigma)) == 0
    assert all(distance > 1.5 * far[0] for distance in far[1:])
    assert float((other - picture).square().mean()) > float((0.5 - picture).square().mean())  # unlike squared errors


@pytest.mark.parametrize("sigma", [torch.zeros(1, 1, 1, 1), torch.full((1, 1, 4, 4), 2.5)])
def test_gradients_of_flat_pictures_are_finite(sigma: Tensor) -> None:
    flat = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    wasserstein([flat], [noise(0)[..., :32, :32]], sigma).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_windows_of_one_sample_count_squared_errors_and_larger_ones_only_their_own() -> None:
    """Worked out by hand, in a mean energy of 9.

    One sample: squares of errors 2, 0, 2, 0. Two: means 2 and 3, deviations 1 and 0. Half-way between: both's mean.
    """
    found, goal = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]]), torch.full((1, 1, 2, 2), 3.0)
    deviation, other = (1 + 9e-4) ** 0.5, (9e-4) ** 0.5
    fine, coarse = 2 / 9, ((2 - 3) ** 2 + (deviation - other) ** 2) / 9
    for side, expected in ((-1.0, fine), (0.0, fine), (1.0, coarse), (0.5, (fine + coarse) / 2), (3.0, coarse)):
        distance = wasserstein([found], [goal], torch.full((1, 1, 1, 1), side))
        torch.testing.assert_close(distance, torch.tensor([expected]))


def test_windows_of_coarser_features_cover_the_same_part_of_the_picture() -> None:
    picture, other = noise(0), noise(1)
    coarse = [F.avg_pool2d(x, 4) for x in (picture, other)]
    of_coarse, of_itself = (
        wasserstein([fine, coarse[0]], [fine, coarse[1]], torch.full((1, 1, 1, 1), side))
        for fine, side in ((picture, 3.0), (coarse[0], 1.0))
    )
    torch.testing.assert_close(of_coarse, of_itself)


def test_textures_may_differ_where_windows_are_large_and_not_where_they_are_small() -> None:
    picture, changed = noise(0), noise(0)
    changed[..., :32] = noise(1)[..., :32]
    sigma = torch.zeros(1, 1, 8, 8)
    sigma[..., :4] = LEVELS
    allowed, not_allowed = (float(wasserstein([changed], [picture], map_)) for map_ in (sigma, LEVELS - sigma))
    assert not_allowed > 10 * allowed


def test_noise_is_texture_and_edges_and_slopes_are_not() -> None:
    edge, slope = torch.zeros(1, 3, 64, 64), torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    edge[..., 29:] = 1
    assert float(texture(noise(0, 0.1), 8).min()) > 0.5
    for picture in (edge, slope, edge.mT, torch.full_like(edge, 0.5)):
        assert float(texture(picture, 8).max()) == 0


# Codebooks


def test_small_codebooks_are_means_of_the_largest() -> None:
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    points = centres.repeat(50, 1) + 0.1 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    entries = codebooks(points, (2, 4))
    assert torch.cdist(centres, entries[2:]).min(1).values.max() < 0.2
    assert torch.cdist(entries[:2], torch.tensor([[5.0, 0], [5, 10], [0, 5], [10, 5]])).min(1).values.max() < 0.3


def test_entries_follow_their_latents_and_dead_ones_move_to_some(task: VqTask) -> None:
    model = task.model
    latents, books = torch.randn(2, 6, 4, 4), torch.tensor([1, 1])
    model.autoencoder.entries[2:6] = torch.cat(
        [latents[:1, :, 0, :2].permute(0, 2, 1)[0] + 0.1, torch.full((2, 6), 1e4)]
    )
    others = model.autoencoder.entries[6:].clone()
    for _ in range(60):
        places = model.autoencoder.quantised(latents, books)[1]
        model._follow(latents, places, books)
    own = model.autoencoder.entries[2:6]
    assert own.abs().max() < 10
    points = latents.permute(0, 2, 3, 1).flatten(0, 2)
    nearest = torch.cdist(points, own).argmin(1)
    means = torch.stack([points[nearest == i].mean(0) for i in range(4)])
    assert torch.allclose(means, own, atol=0.1)
    assert torch.equal(model.autoencoder.entries[6:], others)


def test_a_step_that_is_not_taken_moves_no_entries(task: VqTask) -> None:
    model = task.model.train()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    model(torch.full((2, 3, 64, 64), torch.nan), torch.tensor([0, 2]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())
    model(torch.rand(2, 3, 64, 64), torch.tensor([0, 2]))
    assert not torch.equal(model.autoencoder.entries, before["autoencoder.entries"])


def test_each_codebook_is_searched_alone() -> None:
    torch.manual_seed(0)
    autoencoder = Quantiser(TINY.network)
    autoencoder.entries.normal_()
    latents, books = torch.randn(3, 6, 2, 2), torch.tensor([0, 1, 2])
    quantised, places = autoencoder.quantised(latents, books)
    for book, (start, stop) in enumerate(((0, 2), (2, 6), (6, 15))):
        assert start <= places[book].min() <= places[book].max() < stop
        distances = torch.cdist(latents[book].flatten(1).T, autoencoder.entries[start:stop])
        assert torch.equal(places[book].flatten() - start, distances.argmin(1))
        assert torch.equal(quantised[book].flatten(1).T, autoencoder.entries[places[book].flatten()])


# Trainings


def test_a_resumed_training_is_that_which_was_not_stopped(
    photos: Photos, vgg: Path, weights: Path, tmp_path: Path
) -> None:
    def loop(name: str) -> Loop:
        return Loop(VqTask(TINY, photos, torch.rand(2, 3, 64, 64), Vgg(vgg), weights), tmp_path / name, SCHEDULE)

    whole = loop("whole")
    whole.run(Budget(iterations=4))
    loop("parts").run(Budget(iterations=2))
    resumed = loop("parts")
    resumed.run(Budget(iterations=4))
    assert_same(state(whole), state(resumed))


def test_it_learns(task: VqTask, tmp_path: Path) -> None:
    batch = task.batch(0, 0)
    losses = [float(task.loss(batch, 0)[0].detach())]
    task.batch = lambda seed, iteration: batch  # type: ignore[method-assign]
    loop = Loop(task, tmp_path / "training", SCHEDULE)
    loop.run(Budget(iterations=40))
    losses.append(float(task.loss(batch, 0)[0].detach()))
    assert losses[1] < 0.8 * losses[0]
    figures = task.validate(task.model.eval(), loop.progress, tmp_path)
    assert figures.keys() == {"2", "4", "9"}
    assert all(0 <= figures[size]["bits"] <= np.log2(int(size)) + 1e-3 for size in figures)


def test_an_export_is_a_start(task: VqTask, exported: Path, photos: Photos, vgg: Path) -> None:
    other = VqTask(TINY, photos, task.held_out, Vgg(vgg), exported)
    for name, tensor in task.model.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], tensor.half().float())


def test_indices_are_learned_and_make_a_model(exported: Path, photos: Photos, tmp_path: Path) -> None:
    task = IndexTask(INDICES, photos, exported, 64, 3)
    batch = task.batch(0, 0)
    before = {name: float(figure) for name, figure in task.loss(batch, 0)[1].items()}
    task.batch = lambda seed, iteration: batch  # type: ignore[method-assign]
    loop = Loop(task, tmp_path / "training", SCHEDULE)
    loop.run(Budget(iterations=40))
    after = {name: float(figure) for name, figure in task.loss(batch, 0)[1].items()}
    assert all(after[name] < 0.85 * before[name] for name in before)
    loop.export(tmp_path / "model.safetensors")
    made = VectorQuantised(store.load(tmp_path / "model.safetensors"), torch.device("cpu"))
    assert made.sizes == TINY.network.sizes
    picture = photos[0][:64, :80]
    data = codec.encode(picture, profile="vq", model=tmp_path / "model.safetensors", quality=100)
    assert len(data) < 24 + 3 + 20


def test_layers_are_shaped_as_those_that_they_start_from(exported: Path, weights: Path) -> None:
    assert network_from(exported) == TINY.network
    found, usual = network_from(weights), Config()
    assert (found.fine, found.coarse, found.expansion) == (64, 64, 1)
    assert (found.sizes, found.decoder) == (usual.sizes, usual.decoder)


def test_a_model_is_a_start(exported: Path, photos: Photos, vgg: Path, tmp_path: Path) -> None:
    """Of both of its trainings: what they would make of it at once is the same model, but for what rounding leaves."""
    learned, path = IndexTask(INDICES, photos, exported, 64, 3), tmp_path / "model.safetensors"
    with torch.no_grad():
        for parameter in learned.model.parameters():
            parameter.add_(torch.randn_like(parameter) / 20)
    learned.export(path)
    autoencoder = VqTask(TINY, photos, torch.rand(2, 3, 64, 64), Vgg(vgg), path)
    known = read_codebooks(exported)[1]
    for name, tensor in autoencoder.model.state_dict().items():
        if name != "use":
            assert torch.equal(tensor, known[name])
    again = IndexTask(INDICES, photos, exported, 64, 3, path)
    for name, weight in learned.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], weight, rtol=0.02, atol=0.02)
    again.export(tmp_path / "again.safetensors")
    assert read(tmp_path / "again.safetensors").prefix == read(path).prefix


def test_other_models_are_no_start(exported: Path, photos: Photos) -> None:
    with pytest.raises(
        ModelFileError, match=r"transform\.safetensors is of kind 'msp': trainings like this start from"
    ):
        IndexTask(INDICES, photos, exported, 64, 3, store.EMBEDDED["transform"].path)


def test_files_of_something_else_are_refused(vgg: Path, tmp_path: Path) -> None:
    """By errors that commands tell."""
    with pytest.raises(ModelFileError, match=r"vgg\.safetensors is no export of the training of codebooks"):
        read_codebooks(vgg)
    save_file({"features.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "less.safetensors")
    with pytest.raises(ModelFileError, match=r"lacks features\.0\.bias: take torchvision's weights of VGG-16"):
        Vgg(tmp_path / "less.safetensors")


def test_lost_indices_are_any_part() -> None:
    torch.manual_seed(0)
    shares = torch.cat([lost_indices(torch.zeros(50, 16, 16)).float().mean((1, 2)) for _ in range(20)])
    assert 0.4 < shares.mean() < 0.6
    assert shares.min() < 0.1
    assert shares.max() > 0.9


def test_what_is_filled_in_is_what_is_likely() -> None:
    """A transformer that has learned that maps are of one colour goes on so."""
    torch.manual_seed(0)
    transformer = IndexTransformer((0, 2), 32, 1, 2)
    optimizer = torch.optim.Adam(transformer.parameters(), 1e-2)
    for _ in range(60):
        places = torch.randint(2, (8, 1, 1)).expand(8, 16, 16)
        lost = lost_indices(places)
        features = transformer(places.masked_fill(lost, -1), torch.zeros(8, dtype=torch.int64))
        loss = torch.nn.functional.cross_entropy(transformer.logits(features, slice(0, 2))[lost], places[lost])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    transformer.eval()
    for index in (0, 1):
        plain = np.full((24, 40), index, np.int32)
        holes = np.where(np.random.default_rng(0).random(plain.shape) < 0.9, np.int32(-1), plain)
        assert np.array_equal(transformer.mend(holes, 0), plain)


def test_commands(data: Path, vgg: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "codebooks_from", lambda _: TINY.network)
    monkeypatch.setattr(vq, "STARTED", 4)

    def run(*arguments: object) -> None:
        shared = ("--hours", 1e-4, "--data", data, "--side", 64, "--batch", 2, "--threads", 1)
        done = CliRunner().invoke(command.main, [str(argument) for argument in (*arguments, *shared)])
        assert done.exit_code == 0, done.output

    exported = tmp_path / "autoencoder.safetensors"
    run("vq", "--checkpoint", tmp_path / "a", "--vgg", vgg, "--start", weights, "--decay", 1, "--export", exported)
    run("vq-indices", "--checkpoint", tmp_path / "b", "--weights", exported, "--export", tmp_path / "model.safetensors")
    assert store.load(tmp_path / "model.safetensors").architecture == "vq"
