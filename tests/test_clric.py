"""The profile clric: where fits start, what they are measured by, and what comes out of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import codec
from codec import device
from codec.autoencoders import import_checkpoint, model_file, store
from codec.autoencoders.autoencoder import Autoencoder
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.model_file import Model
from codec.autoencoders.networks.patch import PatchAutoencoder
from codec.container import Section, unpack
from codec.distortion.pixels import picture_error
from codec.overfit import arm, bitstream, initialisation, pipeline, synthesis
from codec.overfit.quantise import dequantise
from codec.overfit.reference_weights import PLAIN
from codec.profiles.base import Quality
from codec.profiles.clric import distortion, encoder, quantisation_step
from codec.profiles.clric import initialisation as starts
from codec.profiles.clric.distortion import PictureDistortion
from codec.profiles.clric.profile import Options

photo = partial(pictures.photo, "astronaut.png", top=40, left=160)
CPU = torch.device("cpu")
MODEL = Options().model


@cache
def shipped() -> Autoencoder:
    """The one that is taken unless another is named."""
    return Autoencoder(store.load(MODEL), CPU)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.float32(pixels) / 255).permute(2, 0, 1).unsqueeze(0)


def encode(pixels: NDArray[np.uint8], quality: float, effort: int) -> bytes:
    return codec.encode(pixels, profile="clric", quality=quality, effort=effort, device="cpu")


# Where fits start


@pytest.mark.parametrize("step", [0.1, 0.5, 3.0])
def test_principal_components_are_as_exact_as_their_step(step: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(6, 6, generator=generator) @ torch.randn(1, 6, 9 * 11, generator=generator) + 5
    latent = mixed.unflatten(2, (9, 11))
    function = initialisation.principal(latent, step).rounded()
    made = synthesis.synthesise(function.grids, function.weights, function.spec)
    error = (made - latent).norm(dim=1)
    assert error.max() <= 6**0.5 * step / 2 * 1.001  # half a step along each of six axes
    assert error.square().mean() > 0.5 * 6 * step**2 / 12  # and no more exact than that takes
    assert all(plane.any() for plane in function.grids[0][0])


def test_principal_components_that_are_zero_are_left_out() -> None:
    latent = torch.randn(1, 1, 7, 8) * torch.tensor((2.0, -1.0, 0.0, 3.0)).view(1, 4, 1, 1)
    assert initialisation.principal(latent, 0.01).spec.features == (1,)
    flat = torch.full((1, 4, 7, 8), 0.3)
    function = initialisation.principal(flat, 1.0).rounded()
    assert function.spec.features == (1,)
    torch.testing.assert_close(synthesis.synthesise(function.grids, function.weights, function.spec), flat)


def test_steps_grow_with_lambda() -> None:
    picture = to_tensor(photo(96, 128))
    trials = quantisation_step.StepTrials.on(shipped(), picture)
    steps = [trials.step(lam) for lam in (0.001, 0.005, 0.025, 0.1)]
    assert (np.diff(steps) > 0).all()
    assert quantisation_step.TRIED[0] <= steps[0]
    assert steps[-1] <= quantisation_step.TRIED[-1]


# What fits are measured by


@pytest.mark.usefixtures("full_precision")
def test_distortion_is_that_of_the_picture() -> None:
    picture = to_tensor(photo(72, 100))
    latents = shipped().encode(picture)
    made = shipped().decode(latents, 72, 100)
    found = PictureDistortion(shipped(), picture).distortion(latents)
    torch.testing.assert_close(found, picture_error(made, picture))
    assert PictureDistortion(shipped(), made).distortion(latents).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize(("size", "parts"), [((280, 339), 4), ((56, 339), 2)])
def test_tiles_of_distortion_make_up_the_picture(
    size: tuple[int, int], parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They cover it once, and each is what the autoencoder shows there when it sees all of the latent."""
    monkeypatch.setattr(distortion, "TILE", 256)
    picture = to_tensor(photo(*size))
    measured = PictureDistortion(shipped(), picture)
    assert len(measured.parts) == parts
    covered = torch.zeros(size)
    for part in measured.parts:
        covered[part.place] += 1
    assert (covered == 1).all()

    def at_once(latents: Tensor) -> Tensor:
        made, total = shipped().decode(latents, *size), torch.zeros(())
        for part in measured.parts:
            share = picture[:, :, *part.place].numel() / picture.numel()
            views = [x[:, :, *part.place] for x in (made, picture)]
            total = total + share * picture_error(*views)[0]
        return total

    def value_and_gradient(distortion: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        latents = disturbed(picture).requires_grad_()
        found = distortion(latents).sum()
        return found.detach(), torch.autograd.grad(found, latents)[0]

    (found, gradient), (expected, of_all) = (value_and_gradient(each) for each in (measured.distortion, at_once))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)
    assert (gradient - of_all).norm() < 0.03 * of_all.norm()


def disturbed(picture: Tensor) -> Tensor:
    """The picture's latent and noise as strong as the error of rounding, so that there is something to measure."""
    latents = shipped().encode(picture)
    return latents + torch.rand(latents.shape, generator=torch.Generator().manual_seed(0)) - 0.5


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize(("tile", "parts"), [(512, 1), (32, 6)])
def test_gradient_of_distortion(tile: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distortion, "TILE", tile)
    monkeypatch.setattr(distortion, "OVERLAP", 16)
    picture = to_tensor(photo(64, 48))
    measured, latents = PictureDistortion(shipped(), picture), disturbed(picture).requires_grad_()
    assert len(measured.parts) == parts
    [gradient] = torch.autograd.grad(measured.distortion(latents), latents)
    directions = torch.randn(3, *latents.shape, generator=torch.Generator().manual_seed(1))
    for direction in (gradient, *directions, directions[0] * gradient.abs(), gradient.sign()):
        step = 0.02 * direction / direction.norm()
        with torch.no_grad():
            change = measured.distortion(latents + step) - measured.distortion(latents - step)
        expected = 2 * (gradient * step).sum()
        assert abs(change - expected) < 0.01 * 2 * gradient.norm() * step.norm()


@pytest.mark.usefixtures("full_precision")
def test_precision_of_fits_hardly_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = to_tensor(photo(128, 192))
    latents = disturbed(picture)
    exact = PictureDistortion(shipped(), picture).distortion(latents)
    monkeypatch.setattr(device, "_cpu_has_bfloat16", lambda: True)
    reduced = PictureDistortion(shipped(), picture).distortion(latents)
    assert reduced != exact
    torch.testing.assert_close(reduced, exact, rtol=0.01, atol=0)


# What comes out


@cache
def coded(quality: float, effort: int) -> bytes:
    return encode(photo(128, 192), quality, effort)


def latents_of(data: bytes) -> Tensor:
    container = unpack(data)
    header, sections = container.header, container.sections
    size = *shipped().latent_size(header.height, header.width), shipped().channels
    bodies = sections[Section.WEIGHTS], sections[Section.GRIDS]
    output, weights = pipeline.decode(*bodies, size, CPU, starts.universal_of(shipped().model), truncated=False)
    return output * starts.step_of(weights.origin, CPU)


def test_effort_pays() -> None:
    """The cost that a fit minimises is lower in the file, which spends next to nothing on the function itself."""
    quality = 50
    lam = np.exp(Quality(quality).log_lambda(encoder.LOG_LAMBDA))
    measured = PictureDistortion(shipped(), to_tensor(photo(128, 192)))
    costs = []
    for effort in (1, 5):
        data = coded(quality, effort)
        bits = 8 * len(data) / (128 * 192)
        costs.append(measured.distortion(latents_of(data)).item() + lam * bits)
        assert len(data) - len(unpack(data).sections[Section.GRIDS]) <= 350
    assert costs[1] < costs[0]


def test_size_grows_with_quality() -> None:
    sizes = [len(coded(quality, 1)) for quality in (10, 50, 90)]
    assert sizes == sorted(set(sizes))


def test_estimated_bits_are_real() -> None:
    data = encode(photo(256, 256), 90, 1)
    sections, universal = unpack(data).sections, starts.universal_of(shipped().model)
    spec, weights, grids = bitstream.read(
        sections[Section.WEIGHTS], sections[Section.GRIDS], 32, 32, shipped().channels, universal
    )
    levels = [torch.from_numpy(np.stack(g)).float()[None] for g in grids]
    estimate = float(arm.rate(levels, dequantise(spec, weights, CPU), spec).sum()) / 8
    assert abs(len(sections[Section.GRIDS]) - estimate) < 0.01 * estimate + 8


def test_models_without_a_universal_function(own_store: Path, tmp_path: Path) -> None:
    """Their functions are made for one latent alone; the file says all of them."""
    path = tmp_path / "plain.safetensors"
    model = shipped().model
    networks = {name: tensor for name, tensor in model.tensors.items() if not name.startswith("function.")}
    model_file.write(replace(model, name="plain", tensors=networks, function=None), path)
    entry = store.add(path)
    assert entry.path.parent == own_store
    pixels = photo(64, 80)
    data = codec.encode(pixels, profile="clric", model="plain", quality=90, effort=1, device="cpu")
    assert unpack(data).header.model.hex() == entry.prefix
    sections, universal = unpack(data).sections, starts.universal_of(entry.load())
    weights = bitstream.read(sections[Section.WEIGHTS], sections[Section.GRIDS], 8, 10, shipped().channels, universal)[
        1
    ]
    assert weights.origin.number == PLAIN
    found, usual = (codec.decode(each, device="cpu").astype(float) for each in (data, encode(pixels, 90, 1)))
    assert np.abs(found - pixels).mean() < 1.2 * np.abs(usual - pixels).mean()
    small = codec.encode(pixels, profile="clric", model="plain", target_size=len(data) - 60, effort=1, device="cpu")
    assert 0.95 * (len(data) - 60) < len(small) <= len(data) - 60
    tiny = codec.encode(pixels[:8, :8], profile="clric", model="plain", target_size=2000, effort=1, device="cpu")
    assert len(tiny) <= 2000


def test_models_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the header could name another than was used, as a file may change meanwhile."""
    read, read_paths = import_checkpoint.read, list[Path]()

    def once(path: Path, name: str | None = None) -> Model:
        read_paths.append(path)
        return read(path, name)

    monkeypatch.setattr(import_checkpoint, "read", once)
    path = tmp_path / "mine.safetensors"
    path.write_bytes(store.EMBEDDED[MODEL].path.read_bytes())
    pixels = photo(32, 40)
    coded = codec.encode_batch([pixels, pixels], profile="clric", model=path, quality=50, effort=1, device="cpu")
    assert [unpack(data).header.model.hex() for data in coded] == [store.EMBEDDED[MODEL].prefix] * 2
    assert read_paths == [path]


def changed(described: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return {**described, "shape": {**described["shape"], **change}}


@pytest.mark.parametrize(
    "change",
    [
        lambda told: "function",
        lambda told: {"lambdas": told["lambdas"]},
        lambda told: {**told, "lambdas": [0, 1]},
        lambda told: {**told, "distortion": "unheard of"},
        lambda told: {**told, "lambdas": [3.0, 0.005]},
        lambda told: {**told, "lambdas": [1, 2, 3]},
        lambda told: {**told, "lambdas": [1, 10**400]},
        lambda told: changed(told, {"spatial": float(told["shape"]["spatial"])}),
        lambda told: changed(told, {"residuals": bool(told["shape"]["residuals"])}),
        lambda told: changed(told, {"unknown": 1}),
        lambda told: changed(told, {"hidden": 9}),
        lambda told: changed(told, {"features": [float(n) for n in told["shape"]["features"]]}),
        lambda told: changed(told, {"features": [10**12]}),
        lambda told: changed(told, {"features": [n // 2 for n in told["shape"]["features"] * 2]}),
        lambda told: changed(told, {"features": []}),
        lambda told: changed(told, {"residuals": 10**12}),
        lambda told: changed(told, {"spatial": 11, "references": 16}),
        lambda told: changed(told, {"separate": False}),
        lambda told: changed(told, {"separate": 1}),
    ],
)
def test_universal_functions_that_make_no_sense(change: Callable[[Any], Any]) -> None:
    model = shipped().model
    with pytest.raises(ModelFileError, match=r"model (is damaged|does not fit)"):
        model_file.check(replace(model, function=change(model.function)), "model")


@pytest.mark.parametrize(
    "change",
    [
        lambda name, t: None if name.endswith("steps") else t,
        lambda name, t: t.flatten()[0] if name.endswith("steps") else t,
        lambda name, t: None if name.endswith("arm.output") else t,
        lambda name, t: t[:3] if name.endswith("arm.output") else t,
        lambda name, t: t[:, :8] if name.endswith("steps") else t,
        lambda name, t: t.float() if name.endswith("arm.output") else t,
        lambda name, t: t[:0] if name.startswith("function.") else t,
    ],
)
def test_universal_functions_whose_tensors_do_not_fit(change: Callable[[str, Tensor], Tensor | None]) -> None:
    model = shipped().model
    tensors = {name: found for name, t in model.tensors.items() if (found := change(name, t)) is not None}
    with pytest.raises(ModelFileError, match=r"model (is damaged|does not fit)"):
        model_file.check(replace(model, tensors=tensors), "model")


def test_steps_of_universal_functions_are_positive() -> None:
    model = shipped().model
    tensors = {**model.tensors, "function.steps": 0 * model.tensors["function.steps"]}
    with pytest.raises(ModelFileError, match=f"{MODEL} is damaged: a step"):
        starts.universal_of(replace(model, tensors=tensors))


# Too little memory


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of the latent for which the decoder has memory."""
    room, decode_tile = [2**30], PatchAutoencoder.decode_tile

    def bounded(self: PatchAutoencoder, features: Tensor) -> Tensor:
        if features[0, 0].numel() > room[0]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return decode_tile(self, features)

    monkeypatch.setattr(PatchAutoencoder, "decode_tile", bounded)
    return room


def test_decoding_takes_smaller_tiles_where_memory_is_short(memory: list[int]) -> None:
    data = encode(photo(300, 330), quality=30, effort=1)
    expected = codec.decode(data, device="cpu").astype(float)
    memory[0] = 32 * 32
    decoded = codec.decode(data, device="cpu")
    assert np.abs(decoded - expected).max() > 0
    assert np.abs(decoded - expected).mean() < 1


def test_decoding_without_enough_memory(memory: list[int]) -> None:
    data = encode(photo(32, 40), quality=30, effort=1)
    memory[0] = 3
    with pytest.raises(MemoryError, match=r'40 x 32 takes more memory.*device "cpu": free some'):
        codec.decode(data, device="cpu")
