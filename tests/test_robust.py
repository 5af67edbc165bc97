"""Damaged, truncated and malicious files; all kinds of pictures; the state of the process that calls."""

from __future__ import annotations

import math
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pictures
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latents import TINY_VQ
from numpy.typing import NDArray
from pictures import psnr

import codec
from codec import DamageWarning, FormatError, Header, Section, TruncatedError, pack, unpack

pytestmark = pytest.mark.usefixtures("golden_models")

Pixels = NDArray[np.uint8]


# And by how many dB less than of the second is expected of each: any number of the last, whose model is random.
PROFILES = {"clric": 4.0, "coolchic": 0.0, "msp": 0.0, "vq": math.inf}
OPTIONS = {"vq": {"model": TINY_VQ}}
HEAD = 3  # bytes by which the section of a latent begins: a reader refuses most others
CHOSEN = ["coolchic"]  # the profile that all tests of this module use at the time


@pytest.fixture(scope="module", params=PROFILES, autouse=True)
def profile(request: pytest.FixtureRequest) -> None:
    CHOSEN[0] = request.param


def only_of_checked_bodies() -> None:
    """Leave a test of what is never refused where the body is packets."""
    if CHOSEN[0] == "vq":
        pytest.skip("a file that is cut within its packets has a picture: see test_packets.py")


@cache
def picture() -> Pixels:
    return pictures.photo("coffee.png", 16, 24, top=150, left=360).copy()


def coded() -> bytes:
    return _coded(CHOSEN[0])


@cache
def _coded(profile: str) -> bytes:
    return encode(picture(), profile=profile)


def encode(pixels: Pixels, **options: Any) -> bytes:
    given = {"profile": CHOSEN[0], "effort": 1, **OPTIONS.get(CHOSEN[0], {}), **options}
    return codec.encode(pixels, **given, device="cpu")


def decode(data: bytes, allow_truncated: bool = False) -> Pixels:
    return codec.decode(data, device="cpu", allow_truncated=allow_truncated)


# Damage


def test_any_corrupt_byte_is_found() -> None:
    data = coded()
    for i in range(len(data)):
        for flip in (0x01, 0xFF):
            damaged = data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :]
            with pytest.raises(FormatError, match=r"\w{3}"):
                decode(damaged)


def test_any_truncation_is_found() -> None:
    only_of_checked_bodies()
    data = coded()
    for length in range(len(data)):
        with pytest.raises(FormatError, match="truncated"):
            decode(data[:length])


def test_truncated_files_on_request() -> None:
    """A coarse picture as soon as all weights, or a latent's head, are there, and a better one the more there is."""
    only_of_checked_bodies()
    data, exact = coded(), decode(coded())
    header = unpack(data).header
    start, length = header.spans.get(Section.WEIGHTS, (header.size, HEAD))
    found = []
    for cut in range(len(data)):
        if cut < start + length:
            with pytest.raises(TruncatedError, match="truncated"):
                decode(data[:cut], allow_truncated=True)
        else:
            pixels = decode(data[:cut], allow_truncated=True)
            assert pixels.shape == exact.shape
            found.append(psnr(pixels, exact))
    assert found[-1] > found[0]
    assert len(set(found)) >= 3
    np.testing.assert_array_equal(decode(data, allow_truncated=True), exact)


# Malice: checksums match, bodies are garbage


def header(width: int, height: int, mode: str = "RGB") -> Header:
    return replace(unpack(coded()).header, width=width, height=height, mode=mode)


def check_harmless(sections: Mapping[Section, bytes], header: Header, allow_truncated: bool = False) -> None:
    """The file is a picture of its size, or it is refused with a message; nothing but damage is warned of."""
    data = pack(header, sections)
    data = data[: len(data) - 2 * allow_truncated]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DamageWarning)
        try:
            pixels = decode(data, allow_truncated)
        except FormatError as error:
            assert len(str(error)) > 20
        else:
            assert pixels.shape[:2] == (header.height, header.width)
            assert pixels.dtype == np.uint8


@st.composite
def mutated(draw: st.DrawFn, body: bytes) -> bytes:
    """A body with some bytes changed, cut out, or put in."""
    data = bytearray(body)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@settings(max_examples=60)
@given(st.data())
def test_mutated_bodies(data: st.DataObject) -> None:
    container = unpack(coded())
    section = data.draw(st.sampled_from(sorted(container.sections)))
    body = data.draw(mutated(container.sections[section]))
    check_harmless({**container.sections, section: body}, container.header, data.draw(st.booleans()))


def bodies(weights: bytes, grids: bytes, kept: int) -> dict[Section, bytes]:
    """Bodies of the sections that files of the profile have, after so many bytes as a good file has them."""
    given = {Section.WEIGHTS: weights, Section.GRIDS: grids, Section.ENHANCEMENT: grids}
    return {section: body[:kept] + given[section] for section, body in unpack(coded()).sections.items()}


garbage = st.binary(max_size=60)


@settings(max_examples=60)
@given(garbage, garbage, st.sampled_from((0, HEAD)), st.sampled_from(("L", "RGB")), st.booleans())
def test_garbage_bodies(weights: bytes, grids: bytes, kept: int, mode: str, truncated: bool) -> None:
    check_harmless(bodies(weights, grids, kept), header(24, 16, mode), truncated)


@pytest.mark.parametrize("weights", [b"", b"\0" * 100, b"\xff" * 100, b"\x7f" * 1000, bytes(range(256)) * 4])
@pytest.mark.parametrize("grids", [b"", b"\xff" * 100, bytes(range(255, -1, -1))])
def test_special_bodies(weights: bytes, grids: bytes) -> None:
    for size, kept, truncated in product(((24, 16), (1, 1), (1, 300), (300, 1)), (0, HEAD), (False, True)):
        check_harmless(bodies(weights, grids, kept), header(*size), truncated)


def test_tall_pictures_ask_for_no_more_than_their_pixels() -> None:
    """Bodies of zeros claim one level, and its plane is not empty or is; neither may cost height squared."""
    check_harmless(bodies(b"", bytes(HEAD), 0), header(1, 2**15, "L"))


def test_missing_sections() -> None:
    container = unpack(coded())
    for missing in container.sections.keys() - {Section.ENHANCEMENT}:
        others = {section: body for section, body in container.sections.items() if section != missing}
        with pytest.raises(FormatError, match=r"no weights or no grids|or has none|no packet"):
            decode(pack(container.header, {**others, Section.XMP: b"<x:xmpmeta/>"}))


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(FormatError, match="update"):
        decode(pack(Header(24, 16, "RGB", profile=15), unpack(coded()).sections))


# Pictures


def flat(*colour: int) -> Pixels:
    return np.full((12, 20, 3), colour, np.uint8)


def noise() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)


photo = partial(pictures.photo, "rocket.jpg", top=100, left=200)


@pytest.mark.parametrize(
    ("pixels", "least"),
    [
        (flat(255, 255, 255), 35),
        (flat(0, 0, 0), 35),
        (flat(200, 30, 90), 30),
        (flat(0, 0, 0)[:, :, 0], 35),
        (noise(), 7),
        (photo(1, 1), 14),
        (photo(1, 200), 26),
        (photo(200, 1), 26),
        (photo(17, 31), 26),
        (photo(17, 31, "L"), 26),
        (photo(64, 48, "L"), 26),
    ],
    ids=["white", "black", "colour", "grey-black", "noise", "1x1", "1x200", "200x1", "17x31", "17x31-L", "64x48-L"],
)  # fmt: skip
def test_round_trip(pixels: Pixels, least: float) -> None:
    decoded = decode(encode(pixels))
    assert (decoded.shape, decoded.dtype) == (pixels.shape, pixels.dtype)
    assert psnr(decoded, pixels) > least - PROFILES[CHOSEN[0]]


@pytest.mark.usefixtures("few_iterations")
def test_any_layout_of_memory() -> None:
    pixels = picture()
    plain = encode(pixels)
    for view in (np.asfortranarray(pixels), np.flip(np.flip(pixels).copy()), np.repeat(pixels, 2, 1)[:, ::2]):
        assert encode(view) == plain
    read_only = pixels.copy()
    read_only.setflags(write=False)
    assert encode(read_only) == plain


# Determinism and the caller's state


def test_same_bytes() -> None:
    assert encode(picture()) == coded()


@cache
def translucent() -> Pixels:
    """The picture with alpha, a part of it transparent."""
    alpha = np.arange(24, dtype=np.uint8).repeat(16).reshape(24, 16).T * 10
    return np.dstack([picture(), alpha])


@cache
def coded_translucent(profile: str) -> bytes:
    return encode(translucent(), profile=profile)


def test_other_seeds() -> None:
    other = encode(picture(), seed=1)
    assert psnr(decode(other), picture()) > 25 - PROFILES[CHOSEN[0]]
    if CHOSEN[0] == "coolchic":  # without iterations, as here, the other profiles draw no random numbers
        assert other != coded()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "plain": nullcontext,
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def state() -> list[object]:
    """Everything global that coding could change by mistake."""
    return [
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_num_threads(),
        torch.get_rng_state().tolist(), torch.is_autocast_enabled("cpu"), torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        random.getstate(), np.random.get_state()[1].tolist(), np.geterr(), warnings.filters[:],  # type: ignore[index]
    ]  # fmt: skip


@pytest.mark.usefixtures("few_iterations")
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_state_is_neither_used_nor_changed(name: str) -> None:
    decoded = decode(coded_translucent(CHOSEN[0]))
    with SURROUNDINGS[name]():
        before = state()
        data = encode(translucent())
        pixels = decode(data)
        assert state() == before
    assert data == coded_translucent(CHOSEN[0])
    np.testing.assert_array_equal(pixels, decoded)


@pytest.mark.usefixtures("few_iterations")
def test_searches_for_a_size_do_not_use_the_state() -> None:
    """Of which it is the device of new tensors that would show."""
    with SURROUNDINGS["device"]():
        assert len(encode(picture(), target_size=120)) <= 120


@cache
def fitted(profile: str) -> bytes:
    return encode(picture(), profile=profile, effort={"clric": 2, "coolchic": 1, "msp": 4, "vq": 4}[profile])


@pytest.mark.usefixtures("few_iterations")
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_state_does_not_stay_in_what_is_kept(name: str) -> None:
    """Models are kept from one call to the next; the first one is made in strange surroundings."""
    plain = fitted(CHOSEN[0])
    forget()
    with SURROUNDINGS[name]():
        before = state()
        assert fitted.__wrapped__(CHOSEN[0]) == plain
        assert state() == before
    forget()
    with SURROUNDINGS[name]():
        decode(plain)
    assert fitted.__wrapped__(CHOSEN[0]) == plain


def forget() -> None:
    """Make all functions forget what they returned: models and tables."""
    for module in [module for name, module in sys.modules.items() if name.startswith("codec.")]:
        for function in vars(module).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()
