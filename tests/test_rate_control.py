"""Pictures coded together, and files of a size that is asked for."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pictures
import pytest
import torch
from fast_profile import FastProfile
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures import psnr
from PIL import Image
from torch import Tensor

import codec
import pillow_clric
from codec import batches, rate_control
from codec.container import Section
from codec.profiles.base import Goal, Progress, Sections

FITTED_TOGETHER = [("clric", 1), ("clric", 2), ("coolchic", 1)]
PROFILES = [*FITTED_TOGETHER, ("msp", 1), ("msp", 4)]
photo = partial(pictures.photo, "astronaut.png", top=40, left=160)


def decode(data: bytes) -> NDArray[np.uint8]:
    return codec.decode(data, device="cpu")


# Together


@pytest.mark.parametrize(("profile", "effort"), FITTED_TOGETHER)
def test_together_is_as_good_as_alone(profile: str, effort: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []
    monkeypatch.setattr("codec.device.pixels_at_once", lambda *_: 2**20)
    together = batches._coded

    def counted(items: list[batches.Item], *how: Any) -> list[bytes | ValueError]:
        fits.append(len(items))
        return together(items, *how)

    monkeypatch.setattr(batches, "_coded", counted)
    pictures = [photo(96, 128), photo(90, 128, left=100), photo(95, 123, left=40), photo(96, 128)[:, :, 0]]
    told: list[tuple[int, int]] = []
    options = {"profile": profile, "effort": effort, "quality": 40, "device": "cpu"}
    files = codec.encode_batch(pictures, **options, progress=lambda *count: told.append(count))  # type: ignore[arg-type]
    assert sorted(fits) == [1, 3]
    assert all(a[0] <= b[0] for a, b in pairwise(told))
    assert all(total == len(pictures) for _, total in told)
    alone = [codec.encode(picture, **options) for picture in pictures]  # type: ignore[arg-type]

    def quality(files: list[bytes]) -> float:
        return float(np.mean([psnr(decode(data), picture) for data, picture in zip(files, pictures, strict=True)]))

    # All together: a short fit of one picture ends in a larger and better file, or a smaller and worse one.
    assert quality(files) > quality(alone) - 0.2
    assert sum(map(len, files)) < 1.04 * sum(map(len, alone))


@pytest.mark.parametrize(("profile", "effort"), [("msp", 1), ("vq", 3)])
def test_progress_in_pictures_without_iterations(profile: str, effort: int) -> None:
    told: list[tuple[int, int]] = []
    codec.encode_batch(
        [photo(20, 30)] * 3, profile=profile, effort=effort, device="cpu", progress=lambda *count: told.append(count)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_batch_of_nothing() -> None:
    assert codec.encode_batch([]) == []
    assert codec.encode_batch([], metadata=[]) == []
    assert pillow_clric.encode_batch([]) == []


def test_metadata_go_with_their_images(fast_profile: FastProfile) -> None:
    images = [Image.new("L", (8, 8), i) for i in range(3)]
    for i, image in enumerate(images):
        image.info["xmp"] = b"%d" % i
    files = pillow_clric.encode_batch(images)
    assert [Image.open(BytesIO(data)).info["xmp"] for data in files] == [b"0", b"1", b"2"]
    assert [pillow_clric.decode(data).getpixel((0, 0)) for data in files] == [0, 1, 2]


def test_one_bad_image_is_refused_before_the_start(fast_profile: FastProfile) -> None:
    with pytest.raises(ValueError, match="mode F"):
        pillow_clric.encode_batch([Image.new("L", (8, 8)), Image.new("F", (8, 8))])
    assert fast_profile.used == []


shapes = st.lists(st.tuples(st.sampled_from(["L", "RGB"]), st.integers(1, 5000), st.integers(1, 5000)), max_size=40)


@given(shapes, st.integers(0, 10**8))
def test_buckets(shapes: list[tuple[str, int, int]], capacity: int) -> None:
    found = batches.buckets(shapes, capacity)
    assert sorted(i for bucket in found for i in bucket) == list(range(len(shapes)))
    for bucket in found:
        modes, heights, widths = zip(*(shapes[i] for i in bucket), strict=True)
        whole = len(bucket) * max(heights) * max(widths)
        assert len(bucket) == 1 or whole <= capacity
        assert len(set(modes)) == 1
        assert whole * batches.FULL <= sum(h * w for h, w in zip(heights, widths, strict=True))
    assert found == first_fit(shapes, capacity)


def first_fit(shapes: list[tuple[str, int, int]], capacity: int) -> list[list[int]]:
    """Buckets in the plainest way: each picture, largest first, goes into the first that it suits."""

    def suits(bucket: list[int]) -> bool:
        modes, heights, widths = zip(*(shapes[i] for i in bucket), strict=True)
        common, used = len(bucket) * max(heights) * max(widths), sum(shapes[i][1] * shapes[i][2] for i in bucket)
        return len(set(modes)) == 1 and batches.FULL * common <= used and common <= capacity

    found: list[list[int]] = []
    for i in sorted(range(len(shapes)), key=lambda i: (-shapes[i][1] * shapes[i][2], shapes[i], i)):
        bucket = next((bucket for bucket in found if suits([*bucket, i])), None)
        if bucket is None:
            found.append([i])
        else:
            bucket.append(i)
    return found


def test_buckets_of_many_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is compared with a few of the buckets only, or thousands of thumbnails would take seconds."""
    compared, suits = [0], batches._Bucket.suits

    def counting(*arguments: Any) -> bool:
        compared[0] += 1
        return suits(*arguments)

    monkeypatch.setattr(batches._Bucket, "suits", counting)
    sides = np.random.default_rng(0).integers(20, 400, (3000, 2)).tolist()
    found = batches.buckets([("RGB", height, width) for height, width in sides], 2**30)
    assert len(found) > 200
    assert compared[0] < 30 * 3000


NO_MEMORY = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:83] DefaultCPUAllocator: not enough memory: you tried to"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: str(error)[-40:])
def test_out_of_memory_halves_the_batch(
    error: Exception, fast_profile: FastProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    code = FastProfile.encode

    def encode(
        self: FastProfile, pictures: Sequence[NDArray[np.uint8]], goal: Goal, progress: Progress | None
    ) -> list[Sections]:
        sizes.append(len(pictures))
        if len(pictures) > 2:
            raise error
        return code(self, pictures, goal, progress)

    monkeypatch.setattr(FastProfile, "encode", encode)
    pictures = [np.full((4, 4), i, np.uint8) for i in range(7)]
    files = codec.encode_batch(pictures)
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    for data, picture in zip(files, pictures, strict=True):
        assert np.array_equal(codec.decode(data), picture)


@pytest.mark.parametrize("what", ["broken", "CUDA error: an illegal memory access was encountered"])
def test_other_errors_are_errors(what: str, fast_profile: FastProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def fail(_: object, pictures: Sequence[object], *__: object) -> None:
        sizes.append(len(pictures))
        raise RuntimeError(what)

    monkeypatch.setattr(FastProfile, "encode", fail)
    with pytest.raises(RuntimeError, match=what):
        codec.encode_batch([np.zeros((4, 4), np.uint8)] * 2)
    assert sizes == [2]


# Of a size


@pytest.mark.parametrize(("profile", "effort"), PROFILES)
def test_target_size(profile: str, effort: int) -> None:
    """Never over, hardly under, and as good as what has that size, or hardly more, anyway."""
    picture = photo(96, 128)
    low, high = (15, 50) if profile == "coolchic" else (30, 60)
    for quality, part, worse in ((low, 1.0, 1.0), (high, 0.8, 2.5)):
        plain = codec.encode(picture, profile=profile, quality=quality, effort=effort, device="cpu")
        target = int(part * len(plain))
        data = codec.encode(picture, profile=profile, target_size=target, effort=effort, device="cpu")
        assert 0.97 * target <= len(data) <= target
        assert psnr(decode(data), picture) > psnr(decode(plain), picture) - worse


class Sizes(SimpleNamespace):
    """Stand-in for fits in a search; two pictures' sizes fall with lambda, each as fast as it says."""

    bounds, response, steepness, leap = (-10.0, 2.0), -0.4, torch.tensor([0.3]), 0.0
    fitting, aim_at = rate_control.Coder.fitting, rate_control.Coder.aim_at

    def log_sizes(self, logs: Tensor) -> Tensor:
        return 8 - self.steepness * logs - torch.where(logs > -3, self.leap, 0)


def searched(sizes: Sizes, first: Tensor, wanted: Tensor, rounds: int) -> rate_control._Search:
    search, tried = rate_control._Search(sizes, wanted), first  # type: ignore[arg-type]
    for _ in range(rounds):
        search.add(tried, sizes.log_sizes(tried))
        tried = search.next()
    return search


@given(steepness=st.floats(0.12, 0.9), first=st.floats(-10, 2), right=st.floats(-9, 1))
@example(steepness=0.440385589483987, first=-6.0, right=0.0)
def test_search_finds_what_there_is(steepness: float, first: float, right: float) -> None:
    sizes = Sizes(steepness=torch.tensor([steepness, 0.4]))
    wanted = sizes.log_sizes(torch.tensor([right, right]))
    search = searched(sizes, torch.tensor([first, right]), wanted, 4)
    assert search.fits.all()
    assert search.logs[1] == right  # what fits is left alone


@given(first=st.floats(-10, 2), leap=st.floats(0.3, 1))
def test_search_closes_in_on_a_leap(first: float, leap: float) -> None:
    """No size that is asked for is there, but on both sides of it there are."""
    sizes = Sizes(leap=leap)
    wanted = sizes.log_sizes(torch.tensor([-3.0])) - leap / 2
    search = searched(sizes, torch.tensor([first]), wanted, 9)
    (large, _), (small, _) = search.nearest
    assert large <= -3 < small < large + 2
    assert search.off.abs() < leap


@given(st.floats(-10, 2))
def test_search_ends_at_its_bounds(first: float) -> None:
    sizes = Sizes()
    wanted = sizes.log_sizes(torch.tensor([3.0, -12.0]))
    search = searched(sizes, torch.tensor([first, first]), wanted, 5)
    assert search.logs.tolist() == [2.0, -10.0]


def test_target_counts_metadata() -> None:
    picture, xmp = photo(96, 128), {Section.XMP: bytes(500)}
    for target in (800, 1000):
        data = codec.encode(
            picture, target_bpp=8 * target / picture[:, :, 0].size, effort=1, metadata=xmp, device="cpu"
        )
        assert 0.97 * target <= len(data) <= target


@pytest.mark.parametrize("profile", ["clric", "msp"])
def test_targets_of_a_batch(profile: str) -> None:
    pictures = [photo(96, 128), photo(96, 120, left=60), photo(90, 128, left=300)]
    for data in codec.encode_batch(pictures, profile=profile, target_size=400, effort=2, device="cpu"):
        assert 388 <= len(data) <= 400


@pytest.mark.usefixtures("golden_models", "few_iterations")
@pytest.mark.parametrize(
    "chosen",
    [
        {"profile": "clric"},
        {"profile": "coolchic"},
        {"profile": "msp", "model": "tiny"},
        {"profile": "vq", "model": "tinyvq"},
    ],
)
def test_impossible_target(chosen: dict[str, Any]) -> None:
    """The message says what is possible, and that is."""
    picture = photo(96, 128)
    with pytest.raises(
        ValueError, match=r"128 x 96 cannot be coded in 40 bytes: the smallest file possible has"
    ) as caught:
        codec.encode(picture, **chosen, target_size=40, effort=1, device="cpu")
    least = int(str(caught.value).split("possible has ")[1].split(",")[0])
    assert len(codec.encode(picture, **chosen, target_size=least, effort=1, device="cpu")) <= least


@pytest.mark.parametrize("profile", ["clric", "msp"])
def test_impossible_targets_of_a_batch(profile: str) -> None:
    """Targets that are possible are met all the same, also in one fit with others."""
    pictures = [photo(96, 128), photo(96, 128, left=60), photo(96, 120, left=300)]
    metadata = [{}, {Section.XMP: bytes(500)}, {}]
    with pytest.raises(codec.BatchError, match=r"cannot be coded in 400 bytes: .*; 1 of 3 pictures failed") as caught:
        codec.encode_batch(pictures, profile=profile, target_size=400, effort=2, device="cpu", metadata=metadata)
    first, second, third = pickle.loads(pickle.dumps(caught.value)).results
    assert isinstance(second, ValueError)
    for data, picture in ((first, pictures[0]), (third, pictures[2])):
        assert 388 <= len(data) <= 400
        assert codec.decode(data, device="cpu").shape == picture.shape


@pytest.mark.parametrize("target", [{"target_size": 10**9}, {"target_size": 10**30}, {"target_bpp": 1e308}], ids=str)
def test_more_room_than_needed(target: dict[str, Any]) -> None:
    picture = photo(64, 64)
    best = codec.encode(picture, quality=100, effort=1, device="cpu")
    assert len(codec.encode(picture, **target, effort=1, device="cpu")) == len(best)


def test_more_room_than_a_section_has(fast_profile: FastProfile) -> None:
    """A target beyond a section's limit, of a picture that could fill it."""
    picture = np.zeros((4800, 4800, 3), np.uint8)
    data = codec.encode(picture, target_size=300_000_000)
    assert np.array_equal(codec.decode(data), picture)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_size": 0}, "more than 0"),
        ({"target_bpp": -1}, "more than 0"),
        ({"target_bpp": float("nan")}, "more than 0"),
        ({"target_bpp": 1, "target_size": 1000}, "give one of them"),
        ({"target_bpp": 1, "effort": "paper"}, "takes a quality"),
    ],
)
def test_targets_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.encode(photo(16, 16), **options)  # type: ignore[arg-type]


def test_target_through_pillow() -> None:
    buffer = BytesIO()
    Image.fromarray(photo(96, 128)).save(buffer, "CLRIC", target_size=500, effort=1)
    assert 485 <= len(buffer.getvalue()) <= 500
