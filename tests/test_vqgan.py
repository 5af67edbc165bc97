"""Other people's models with codebooks, small and of random weights: profile `vq` codes with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lossy
import numpy as np
import pictures
import pytest
import reader
import torch
import torch.nn.functional as F
from conftest import run
from latents import indices_of
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

import codec
from codec import CorruptError, DamageWarning, Section, unpack
from codec.autoencoders import import_checkpoint, model_file, store
from codec.autoencoders.errors import ModelError, ModelFileError
from codec.autoencoders.networks.vq import check_sizes
from codec.autoencoders.networks.vqgan import FIELDS
from codec.autoencoders.vector_quantised import VectorQuantised, on_device
from codec.profiles import packets
from codec.profiles.vq.profile import PACKETS
from codec.tensors import to_tensor
from codec.training.vq import read_codebooks

pytest.importorskip("diffusers")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures("own_store")

CPU = torch.device("cpu")
ENTRIES = 20
Pixels = NDArray[np.uint8]
photo = partial(pictures.photo, "astronaut.png")


def vq_model(levels: int = 3, **options: Any) -> Any:
    import diffusers

    torch.manual_seed(0)
    types: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * (levels - 1) + ("AttnDownEncoderBlock2D",),
        "up_block_types": ("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * (levels - 1),
    }
    shape = {"block_out_channels": (8,) * levels, "norm_num_groups": 4, "latent_channels": 4, "vq_embed_dim": 3}
    made: Any = diffusers.VQModel
    model = made(**{**types, **shape, "num_vq_embeddings": ENTRIES, **options}).eval()
    model.quantize.embedding.weight.data = torch.randn_like(model.quantize.embedding.weight)
    return model


def added(folder: Path, levels: int = 3, **options: Any) -> Any:
    """A model that is in the store as "theirs"."""
    model = vq_model(levels, **options)
    model.save_pretrained(folder)
    done = run("models", "add", folder, "--name", "theirs")
    assert done.exit_code == 0, done.output
    return model


def ours() -> VectorQuantised:
    return on_device(store.load("theirs"), CPU)


def encode(pixels: Pixels, **options: Any) -> bytes:
    return codec.encode(pixels, **{"profile": "vq", "model": "theirs", "device": "cpu", "quality": 100, **options})


def decode(data: bytes, **options: Any) -> Pixels:
    return codec.decode(data, device="cpu", **options)


def without(data: bytes, lost: Iterable[int]) -> bytes:
    container = unpack(data)
    found, section = PACKETS.of(container, ours().downscale), container.sections[Section.GRIDS]
    contents = {**found.streams, **found.parity}
    for number in (*lost, *found.parity):
        part = packets.packet(found.head, number, contents[number])
        section = section.replace(part, bytes(len(part)))
    return data[: container.header.size] + section


def bits_of(data: bytes) -> int:
    """Bits of all streams."""
    return 8 * sum(map(len, PACKETS.of(unpack(data), ours().downscale).streams.values()))


# Models


def test_no_training_starts_from_it(tmp_path: Path) -> None:
    added(tmp_path)
    entry = store.check("theirs")
    assert entry is not None
    with pytest.raises(ModelFileError, match="is of kind 'vqgan': trainings like this start from models of kind 'vq'"):
        read_codebooks(entry.path)


@pytest.mark.parametrize("norm", ["group", "spatial"])
@pytest.mark.parametrize("part", [".", "vqvae", "movq"])
def test_diffusers(norm: str, part: str, tmp_path: Path, full_precision: None) -> None:
    """Indices and pictures are those of the library."""
    theirs = vq_model(norm_type=norm, block_out_channels=(32,) * 3, vq_embed_dim=4)
    theirs.save_pretrained(tmp_path / part)
    store.add(tmp_path, "theirs")
    pixels = photo(64, 80)
    picture = to_tensor([pixels], CPU)
    with torch.no_grad():
        quantised, _, (_, _, chosen) = theirs.quantize(theirs.encode(2 * picture - 1).latents)
        shown = theirs.decode(quantised, force_not_quantize=True).sample / 2 + 0.5
    data = encode(pixels)
    assert ours().model.architecture == "vqgan"
    assert codec.describe(data)["codebook"] == ENTRIES
    assert np.array_equal(indices_of(unpack(data)), chosen.view(16, 20).numpy())
    wanted = 255 * shown[0].clamp(0, 1).permute(1, 2, 0).numpy()
    assert np.abs(decode(data) - wanted).mean() < 1


@pytest.mark.parametrize("levels", [1, 3, 6])
def test_pixels_of_an_index_are_the_models_own(levels: int, tmp_path: Path) -> None:
    added(tmp_path, levels)
    side = 2 ** (levels - 1)
    for height, width in ((1, 1), (33, 70)):
        data = encode(photo(height, width), resilience=9)
        codec.verify(data)
        size = -(-height // side), -(-width // side)
        assert indices_of(unpack(data)).shape == size
        assert codec.describe(data)["packets"] == min(10, size[0]) * min(10, size[1])
        assert decode(data).shape == (height, width, 3)
        for scale in codec.SCALES:
            assert decode(data, scale=scale).shape == (-(-height // scale), -(-width // scale), 3)


def test_previews_are_means(tmp_path: Path) -> None:
    added(tmp_path)  # of 4 x 4 pixels for an index
    data = encode(photo(64, 80))
    whole = decode(data).astype(float)
    for scale in (2, 4, 8):
        parts = whole.reshape(64 // scale, scale, 80 // scale, scale, 3).mean((1, 3))
        assert np.abs(parts - decode(data, scale=scale)).mean() < 2


def test_quality_chooses_a_codebook(tmp_path: Path) -> None:
    added(tmp_path, num_vq_embeddings=50)
    found = [encode(photo(64, 80), quality=quality) for quality in (0, 25, 50, 75, 100)]
    assert [codec.describe(data)["codebook"] for data in found] == [8, 8, 16, 32, 50]
    bits = [np.log2(codec.describe(data)["codebook"]) * 16 * 20 for data in found]
    assert all(expected <= bits_of(data) + 8 for data, expected in zip(found, bits, strict=True))
    assert all(bits_of(data) <= expected + 40 for data, expected in zip(found, bits, strict=True))
    assert len(encode(photo(64, 80), target_size=200)) <= 200


def test_smaller_codebooks_are_near_the_models_own(tmp_path: Path) -> None:
    theirs = added(tmp_path)
    model = store.load("theirs")
    assert model.config["sizes"] == [8, 16, ENTRIES]
    own = theirs.quantize.embedding.weight.detach()
    *smaller, last = model.tensors["entries"].split(model.config["sizes"])
    assert torch.equal(last, own)
    first, second = (torch.cdist(own, entries).amin(1).square().mean() for entries in smaller)
    assert second < first < 0.6 * own.var(0).sum()
    assert store.add(tmp_path, "theirs").prefix == model.prefix.hex()  # made again, they are the same


# taming-transformers


class State(dict[str, Tensor]):
    """Random weights."""

    def conv(self, name: str, inputs: int, outputs: int, side: int = 3) -> None:
        self[f"{name}.weight"] = torch.randn(outputs, inputs, side, side) * (inputs * side**2) ** -0.5
        self[f"{name}.bias"] = 0.1 * torch.randn(outputs)

    def norm(self, name: str, channels: int) -> None:
        self[f"{name}.weight"], self[f"{name}.bias"] = 1 + 0.1 * torch.randn(channels), 0.1 * torch.randn(channels)

    def block(self, name: str, inputs: int, outputs: int) -> None:
        self.norm(f"{name}.norm1", inputs)
        self.conv(f"{name}.conv1", inputs, outputs)
        self.norm(f"{name}.norm2", outputs)
        self.conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            self.conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def attention(self, name: str) -> None:
        self.norm(f"{name}.norm", 64)
        for part in ("q", "k", "v", "proj_out"):
            self.conv(f"{name}.{part}", 64, 64, 1)


def taming() -> dict[str, Tensor]:
    """A random state of its `VQModel`, ch=32, ch_mult=(1, 2, 2), one block a level, attention at the last."""
    torch.manual_seed(0)
    state = State()
    for network, ends in (("encoder", (3, 32, 64, 5)), ("decoder", (5, 64, 32, 3))):
        state.conv(f"{network}.conv_in", *ends[:2])
        state.block(f"{network}.mid.block_1", 64, 64)
        state.attention(f"{network}.mid.attn_1")
        state.block(f"{network}.mid.block_2", 64, 64)
        state.norm(f"{network}.norm_out", ends[2])
        state.conv(f"{network}.conv_out", *ends[2:])
    for level, (inputs, outputs) in enumerate([(32, 32), (32, 64), (64, 64)]):
        state.block(f"encoder.down.{level}.block.0", inputs, outputs)
        state.block(f"decoder.up.{level}.block.0", 64, outputs)
        state.block(f"decoder.up.{level}.block.1", outputs, outputs)
        if level < 2:
            state.conv(f"encoder.down.{level}.downsample.conv", outputs, outputs)
        if level:
            state.conv(f"decoder.up.{level}.upsample.conv", outputs, outputs)
    for name in ("encoder.down.2.attn.0", "decoder.up.2.attn.0", "decoder.up.2.attn.1"):
        state.attention(name)
    state.conv("quant_conv", 5, 3, 1)
    state.conv("post_quant_conv", 3, 5, 1)
    state["quantize.embedding.weight"] = torch.randn(ENTRIES, 3)
    return dict(state)


class Reference:
    """What taming-transformers computes with a state of `taming`."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride, padding)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)

    def block(self, name: str, x: Tensor) -> Tensor:
        y = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)))
        y = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", y)))
        shortcut = f"{name}.nin_shortcut"
        return y + (self.conv(shortcut, x, padding=0) if f"{shortcut}.weight" in self.state else x)

    def attention(self, name: str, x: Tensor) -> Tensor:
        y = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", y, padding=0).flatten(2) for part in "qkv")
        shares = (q.mT @ k * x.shape[1] ** -0.5).softmax(2)
        return x + self.conv(f"{name}.proj_out", (v @ shares.mT).view_as(x), padding=0)

    def middle(self, name: str, x: Tensor) -> Tensor:
        x = self.attention(f"{name}.attn_1", self.block(f"{name}.block_1", x))
        return self.block(f"{name}.block_2", x)

    def end(self, name: str, x: Tensor) -> Tensor:
        return self.conv(f"{name}.conv_out", F.silu(self.norm(f"{name}.norm_out", x)))

    def encode(self, picture: Tensor) -> Tensor:
        x = self.conv("encoder.conv_in", picture)
        for level in range(3):
            x = self.block(f"encoder.down.{level}.block.0", x)
            if level == 2:
                x = self.attention("encoder.down.2.attn.0", x)
            else:
                x = self.conv(f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), 2, 0)
        x = self.end("encoder", self.middle("encoder.mid", x))
        return self.conv("quant_conv", x, padding=0)

    def decode(self, latents: Tensor) -> Tensor:
        x = self.conv("decoder.conv_in", self.conv("post_quant_conv", latents, padding=0))
        x = self.middle("decoder.mid", x)
        for level in (2, 1, 0):
            for i in range(2):
                x = self.block(f"decoder.up.{level}.block.{i}", x)
                if level == 2:
                    x = self.attention(f"decoder.up.2.attn.{i}", x)
            if level:
                x = self.conv(f"decoder.up.{level}.upsample.conv", F.interpolate(x, scale_factor=2.0))
        return self.end("decoder", x)


@pytest.mark.parametrize("name", ["vqgan.safetensors", "vqgan.pth", "last.ckpt", "folder/last.ckpt"])
def test_taming(name: str, tmp_path: Path, full_precision: None) -> None:
    """Latents and pictures are those of the networks that it has."""
    state = taming()
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith("safetensors"):
        save_file(state, path)
    elif name.endswith("pth"):
        torch.save(state, path)
    else:
        judge = {"loss.discriminator.main.3.num_batches_tracked": torch.tensor(7), "loss.logvar": torch.zeros(1)}
        torch.save({"epoch": 3, "global_step": 100, "state_dict": {**state, **judge}}, path)
    store.add(path.parent if "folder" in name else path, "theirs")
    reference, pixels = Reference(state), photo(40, 64)
    latents = reference.encode(2 * to_tensor([pixels], CPU) - 1)
    assert_close = partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)  # sums are in another order
    assert_close(ours().encode(to_tensor([pixels], CPU), 2), latents)
    indices = ours().costs(latents, 2).astype(np.int32)
    entries = store.load("theirs").tensors["entries"].float().split(ours().sizes)[2]
    nearest = entries[torch.from_numpy(indices).long()].permute(2, 0, 1)[None]
    assert_close(ours().decode(indices, 2, 40, 64), reference.decode(nearest) / 2 + 0.5)
    assert decode(encode(pixels)).shape == pixels.shape


# Indices and packets


def test_the_second_reader(tmp_path: Path) -> None:
    added(tmp_path)
    for resilience in (0, 3):
        for quality in (0, 100):
            data = encode(photo(45, 80), resilience=resilience, quality=quality)
            container, expected = unpack(data), indices_of(unpack(data))
            section, sizes = container.sections[Section.GRIDS], store.load("theirs").config["sizes"]
            found = reader.Indices(section, {}, sizes, *expected.shape).indices
            assert np.array_equal(found, expected)


def test_lost_indices_are_as_the_nearest_known_ones(tmp_path: Path) -> None:
    added(tmp_path)
    indices = np.full((6, 9), -1, np.int32)
    indices[1, 1], indices[4, 8] = 5, 7
    rows, columns = np.indices(indices.shape)
    far = abs(rows - 1) + abs(columns - 1), abs(rows - 4) + abs(columns - 8)
    found = ours().mend(indices, 2)
    assert (found[far[0] < far[1]] == 5).all()
    assert (found[far[0] > far[1]] == 7).all()
    assert np.isin(found, (5, 7)).all()
    assert (ours().mend(np.full((2, 3), -1, np.int32), 2) == 0).all()


def test_nearly_all_of_a_large_map_may_be_lost(tmp_path: Path) -> None:
    """Work grows with the map only: if it grew with distances from what is known, too, this would take minutes."""
    added(tmp_path)
    indices = np.full((3000, 3000), -1, np.int32)
    indices[0, 0], indices[-1, -1] = 5, 7
    far = np.indices(indices.shape).sum(0)
    found = ours().mend(indices, 2)
    assert (found[far < 2999] == 5).all()
    assert (found[far > 2999] == 7).all()


def test_lost_packets(tmp_path: Path) -> None:
    added(tmp_path)
    data = encode(photo(64, 80), resilience=2)
    damaged = without(data, [1, 5])
    known = indices_of(unpack(damaged)) >= 0
    assert 0 < known.sum() < known.size
    with pytest.raises(CorruptError, match="2 of 9 packets"):
        codec.verify(damaged)
    with pytest.warns(DamageWarning, match="2 of 9 packets"):
        picture = decode(damaged)
    whole = lossy.repaired(damaged)
    codec.verify(whole)
    assert np.array_equal(decode(whole), picture)
    assert np.array_equal(indices_of(unpack(whole))[known], indices_of(unpack(data))[known])


@pytest.mark.parametrize("resilience", [0, 2])
def test_a_picture_from_the_header_on(resilience: int, tmp_path: Path) -> None:
    added(tmp_path)
    data = encode(photo(64, 80), resilience=resilience)
    expected, start = indices_of(unpack(data)), unpack(data).header.size
    for cut in range(start, start + sum(map(len, lossy.parts_of(data, PACKETS))), 17):
        with pytest.warns(DamageWarning):
            assert decode(data[:cut]).shape == (64, 80, 3)
        with pytest.raises(CorruptError, match="lost"):
            codec.verify(data[:cut])
    assert expected.shape == (16, 20)


@pytest.mark.parametrize("levels", [1, 4, 6])
def test_damage_of_small_pictures_shows_without_the_model(levels: int, tmp_path: Path) -> None:
    """Whatever its indices' squares are, of which the number of packets depends."""
    added(tmp_path, levels)
    data = encode(photo(40, 50), resilience=9)
    codec.verify(data)
    numbers = list(PACKETS.of(unpack(data), ours().downscale).streams)
    for lost in (numbers[:1], numbers[-1:], numbers[1:], numbers[: len(numbers) // 2]):
        with pytest.raises(CorruptError, match="packets"):
            codec.verify(without(data, lost))


# What is refused


def test_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vq_model().save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    done = run("models", "add", tmp_path)
    assert done.exit_code == 1
    assert "pip install 'pillow-clric[training]'" in done.output


def test_small_codebooks_need_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    added(tmp_path, num_vq_embeddings=5)
    data = encode(photo(20, 30), quality=0)
    assert codec.describe(data)["codebook"] == 5
    assert decode(data).shape == (20, 30, 3)


def test_models_that_do_not_fit_their_configuration(tmp_path: Path) -> None:
    vq_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for change in (
        {"latent_channels": 5}, {"block_out_channels": [10**9] * 3}, {"vq_embed_dim": 0},
        {"norm_type": "layer"}, {"norm_type": "spatial"},
        {"down_block_types": ["DownEncoderBlock2D"]}, {"up_block_types": ["UpBlock2D"] * 3}, {"act_fn": 5},
    ):  # fmt: skip
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(ModelFileError):
            import_checkpoint.read(tmp_path)


def test_codebooks_that_no_file_can_name(tmp_path: Path) -> None:
    for weight, complaint in (
        (torch.zeros(1, 3), "sizes must be .* not 1"), (torch.zeros(2**14 + 1, 3), "2 to 16384, not 16385"),
        (torch.zeros(3), "entries are"),
        (torch.full((9, 3), torch.nan), "damaged"),
    ):  # fmt: skip
        save_file({**taming(), "quantize.embedding.weight": weight}, tmp_path / "vqgan.safetensors")
        with pytest.raises(ModelFileError, match=complaint):
            import_checkpoint.read(tmp_path / "vqgan.safetensors")
    with pytest.raises(ValueError, match="1 to 16 rising numbers"):
        check_sizes(range(2, 19))


@pytest.mark.parametrize("missing", ["encoder.conv_out.weight", "quant_conv.weight", "decoder.up.1.block.0.norm1.bias"])
def test_states_that_lack_weights(missing: str, tmp_path: Path) -> None:
    state = taming()
    del state[missing]
    save_file(state, tmp_path / "vqgan.safetensors")
    with pytest.raises(ModelFileError, match="weights"):
        import_checkpoint.read(tmp_path / "vqgan.safetensors")


def test_other_profiles_have_no_use_for_it(tmp_path: Path) -> None:
    added(tmp_path)
    with pytest.raises(ModelError, match="'vqgan'"):
        codec.encode(photo(20, 20), profile="clric", model="theirs", device="cpu")


def test_a_configuration_that_is_a_list() -> None:
    config = {"autoencoder": list(FIELDS), "sizes": [8]}
    with pytest.raises(ModelFileError, match="makes no sense"):
        model_file.check(model_file.Model("m", "vqgan", config, (), (), {}), "it")
