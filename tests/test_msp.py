"""Profile msp, with a tiny model of random priors: what is coded comes back, and nothing else does harm."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import reader
import torch
from conftest import run
from hypothesis import given, settings
from hypothesis import strategies as st
from latents import TINY, latent_coded, random_prior, transform_of
from numpy.typing import NDArray
from PIL import Image, ImageFile

import codec
import pillow_clric
from codec import CorruptError, FormatError, Section, TruncatedError, UnsupportedError, blocks, pack, runtime, unpack
from codec.autoencoders import learned_transform, model_file, store, transform_networks
from codec.autoencoders.errors import ModelError, ModelFileError
from codec.autoencoders.model_file import Model
from codec.autoencoders.networks.coding_order import PRESETS
from codec.autoencoders.networks.integer_prior import Conditioned, IntegerPrior
from codec.autoencoders.networks.progressive_prior import laplace_bits
from codec.autoencoders.networks.transform import Decoder, Encoder
from codec.autoencoders.networks.transform_config import DOWNSCALE
from codec.distortion.pixels import picture_error
from codec.entropy import coder
from codec.profiles.msp import bitstream, latent_coding
from codec.tensors import to_tensor
from codec.training.quantisation import quantised

Pixels = NDArray[np.uint8]

pytestmark = pytest.mark.usefixtures("golden_models")

SIZES = [(1, 1), (1, 50), (17, 3), (40, 33), (64, 80)]
HEAD = 3  # bytes


@cache
def photo(height: int, width: int, mode: str = "RGB") -> Pixels:
    """A part of a photo that is enlarged, (height, width) or with channels, and random alpha."""
    whole = Image.fromarray(pictures.photo("astronaut.png", 512, 512))
    return pictures.pixels_of(whole.resize((1200, 1200)).crop((0, 0, width, height)), mode)


def encode(pixels: Pixels, **options: Any) -> bytes:
    return codec.encode(pixels, **{"profile": "msp", "model": "tiny", "effort": 1, "device": "cpu", **options})


def decode(data: bytes, **options: Any) -> Pixels:
    return codec.decode(data, device="cpu", **options)


@cache
def coded(preset: str) -> bytes:
    return latent_coded(preset, photo(64, 80), 128)


def with_section(data: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """The file with its section edited, and checksums that match."""
    container = unpack(data)
    return pack(container.header, {**container.sections, Section.GRIDS: edit(container.sections[Section.GRIDS])})


def error(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def random_latent(height: int, width: int, scale: float = 2.0) -> NDArray[np.float32]:
    latent = np.random.default_rng(height).laplace(0, scale, (height, width, transform_of().channels))
    return latent.astype(np.float32)


# What is coded comes back


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("size", SIZES)
def test_modes_and_sizes(size: tuple[int, int], mode: str) -> None:
    pixels = photo(*size, mode)
    decoded = decode(encode(pixels, quality=90))
    assert (decoded.shape, decoded.dtype) == (pixels.shape, pixels.dtype)
    if mode.endswith("A"):
        assert np.array_equal(decoded[:, :, -1], pixels[:, :, -1])
        decoded, pixels = decoded[:, :, :-1], pixels[:, :, :-1]
    assert error(decoded, pixels) < error(np.broadcast_to(np.uint8(pixels.mean()), pixels.shape), pixels) + 20


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(1, 1), (17, 40), (300, 33), (48, 400)])
def test_another_reader_reads_the_same_symbols(preset: str, size: tuple[int, int]) -> None:
    transform, latent = transform_of(), random_latent(*(-(-side // 16) for side in size))
    for position in (0, 100, transform.positions):
        stream, symbols = latent_coding.encode(transform.prior(preset, position), latent)
        section = bytes([list(PRESETS).index(preset)]) + position.to_bytes(2, "little") + stream
        other = reader.Latent(section, reader.model_tensors(TINY), *latent.shape[:2])
        assert np.array_equal(other.symbols, symbols)
        assert np.array_equal(
            symbols, latent_coding.decode(transform.prior(preset, position), stream, *latent.shape[:2])
        )


@pytest.mark.parametrize("preset", PRESETS)
def test_another_reader_knows_bands(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prior, latent = transform_of().prior(preset, 300), random_latent(21, 10)
    whole = latent_coding.encode(prior, latent)
    for module in (blocks, reader):
        monkeypatch.setattr(module, "BAND", 11)
    stream, symbols = latent_coding.encode(prior, latent)
    assert np.array_equal(symbols, whole[1])
    assert stream != whole[0]
    section = bytes([list(PRESETS).index(preset)]) + (300).to_bytes(2, "little") + stream
    assert np.array_equal(reader.Latent(section, reader.model_tensors(TINY), 21, 10).symbols, symbols)


class Recorded(latent_coding.LatentCoding):
    """Coding that keeps the distributions, in symbols and in logarithms."""

    mean, log_scale = (torch.zeros(1, 10, 32, 48) for _ in range(2))

    def _code(self, place: Any, cells: Any, channels: slice, mean: Any, scale: Any) -> None:
        for found, numbers in ((self.mean, mean / 16), (self.log_scale, scale / 8 - 3)):
            found[0].permute(1, 2, 0).numpy()[place][*cells, channels] = numbers
        super()._code(place, cells, channels, mean, scale)


@pytest.mark.parametrize("preset", PRESETS)
def test_integers_are_those_of_the_trained_prior(preset: str) -> None:
    """In the same order: symbols cost what training estimates."""
    torch.manual_seed(1)
    floats = random_prior(PRESETS[preset], torch.linspace(9, 1, 10), 3)
    floats.log_scale.data += 1
    integers = IntegerPrior(PRESETS[preset], 10, 3, 8)
    integers.load(quantised(floats))
    latent = random_latent(32, 48).round()
    prior = Conditioned(integers, 256, np.zeros((3, 10), np.int64))
    coding = Recorded([coder.Encoder()], prior, 32, 48, latent)
    symbols = torch.from_numpy(coding.run()).permute(2, 0, 1)[None]
    with torch.no_grad():
        mean, log_scale = floats(symbols.float(), torch.tensor([[0.0, 1.0, 0.0]]))
    estimate = laplace_bits(symbols, mean, log_scale.clamp(-3, 4.875)).sum()
    assert laplace_bits(symbols, coding.mean, coding.log_scale).sum() == pytest.approx(float(estimate), rel=0.01)


def test_sizes_rise_with_quality() -> None:
    sizes = [len(encode(photo(64, 80), quality=quality)) for quality in (0, 20, 40.5, 60, 80, 100)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("preset", PRESETS)
def test_symbols_depend_on_no_number_of_threads(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on parts that threads share: here each takes as little as can be."""
    monkeypatch.setattr(latent_coding, "ROWS", 1)
    monkeypatch.setattr(latent_coding, "CELLS", 2)
    prior = learned_transform.on_device(store.load("transform"), "cpu").prior(preset, 777)
    latent = np.random.default_rng(0).laplace(0, 2, (20, 30, prior.prior.channels)).astype(np.float32)
    threads, found = torch.get_num_threads(), set()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with runtime.numpy_computing():
                assert len(runtime.pieces(20, 1)) == count
                stream, symbols = latent_coding.encode(prior, latent)
                assert np.array_equal(latent_coding.decode(prior, stream, 20, 30), symbols)
            found.add(stream)
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


def test_files_depend_on_no_number_of_threads() -> None:
    threads, found = torch.get_num_threads(), set()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.add(encode(photo(64, 80)))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


@pytest.mark.parametrize("size", [(1300, 1100), (40, 1200)])
def test_tiles_do_not_show(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of torch nor that NumPy makes what is not larger than one."""
    pixels = photo(*size)
    data = encode(pixels)
    tiled = decode(data)
    for module in (transform_networks, learned_transform):
        monkeypatch.setattr(module, "TILE", 10**6)
        assert error(decode(data), tiled) < 0.2
    assert error(decode(encode(pixels)), tiled) < 0.5


@pytest.mark.parametrize("network", [Encoder, Decoder])
def test_tiles_are_smaller_where_memory_ends(network: type[torch.nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = photo(600, 1200)  # more than one tile: NumPy would decode that
    whole, forward, refused = decode(encode(pixels)), network.forward, 0

    def little(self: torch.nn.Module, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        nonlocal refused
        if x.shape[2:].numel() > whole.size / 2 / (3 if network is Encoder else 3 * DOWNSCALE**2):
            refused += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        result: torch.Tensor = forward(self, x, *rest)
        return result

    monkeypatch.setattr(network, "forward", little)
    assert error(decode(encode(pixels)), whole) < 0.5
    assert refused


# Previews, and files that end early


@pytest.mark.parametrize("scale", codec.SCALES)
@pytest.mark.parametrize("size", [(64, 80), (37, 101), (1, 1)])
def test_previews_are_means(size: tuple[int, int], scale: int) -> None:
    data = encode((photo(*size) // 2 + 64).astype(np.uint8), quality=30)  # away from the bounds of the range
    small, whole = decode(data, scale=scale), decode(data)
    height, width = (side // scale for side in size)
    assert small.shape == (-(-size[0] // scale), -(-size[1] // scale), 3)
    parts = whole[: height * scale, : width * scale].reshape(height, scale, width, scale, 3).astype(float)
    assert np.abs(parts.mean((1, 3)) - small[:height, :width]).max(initial=0) <= 1.5


@pytest.mark.parametrize("preset", PRESETS)
def test_truncated_files(preset: str) -> None:
    """A picture from the head on, which gets better: of words that end anywhere."""
    data = coded(preset)
    whole, (start, _) = decode(data), unpack(data).header.spans[Section.GRIDS]
    for cut in range(len(data)):
        with pytest.raises(TruncatedError, match="truncated"):
            decode(data[:cut], allow_truncated=cut < start + HEAD)
    cuts = [*range(start + HEAD, len(data), 7), len(data) - 1]
    found = [error(decode(data[:cut], allow_truncated=True), whole) for cut in cuts]
    assert found[0] > found[len(found) // 2] > found[-1]
    assert np.array_equal(decode(data, allow_truncated=True), whole)


def test_truncated_files_in_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = coded("normal")
    image = Image.open(BytesIO(data[:-20]))
    with pytest.raises(OSError, match="truncated"):
        image.load()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    image = Image.open(BytesIO(data[:-20]))
    assert np.array_equal(np.asarray(image), decode(data[:-20], allow_truncated=True))


@pytest.mark.parametrize("preset", PRESETS)
def test_description(preset: str) -> None:
    told = codec.describe(latent_coded(preset, photo(300, 200), 128), device="cpu")
    assert (told["preset"], list(told["scales"])) == (preset, ["1/128", "1/64", "1/32", "1/16"])
    stream = len(unpack(latent_coded(preset, photo(300, 200), 128)).sections[Section.GRIDS]) - HEAD
    assert sum(told["scales"].values()) == stream
    assert all(size > 0 for size in told["scales"].values())


def test_description_says_the_quality_that_was_asked_for() -> None:
    for quality in (0, 12.5, 60, 95):
        assert codec.describe(encode(photo(40, 33), quality=quality), device="cpu")["quality"] == pytest.approx(
            quality, abs=0.2
        )


def test_the_least_quality_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "a.clric").write_bytes(encode(photo(16, 16), quality=0))
    assert re.search(r"quality +0\.0$", run("info", "--detail", tmp_path / "a.clric").stdout, re.MULTILINE)


def test_info() -> None:
    told = pillow_clric.info(coded("normal"))
    assert (told.profile, told.width, told.height) == ("msp", 80, 64)


def test_files_are_read_back_before_they_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, of however many sizes were tried."""
    read, count = latent_coding.decode, 0

    def decoded(*how: Any, **told: Any) -> NDArray[np.int32]:
        nonlocal count
        count += 1
        return read(*how, **told) + wrong

    monkeypatch.setattr(latent_coding, "decode", decoded)
    wrong = 0
    assert len(encode(photo(64, 80), target_size=400)) <= 400
    assert count == 1
    wrong = 1
    with pytest.raises(RuntimeError, match="does not read back the same"):
        encode(photo(64, 80))


# Damage


@pytest.mark.parametrize(
    ("edit", "kind", "message"),
    [
        (lambda body: b"", TruncatedError, "before its latent begins, or has none"),
        (lambda body: body[:2], TruncatedError, "before its latent begins, or has none"),
        (lambda body: b"\x03" + body[1:], UnsupportedError, "preset 3 of profile msp is not known to this version"),
        (
            lambda body: body[:1] + b"\x01\x02" + body[3:],
            CorruptError,
            "at position 513, and its model has .* 0 to 512",
        ),
        (lambda body: body + b"\x01" * 12, CorruptError, "does not end where its stream does"),
        (lambda body: body[:HEAD] + b"\xff" * 40, CorruptError, "damaged"),
        (lambda body: body[: len(body) // 2], CorruptError, "damaged"),
    ],
    ids=["nothing", "short", "preset", "position", "more", "ones", "half"],
)
def test_damaged_sections(edit: Callable[[bytes], bytes], kind: type[FormatError], message: str) -> None:
    with pytest.raises(kind, match=message):
        decode(with_section(coded("normal"), edit))


def test_files_without_a_section_or_model() -> None:
    container = unpack(coded("normal"))
    for data, message in (
        (pack(container.header, {Section.EXIF: b"e"}), "or has none"),
        (pack(replace(container.header, model=b""), container.sections), "names no model"),
    ):
        for act in (decode, codec.verify):
            with pytest.raises(FormatError, match=message):
                act(data)
    with pytest.raises(ModelError, match="the model with the hash 3132333435363738 is not here"):
        decode(pack(replace(container.header, model=b"12345678"), container.sections))


def test_verify_finds_unknown_presets() -> None:
    codec.verify(coded("extra"))
    with pytest.raises(UnsupportedError, match="preset 7"):
        codec.verify(with_section(coded("extra"), lambda body: b"\x07" + body[1:]))


@settings(max_examples=60)
@given(st.data())
def test_any_section_is_a_picture_or_refused(data: st.DataObject) -> None:
    whole = coded(data.draw(st.sampled_from(list(PRESETS))))
    truncated = data.draw(st.booleans())

    def edit(body: bytes) -> bytes:
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(body)))
            return body[:at] + data.draw(st.binary(max_size=4)) + body[at + data.draw(st.integers(0, 4)) :]
        return body[: data.draw(st.integers(0, HEAD))] + data.draw(st.binary(max_size=80))

    changed = with_section(whole, edit)
    try:
        pixels = decode(changed[: len(changed) - truncated], allow_truncated=truncated)
    except FormatError as found:
        assert len(str(found)) > 20
    else:
        assert pixels.shape == (64, 80, 3)


# Models


def test_model_without_the_preset(own_store: Path) -> None:
    tiny = model_file.read(TINY)
    kept = {name: tensor for name, tensor in tiny.tensors.items() if not name.startswith(("prior.extra", "prior.norm"))}
    model = replace(tiny, config={**tiny.config, "presets": ["baseline"]}, tensors=kept)
    model_file.write(model, own_store / f"small@{model.prefix.hex()}.safetensors")
    container = unpack(coded("extra"))
    data = pack(replace(container.header, model=model.prefix), container.sections)
    with pytest.raises(CorruptError, match="coded in preset extra at position 128, and its model has baseline"):
        decode(data)
    transform = learned_transform.LearnedTransform(model, "cpu")
    with pytest.raises(ModelFileError, match="has no prior for preset extra, but for baseline"):
        transform.prior("extra", 0)


@pytest.mark.parametrize(
    ("profile", "model", "message"),
    [
        ("msp", "base", "model base is of kind 'base', and profile msp needs one of kind 'msp'"),
        ("clric", "tiny", "model tiny is of kind 'msp', no autoencoder"),
    ],
)
def test_models_of_other_kinds(profile: str, model: str, message: str) -> None:
    pictures = iter([photo(16, 16)])
    with pytest.raises(ModelError, match=message):
        codec.encode_batch(pictures, profile=profile, model=model, device="cpu")
    number = {"clric": 1, "msp": 2}[profile]
    container = unpack(coded("normal"))
    header = replace(container.header, profile=number, model=store.load(model).prefix)
    weights = {Section.WEIGHTS: b""} if profile == "clric" else {}
    with pytest.raises(ModelError, match=message):
        decode(pack(header, {**weights, **container.sections}))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gains.log", 10_000, "logarithms of gains must be within -8192..8192"),
        ("gains.log", -(2**15), "logarithms of gains must be within -8192..8192"),
        ("prior.normal.log_unit", 9000, "log_unit must be within -8192..8192"),
        ("prior.extra.condition", 2**21, "condition must be within -1048576..1048576"),
        ("prior.extra.steps.0.embed.shift", 99, "shifts must be 0 to 52"),
        ("prior.extra.steps.1.embed.inputs", 2**31 - 1, "sums may reach"),
    ],
)
def test_priors_whose_bounds_cannot_be_proven(name: str, value: int, message: str, own_store: Path) -> None:
    tiny = model_file.read(TINY)
    numbers = tiny.tensors[name].to(torch.int32)
    numbers.view(-1)[-1] = value
    if name.endswith("inputs"):
        tiny = replace(tiny, tensors={**tiny.tensors, name.replace("inputs", "weight"): large(tiny, name)})
    model = replace(tiny, tensors={**tiny.tensors, name: numbers})
    path = own_store / f"changed@{model.prefix.hex()}.safetensors"
    model_file.write(model, path)
    with pytest.raises(ModelFileError, match=f"integers that make no sense: .*{message}"):
        encode(photo(16, 16), model=path)


def large(model: Model, inputs: str) -> torch.Tensor:
    """Weights for which sums of great inputs are not exact in any floating point."""
    return torch.full(model.tensors[inputs.replace("inputs", "weight")].shape, 2**30, dtype=torch.int32)


def cost(data: bytes, picture: Pixels, transform: learned_transform.LearnedTransform) -> float:
    """What a file of one latent costs by its own lambda: distortion, and bits per pixel."""
    position = bitstream.read_head(unpack(data).sections[Section.GRIDS])[0].position
    made, wanted = (to_tensor([p], torch.device("cpu")) for p in (decode(data), picture))
    rate = 8 * len(data) / picture[..., 0].size
    return float(picture_error(made, wanted)) + rate * math.exp(transform.log_lambda(position))


def test_overfitting_costs_less_and_is_repeatable() -> None:
    """The same call gives the same file, whatever was drawn before, and leaves the caller's random numbers alone."""
    picture, transform = photo(64, 80), transform_of()
    state = torch.get_rng_state()
    once = encode(picture, effort=7, quality=50)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert encode(picture, effort=7, quality=50) == once != encode(picture, effort=3, quality=50)
    assert cost(once, picture, transform) < cost(encode(picture, effort=3, quality=50), picture, transform)


@pytest.mark.parametrize("quality", [20, 60])
def test_more_effort_costs_less(quality: float) -> None:
    """With the model that ships: symbols that descend, and more so those that are explored before."""
    picture = pictures.photo("coffee.png", 192, 160, top=100, left=250)  # not enlarged: there is something to be won
    transform = learned_transform.LearnedTransform(store.load("transform"), "cpu")
    files = [encode(picture, model="transform", effort=effort, quality=quality) for effort in (3, 5, 8)]
    costs = [cost(data, picture, transform) for data in files]
    assert sorted(costs, reverse=True) == costs
    assert costs[-1] < 0.98 * costs[0]


@pytest.mark.parametrize("quality", [20, 50, 80])
def test_corrected_pictures_are_nearer_for_what_they_cost(quality: float) -> None:
    """With the model that ships: a correction takes an encoder that is nearly the decoder's inverse."""
    picture = photo(192, 160)
    bits, errors = [], []
    for effort in (2, 3):
        data = encode(picture, model="transform", effort=effort, quality=quality)
        bits.append(8 * len(data))
        errors.append(np.square(decode(data).astype(float) - picture).mean())
    assert errors[1] < 0.99 * errors[0]  # where the presets, in which the efforts also differ, change no picture
    assert bits[1] * errors[1] < bits[0] * errors[0]  # which is about the same along the curve of one encoder
