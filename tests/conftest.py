"""Fixtures for tests of the plugin and the command line."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import codec.profiles
import pillow_clric
from codec.container import Container, CorruptError, Section, TruncatedError
from codec.profiles import Profile, Settings

# Pictures in tests are tiny, and threads that wait for each other on a busy machine take 20 times as long. Before torch
# is imported, and for programs that tests start, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


class FastProfile(Profile):
    """Codes pixels with zlib in no time, for tests of all that is around a profile. Under the default's name."""

    id = 15
    name = "clric"
    footprint = 1

    def __init__(self) -> None:
        self.settings: list[Settings] = []  # of each encode
        self.devices: list[str] = []  # of each decode

    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], settings: Settings, room: Sequence[int] | None = None
    ) -> list[dict[Section, bytes]]:
        self.settings.append(settings)
        for done in range(1, 4):
            if settings.progress:
                settings.progress(done, 3)
        return [{Section.WEIGHTS: b"w", Section.GRIDS: zlib.compress(pixels.tobytes())} for pixels in pictures]

    def check(self, container: Container) -> None:
        pass

    def decode(self, container: Container, device: str) -> NDArray[np.uint8]:
        self.devices.append(device)
        if container.sections[Section.WEIGHTS] != b"w":
            raise TruncatedError("file is truncated: its weights are missing")
        header = container.header
        shape = (header.height, header.width) + ((3,) if header.channels == 3 else ())
        pixels = np.zeros(np.prod(shape), np.uint8)
        try:
            found = zlib.decompressobj().decompress(container.sections[Section.GRIDS], pixels.size)
        except zlib.error as error:
            raise CorruptError("file is damaged: its grids do not decode") from error
        pixels[: len(found)] = np.frombuffer(found, np.uint8)
        return pixels.reshape(shape)


@pytest.fixture
def fast_profile(monkeypatch: pytest.MonkeyPatch) -> FastProfile:
    """Makes a lossless profile that takes no time the only one there is."""
    profile = FastProfile()
    monkeypatch.setattr(codec.profiles, "_profiles", lambda: (profile,))
    return profile


@pytest.fixture
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits compute in float32 on any processor: for tests of their mathematics."""
    monkeypatch.setattr("codec.device._cpu_has_bfloat16", lambda: False)


@pytest.fixture
def photo() -> Image.Image:
    """A smooth RGB picture of 48 x 32 with some noise."""
    y, x = np.mgrid[:32, :48]
    noise = np.random.default_rng(0).integers(0, 8, (32, 48))
    return Image.fromarray(np.stack([5 * x, 7 * y, 2 * (x + y) + noise], axis=-1).astype(np.uint8))


@pytest.fixture
def clric(fast_profile: FastProfile, photo: Image.Image) -> bytes:
    """`photo` as a file of the fast profile."""
    return pillow_clric.encode(photo)


@pytest.fixture
def clric_path(clric: bytes, tmp_path: Path) -> Path:
    """`clric` on disk."""
    path = tmp_path / "photo.clric"
    path.write_bytes(clric)
    return path


@pytest.fixture
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models, which programs that are started find too."""
    folder = tmp_path_factory.mktemp("store")
    monkeypatch.setenv("CLRIC_MODELS", str(folder))
    return folder
