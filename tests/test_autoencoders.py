"""Autoencoders: what they make of photos, foreign models beside their own libraries, tiles, and wrong files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import psnr
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from codec.autoencoders import import_checkpoint, model_file, store
from codec.autoencoders.architectures import ARCHITECTURES, Architecture
from codec.autoencoders.autoencoder import Autoencoder
from codec.autoencoders.errors import ModelError, ModelFileError
from codec.autoencoders.model_file import Model, build, loaded
from codec.autoencoders.tensor_file import TensorFile
from codec.autoencoders.tiles import least, ramp, spans, tiled
from codec.entropy import layers
from codec.entropy.layers import Definition, narrowed

SAMPLES = Path(__file__).parent.parent / "samples"
TAEF2 = Path(__file__).parent.parent.parent / "shared" / "models" / "taef2"
CPU = torch.device("cpu")


def picture(name: str) -> Tensor:
    with Image.open(SAMPLES / name) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def random_model(architecture: str, config: dict[str, Any], channels: int) -> Model:
    """A model with random weights, float16."""
    torch.manual_seed(0)
    networks = ARCHITECTURES[architecture].build(config)
    tensors = {name: (0.05 * torch.randn(w.shape)).half() for name, w in networks.state_dict().items()}
    return Model("random", architecture, config, (0.25,) * channels, (2.0,) * channels, tensors)


TINY = {"latent": 4, "pooling": True}
KL = {
    "latent_channels": 4, "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "act_fn": "silu",
    "mid_block_add_attention": True, "use_quant_conv": True, "use_post_quant_conv": True,
}  # fmt: skip
BASE = {"latent": 3, "fine": 8, "coarse": 8, "encoder": [1, 1], "decoder": [1, 1]}
CONFIGURATIONS: dict[str, dict[str, Any]] = {"tiny": TINY, "base": BASE, "kl": KL}


@pytest.fixture(scope="session", params=["base", "patch"])
def embedded(request: pytest.FixtureRequest) -> Autoencoder:
    return Autoencoder(store.load(request.param), CPU)


@pytest.fixture(params=["tiny", "base"])
def random(request: pytest.FixtureRequest) -> Autoencoder:
    model = random_model("tiny", TINY, 4) if request.param == "tiny" else random_model("base", BASE, 3)
    return Autoencoder(model, CPU)


class TestEmbedded:
    @pytest.mark.parametrize("name", ["astronaut.png", "rocket.jpg", "coffee.png"])
    def test_reconstructs_photos(self, embedded: Autoencoder, name: str) -> None:
        photo = picture(name)
        made = embedded.decode(embedded.encode(photo), *photo.shape[2:])
        assert psnr(made.clamp(0, 1), photo) > 25

    @pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 9), (8, 8), (1, 300), (65, 40)])
    def test_any_size_and_batch(self, embedded: Autoencoder, height: int, width: int) -> None:
        photos = picture("coffee.png")[:, :, :height, :width].repeat(3, 1, 1, 1)
        latents = embedded.encode(photos)
        assert latents.shape == (3, embedded.channels, *embedded.latent_size(height, width))
        made = embedded.decode(latents, height, width)
        assert made.shape == photos.shape
        assert (made - photos).abs().mean() < 0.1

    def test_latents_are_normalised(self, embedded: Autoencoder) -> None:
        """Rounding them costs little: their scale is that of a quantiser for about 0.2 bits per pixel."""
        photo = picture("rocket.jpg")
        latents = embedded.encode(photo)
        assert abs(latents.mean()) < 0.5
        rounded = embedded.decode(latents.round(), *photo.shape[2:]).clamp(0, 1)
        assert psnr(rounded, photo) > 23

    def test_has_gradients(self, embedded: Autoencoder) -> None:
        latents = embedded.encode(picture("coffee.png")[:, :, :32, :32]).requires_grad_()
        embedded.decode(latents, 32, 32).sum().backward()
        assert latents.grad is not None
        assert latents.grad.abs().min() > 0

    def test_is_small(self, embedded: Autoencoder) -> None:
        """Less than ten megabytes, and at most 60 kMAC a pixel to decode."""
        assert store.EMBEDDED[embedded.model.name].path.stat().st_size < 10_000_000
        with FlopCounterMode(display=False) as counter:
            embedded.decode(torch.zeros(1, embedded.channels, 16, 16), 128, 128)
        assert counter.get_total_flops() / 2 / 128**2 <= 60_000


class TestTiles:
    @given(st.integers(1, 400), st.integers(8, 64), st.integers(1, 7))
    def test_weights_add_up_to_one(self, length: int, tile: int, scale: int) -> None:
        total = torch.zeros(length * scale)
        small = spans(length, least(length, tile, tile // 4), tile // 4)
        assert len(small) == len(spans(length, tile, tile // 4))
        assert all(max(span.fade_in, span.fade_out) <= tile // 4 + 1 for span in small)
        for found in (small, spans(length, tile, tile // 4)):
            total.zero_()
            for span in found:
                assert span.stop - span.start <= tile
                total[span.start * scale : span.stop * scale] += ramp(span, scale, total)
            torch.testing.assert_close(total, torch.ones_like(total))

    @given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 3), st.integers(1, 3))
    def test_what_needs_no_context_is_the_same(self, height: int, width: int, down: int, up: int) -> None:
        source = torch.randn(2, 3, height * down, width * down, requires_grad=True)

        def function(x: Tensor) -> Tensor:
            assert max(x.shape[2:]) <= 16 * down
            return torch.nn.functional.avg_pool2d(x, down).repeat_interleave(up, 2).repeat_interleave(up, 3)

        made = tiled(function, source, 3, (down, up), 16, 4)
        whole = torch.nn.functional.avg_pool2d(source, down).repeat_interleave(up, 2).repeat_interleave(up, 3)
        torch.testing.assert_close(made, whole)
        found, wanted = (torch.autograd.grad(x.square().sum(), source)[0] for x in (made, whole))
        torch.testing.assert_close(found, wanted)

    def test_are_smaller_where_memory_ends(self) -> None:
        sides: list[int] = []

        def function(x: torch.Tensor) -> torch.Tensor:
            sides.append(max(x.shape[2:]))
            if sides[-1] > most:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return x

        source, most = torch.randn(1, 3, 70, 100), 20
        with torch.no_grad():
            torch.testing.assert_close(tiled(function, source, 3, (1, 1), 64, 4), source)
            assert max(sides) > most >= sides[-1]
            most = 3  # less than what tiles share
            with pytest.raises(torch.cuda.OutOfMemoryError):
                tiled(function, source, 3, (1, 1), 64, 4)
            assert sides[-1] > 4
        most, before = 20, len(sides)
        with pytest.raises(torch.cuda.OutOfMemoryError):  # which gradients would need again
            tiled(function, source, 3, (1, 1), 64, 4)
        assert len(sides) == before + 1

    def test_are_not_tried_again_after_other_errors(self) -> None:
        sizes: list[torch.Size] = []

        def function(x: torch.Tensor) -> torch.Tensor:
            sizes.append(x.shape)
            raise RuntimeError("broken")

        with torch.no_grad(), pytest.raises(RuntimeError, match="broken"):
            tiled(function, torch.zeros(1, 3, 70, 100), 3, (1, 1), 64, 4)
        assert len(sizes) == 1

    def test_are_not_seen(self, embedded: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self._check(embedded, monkeypatch)

    def test_are_not_seen_with_normalisation(self, random: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self._check(random, monkeypatch)

    @staticmethod
    def _check(autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
        photo = picture("coffee.png")[:, :, :200, :360]
        latents = autoencoder.encode(photo)
        made = autoencoder.decode(latents, *photo.shape[2:])
        monkeypatch.setattr(autoencoder, "tile", 192)
        assert (autoencoder.encode(photo) - latents).abs().mean() < 0.01 * latents.std()
        tiles = autoencoder.decode(latents, *photo.shape[2:])
        assert (tiles - made).abs().mean() < 0.2 / 255
        assert (tiles - made).abs().max() < 4 / 255


class TestModelFile:
    def test_round_trip(self, tmp_path: Path) -> None:
        model = random_model("tiny", TINY, 4)
        model_file.write(model, tmp_path / "model.safetensors")
        read = model_file.read(tmp_path / "model.safetensors")
        assert read.identity == model.identity
        assert (read.name, read.description) == (model.name, model.description)

    def test_identity(self) -> None:
        """It is what the documentation says, and depends on all that changes a picture, but not on names and types."""
        model = Model("m", "base", {"b": 1, "a": [2]}, (0.0,), (1.5,), {"w": torch.tensor([[1.0, -2.0]])})
        told = '{"architecture":"base","config":{"a":[2],"b":1},"mean":[0.0],"scale":[1.5]}'
        weights = np.array([1, -2], "<f4").tobytes()
        from hashlib import sha256

        assert model.identity == sha256(told.encode() + b"w\0[1,2]\0" + weights).digest()
        half = Model("other", "base", {"a": [2], "b": 1}, (0.0,), (1.5,), {"w": torch.tensor([[1.0, -2.0]]).half()})
        assert half.identity == model.identity
        for changed in (
            Model("m", "tiny", model.config, model.mean, model.scale, model.tensors),
            Model("m", "base", {}, model.mean, model.scale, model.tensors),
            Model("m", "base", model.config, (1.0,), model.scale, model.tensors),
            Model("m", "base", model.config, model.mean, model.scale, {"w": torch.tensor([[1.0, -2.5]])}),
            Model("m", "base", model.config, model.mean, model.scale, {"w": torch.tensor([1.0, -2.0])}),
        ):
            assert changed.identity != model.identity

    def test_identity_of_integers(self) -> None:
        """Those of 16 bits count as float32, others as int64: exactly, whatever their values."""
        from hashlib import sha256

        told = '{"architecture":"base","config":{},"mean":[],"scale":[]}'
        for dtype, counted in ((torch.int8, "<i8"), (torch.int16, "<f4"), (torch.int32, "<i8")):
            ends = torch.iinfo(dtype)
            values = [ends.min, -1, 0, ends.max - 1, ends.max]
            model = Model("m", "base", {}, (), (), {"w": torch.tensor(values, dtype=dtype)})
            assert model.identity == sha256(told.encode() + b"w\0[5]\0" + np.array(values, counted).tobytes()).digest()

    def test_components(self) -> None:
        tensors = {name: torch.tensor(float(i)) for i, name in enumerate(("a.b.c", "a.d", "ab.c", "b", "a"))}
        model = Model("m", "base", {}, (), (), tensors)
        assert model.component("a") == {"b.c": tensors["a.b.c"], "d": tensors["a.d"], "": tensors["a"]}
        assert model.component("none") == {}

    @settings(max_examples=60)
    @given(data=st.data())
    def test_damage_is_an_error_or_another_model(self, data: st.DataObject, tmp_path_factory: Any) -> None:
        path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
        model_file.write(random_model("base", BASE, 3), path)
        contents = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            contents[data.draw(st.integers(0, 1200))] = data.draw(st.integers(0, 255))
        path.write_bytes(contents[: data.draw(st.integers(0, len(contents)) | st.just(len(contents)))])
        try:
            build(model_file.read(path))
        except ModelFileError as error:
            assert str(error)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"architecture": "quantum"}, "update pillow-clric"),
            ({"config": {**BASE, "latent": 10**9}}, "from 1 to 256"),
            ({"config": {**BASE, "decoder": [10**9, 1]}}, "from 0 to 64"),
            ({"config": {**BASE, "decoder": 3}}, "makes no sense"),
            ({"config": {**BASE, "latent": "3"}}, "whole number"),
            ({"config": {**BASE, "extra": 1}}, "makes no sense"),
            ({"config": {**BASE, "fine": 16}}, "do.* not fit"),
            ({"mean": (0.0,) * 2}, "3 channels"),
            ({"scale": (0.0,) * 3}, "finite"),
            ({"mean": (float("nan"),) * 3}, "finite"),
            ({"mean": (1e300,) * 3}, "finite"),
            ({"mean": (10**400,) * 3}, "cannot be read"),
            ({"scale": (1e-300,) * 3}, "finite"),
            ({"tensors": {}}, "not fit"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, change: dict[str, Any], message: str, tmp_path: Path) -> None:
        model = random_model("base", BASE, 3)
        fields = {name: getattr(model, name) for name in ("name", "architecture", "config", "mean", "scale", "tensors")}
        model_file.write(Model(**{**fields, **change}), tmp_path / "wrong.safetensors")
        with pytest.raises(ModelFileError, match=message):
            import_checkpoint.read(tmp_path / "wrong.safetensors")

    @given(data=st.data())
    def test_any_configuration_is_refused_or_built(self, data: st.DataObject) -> None:
        architecture = data.draw(st.sampled_from(sorted(CONFIGURATIONS)))
        config: dict[str, Any] = dict(CONFIGURATIONS[architecture])
        value = st.integers(-2, 40) | st.none() | st.booleans() | st.floats() | st.text(max_size=3)
        config[data.draw(st.sampled_from(sorted(config)))] = data.draw(value | st.lists(value, max_size=3))
        try:
            build(Model("any", architecture, config, (0.0,), (1.0,), {}))
        except ModelFileError as error:
            assert str(error)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (torch.full((8,), float("nan")), "finite"),
            (torch.full((8,), float("inf")), "finite"),
            (torch.zeros(8, dtype=torch.int64), "type I64, which no model has"),
            (torch.zeros(8, dtype=torch.int16), "of type int16, not float16 or"),
            (torch.zeros(8, dtype=torch.float64), "type F64, which no model has"),
            (torch.zeros(9), "not fit"),
        ],
    )
    def test_wrong_weights_are_refused(self, weights: Tensor, message: str, tmp_path: Path) -> None:
        model = random_model("base", BASE, 3)
        tensors = {**model.tensors, "encoder.1.bias": weights}
        wrong = Model("wrong", "base", BASE, model.mean, model.scale, tensors)
        model_file.write(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(ModelFileError, match=message):
            import_checkpoint.read(tmp_path / "wrong.safetensors")


CONTEXT = Definition(*map(np.array, ([[100, -7]] * 4, [2**20, 0, 1, -9], [3] * 4, [-200, 200])))


class WithPrior(nn.Module):
    """Networks with integers of their own, and no latent that would need a mean and a scale."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.decoder = nn.Linear(2, config["outputs"])
        self.prior = nn.Module()
        for name, dtype in (("scales", torch.int8), ("weights", torch.int16), ("sums", torch.int32)):
            self.prior.register_buffer(name, torch.zeros(config["outputs"], dtype=dtype))


class Integers(layers.Proven):
    """What of these models computes in integers."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.context = layers.Linear(config["outputs"], 2)


@pytest.fixture
def with_prior(monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model of another architecture than those of autoencoders, with an optional component."""
    tables = {"table": torch.zeros(3, dtype=torch.int8)}
    optional = {"function": lambda told, channels, found: tables if told["shape"] == 3 else {}}
    monkeypatch.setitem(ARCHITECTURES, "toy", Architecture(WithPrior, Integers, optional))
    tensors = {
        "decoder.weight": torch.ones(4, 2).half(), "decoder.bias": torch.ones(4),
        "prior.scales": torch.tensor([-128, 0, 1, 127], dtype=torch.int8),
        "prior.weights": torch.tensor([-(2**15), 0, 1, 2**15 - 1], dtype=torch.int16),
        "prior.sums": torch.tensor([-(2**31), 0, 2**24 + 1, 2**31 - 1], dtype=torch.int32),
    }  # fmt: skip
    whole = narrowed(CONTEXT._asdict())
    tensors |= {f"context.{name}": torch.from_numpy(numbers) for name, numbers in whole.items()}
    return Model("toy", "toy", {"outputs": 4}, (), (), tensors)


class TestArchitecture:
    """Models of any kind: which tensors they have, and that this is checked before they are read."""

    def test_integers_are_kept(self, with_prior: Model, tmp_path: Path) -> None:
        model_file.write(with_prior, tmp_path / "toy.safetensors")
        read = import_checkpoint.read(tmp_path / "toy.safetensors")
        assert read.identity == with_prior.identity
        networks = build(read).state_dict()
        assert networks["decoder.weight"].dtype == torch.float32
        for name, tensor in with_prior.component("prior").items():
            assert networks[f"prior.{name}"].dtype == tensor.dtype
            assert torch.equal(networks[f"prior.{name}"], tensor)
        inputs = np.array([[-200, 7]])
        outputs = (inputs @ CONTEXT.weight.T + CONTEXT.bias + 4) >> 3
        assert np.array_equal(loaded(Integers(read.config), read).context(inputs), outputs)

    def test_integers_that_make_no_sense(self, with_prior: Model, tmp_path: Path) -> None:
        tensors = {**with_prior.tensors, "context.shift": torch.full((4,), 99, dtype=torch.int8)}
        model_file.write(replace(with_prior, tensors=tensors), tmp_path / "toy.safetensors")
        with pytest.raises(ModelFileError, match="toy has integers that make no sense: shifts"):
            import_checkpoint.read(tmp_path / "toy.safetensors")

    def test_is_no_autoencoder(self, with_prior: Model) -> None:
        with pytest.raises(ModelError, match="'toy', no autoencoder"):
            Autoencoder(with_prior, CPU)

    def test_optional_components(self, with_prior: Model) -> None:
        more = {**with_prior.tensors, "function.table": torch.ones(3, dtype=torch.int8)}
        model_file.check(replace(with_prior, tensors=more, function={"shape": 3}), "it")
        for tensors, function in ((more, None), (with_prior.tensors, {"shape": 3}), (more, {"shape": 4}), (more, {})):
            with pytest.raises(ModelFileError, match=r"it (does not fit|is damaged: its function)"):
                model_file.check(replace(with_prior, tensors=tensors, function=function), "it")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"prior.sums": torch.zeros(4, dtype=torch.int16)}, "prior.sums are of type int16, not int32"),
            ({"context.bias": torch.zeros(4)}, "context.bias are of type float32, not int8 or int16 or int32"),
            ({"prior.sums": torch.zeros(4)}, "prior.sums are of type float32, not int32"),
            ({"decoder.bias": torch.zeros(4, dtype=torch.int32)}, "decoder.bias are of type int32, not float16 or"),
            ({"prior.sums": torch.zeros(5, dtype=torch.int32)}, r"prior.sums are \(5,\), not \(4,\)"),
            ({"more": torch.zeros(1)}, r"more are \(1,\), not none"),
        ],
    )
    def test_is_checked_before_tensors_are_read(
        self, change: dict[str, Tensor], message: str, with_prior: Model, tmp_path: Path, monkeypatch: Any
    ) -> None:
        path = tmp_path / "wrong.safetensors"
        model_file.write(replace(with_prior, tensors={**with_prior.tensors, **change}), path)
        monkeypatch.setattr(TensorFile, "read", lambda file: pytest.fail("tensors are read"))
        with pytest.raises(ModelFileError, match=message):
            model_file.read(path)


Writer = Callable[[Model, Path], Path]


def write_pth_pair(model: Model, folder: Path) -> Path:
    return _write_pair(model, folder, "taes_{}.pth", torch.save)


def write_safetensors_pair(model: Model, folder: Path) -> Path:
    return _write_pair(model, folder, "{}.safetensors", save_file)


def _write_pair(model: Model, folder: Path, names: str, save: Callable[..., None]) -> Path:
    for part in ("encoder", "decoder"):
        tensors = {n.removeprefix(part + "."): w for n, w in model.tensors.items() if n.startswith(part)}
        save(tensors, folder / names.format(part))
    return folder


def write_first_of_pair(model: Model, folder: Path) -> Path:
    return write_pth_pair(model, folder) / "taes_decoder.pth"


def write_one_file(model: Model, folder: Path) -> Path:
    """As diffusers' `AutoencoderTiny` has it."""

    def rename(name: str) -> str:
        part, number, rest = name.split(".", 2)
        return f"{part}.layers.{int(number) - (part == 'decoder')}.{rest}"

    save_file({rename(name): w for name, w in model.tensors.items()}, folder / "one.safetensors")
    return folder


@pytest.mark.usefixtures("own_store")
class TestForeign:
    @pytest.mark.parametrize("write", [write_pth_pair, write_safetensors_pair, write_first_of_pair, write_one_file])
    @pytest.mark.parametrize("pooling", [False, True])
    def test_taesd_in_every_layout(self, write: Writer, pooling: bool, tmp_path: Path) -> None:
        model = random_model("tiny", {"latent": 16, "pooling": pooling}, 16)
        read = import_checkpoint.read(write(model, tmp_path), "mine")
        assert (read.name, read.config) == ("mine", model.config)
        assert read.tensors.keys() == model.tensors.keys()
        assert all(torch.equal(read.tensors[name], model.tensors[name]) for name in model.tensors)

    def test_diffusers_tiny(self, tmp_path: Path) -> None:
        diffusers = pytest.importorskip("diffusers")
        torch.manual_seed(0)
        theirs = diffusers.AutoencoderTiny().eval()
        theirs.save_pretrained(tmp_path / "tiny")
        ours = Autoencoder(import_checkpoint.read(tmp_path / "tiny"), CPU)
        photos = picture("coffee.png")[:, :, :64, :80]
        with torch.no_grad():
            latents = theirs.encode(2 * photos - 1).latents
            torch.testing.assert_close(ours.encode(photos), latents)
            torch.testing.assert_close(ours.decode(latents, 64, 80), theirs.decode(latents).sample / 2 + 0.5)

    @pytest.mark.parametrize("shift", [None, 0.25])
    @pytest.mark.parametrize("as_pipeline", [False, True])
    @pytest.mark.parametrize("old_names", [False, True])
    def test_diffusers_kl(self, shift: float | None, as_pipeline: bool, old_names: bool, tmp_path: Path) -> None:
        """The same latents and pictures as the library's own, after a way through the store."""
        theirs = self._kl(shift)
        folder = tmp_path / "vae" if as_pipeline else tmp_path
        theirs.save_pretrained(folder)
        if old_names:
            self._rename_attention(folder / "diffusion_pytorch_model.safetensors")
        store.add(tmp_path, "kl")
        ours = Autoencoder(store.load("kl"), CPU)
        photos = picture("coffee.png")[:, :, :80, :72]
        with torch.no_grad():
            latents = theirs.encode(2 * photos - 1).latent_dist.mode()
            assert_close = partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)  # sums are in another order
            assert_close(ours.encode(photos), (latents - (shift or 0)) * 0.5)
            made = ours.decode(ours.encode(photos), 80, 72)
            assert_close(made, theirs.decode(latents).sample / 2 + 0.5)

    @staticmethod
    def _kl(shift: float | None) -> Any:
        diffusers = pytest.importorskip("diffusers")
        torch.manual_seed(0)
        types = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
        widths = {"block_out_channels": (8, 16, 16), "norm_num_groups": 4, "layers_per_block": 1}
        return diffusers.AutoencoderKL(**types, **widths, scaling_factor=0.5, shift_factor=shift).eval()

    @staticmethod
    def _rename_attention(path: Path) -> None:
        """As Stable Diffusion 1's file has it."""
        names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        tensors = load_file(path)
        for new, old in names.items():
            tensors = {name.replace(f".{new}.", f".{old}."): w for name, w in tensors.items()}
        assert any(".query." in name for name in tensors)
        save_file(tensors, path, {"format": "pt"})

    def test_kl_without_the_extra(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        theirs = self._kl(None)
        theirs.save_pretrained(tmp_path)
        import sys

        monkeypatch.setitem(sys.modules, "diffusers", None)
        with pytest.raises(ImportError, match=r"pip install 'pillow-clric\[diffusers\]'"):
            import_checkpoint.read(tmp_path)

    def test_no_pickle_is_executed(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (tmp_path / "sprung",)

        write_pth_pair(random_model("tiny", TINY, 4), tmp_path)
        for contents in (Trap(), {"0.weight": Trap()}):
            torch.save(contents, tmp_path / "taes_encoder.pth")
            with pytest.raises(ModelFileError, match="never executed"):
                import_checkpoint.read(tmp_path)
        (tmp_path / "taes_encoder.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
        with pytest.raises(ModelFileError):
            import_checkpoint.read(tmp_path)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize("length", [0, 10, 1000, 100_000])
    def test_truncated_weights(self, length: int, tmp_path: Path) -> None:
        for write, name in ((write_pth_pair, "taes_encoder.pth"), (write_safetensors_pair, "encoder.safetensors")):
            folder = tmp_path / name
            folder.mkdir()
            write(random_model("tiny", TINY, 4), folder)
            (folder / name).write_bytes((folder / name).read_bytes()[:length])
            with pytest.raises(ModelFileError, match=r"again|never executed"):
                import_checkpoint.read(folder)

    @pytest.mark.parametrize(
        "contents", [[1, 2], {"a": 1}, torch.zeros(3), {"0.weight": torch.zeros(1, dtype=torch.int8)}]
    )
    def test_other_contents(self, contents: Any, tmp_path: Path) -> None:
        write_pth_pair(random_model("tiny", TINY, 4), tmp_path)
        torch.save(contents, tmp_path / "taes_encoder.pth")
        with pytest.raises(ModelFileError, match="other things"):
            import_checkpoint.read(tmp_path)

    def test_what_is_not_known_is_refused(self, tmp_path: Path) -> None:
        save_file({"w": torch.zeros(1)}, tmp_path / "strange.safetensors")
        with pytest.raises(ModelFileError, match="not known"):
            import_checkpoint.read(tmp_path / "strange.safetensors")
        save_file({"w": torch.zeros(1)}, tmp_path / "my_encoder.safetensors")
        with pytest.raises(ModelFileError, match="is missing"):
            import_checkpoint.read(tmp_path / "my_encoder.safetensors")
        with pytest.raises(ModelFileError, match="exactly one"):
            import_checkpoint.read(tmp_path)
        with pytest.raises(FileNotFoundError, match="does not exist"):
            import_checkpoint.read(tmp_path / "nothing")

    @pytest.mark.parametrize(
        "config",
        [
            "",
            "[]",
            "{}",
            '{"_class_name": "AutoencoderKL"',
            '{"_class_name": "UNet2DModel"}',
            '{"_class_name": "AutoencoderKL"}',
            '{"_class_name": "VQModel"}',
        ],
    )
    def test_wrong_configurations(self, config: str, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(config)
        save_file({"w": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
        with pytest.raises(ModelFileError, match=r"config\.json|UNet2DModel|lacks weights"):
            import_checkpoint.read(tmp_path)

    def test_kl_that_does_not_fit_its_configuration(self, tmp_path: Path) -> None:
        self._kl(None).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        for change in (
            {"latent_channels": 5}, {"latent_channels": 10**9}, {"block_out_channels": [10**9] * 3},
            {"norm_num_groups": 0}, {"norm_num_groups": None}, {"act_fn": 5}, {"shift_factor": "far"},
            {"scaling_factor": [1]}, {"scaling_factor": -1},
        ):  # fmt: skip
            (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
            with pytest.raises(ModelFileError):
                import_checkpoint.read(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file({"w": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
        with pytest.raises(ModelFileError):
            import_checkpoint.read(tmp_path)

    @pytest.mark.skipif(not TAEF2.exists(), reason="needs the weights of taef2")
    def test_taef2(self) -> None:
        """Real weights: nearly the photo, from a latent of 32 channels."""
        taef2 = Autoencoder(import_checkpoint.read(TAEF2), CPU)
        assert (taef2.model.name, taef2.channels) == ("taef2", 32)
        photo = picture("rocket.jpg")[:, :, :256, :256]
        assert psnr(taef2.decode(taef2.encode(photo), 256, 256).clamp(0, 1), photo) > 30
