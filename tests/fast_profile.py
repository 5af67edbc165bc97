"""A profile that takes no time, for tests of all that is around a profile, and for programs that these start.

Such programs import this file, so it imports nothing that only tests need: that would take them longer than their work.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import codec.profiles
from codec.container import Container, CorruptError, Header, Section, TruncatedError
from codec.profiles.base import Decoder, Encoder, Goal, Profile, Progress, Sections
from codec.profiles.msp.profile import Options

if TYPE_CHECKING:
    import torch


class FastProfile(Profile[Options]):
    """Codes pixels with zlib in no time, for tests of all that is around a profile. Under the default's name."""

    id = 15
    name = codec.profiles.DEFAULT
    options = Options
    cost = 1

    def __init__(self) -> None:
        self.used: list[Options] = []  # of each encode
        self.importance: list[NDArray[np.uint8] | None] = []  # of each picture
        self.devices: list[str] = []  # of each decode

    def encoder(self, options: Options, device: torch.device) -> Encoder:
        return FastEncoder(self, options)

    def decoder(self, header: Header, device: str) -> Decoder:
        self.devices.append(device)
        return FastDecoder()

    def encode(self, pictures: Sequence[NDArray[np.uint8]], goal: Goal, progress: Progress | None) -> list[Sections]:
        """Tests have others in its place."""
        for done in range(1, 4):
            if progress:
                progress(done, 3)
        return [{Section.WEIGHTS: b"w", Section.GRIDS: zlib.compress(pixels.tobytes())} for pixels in pictures]

    def check(self, container: Container) -> None:
        pass


class FastEncoder(Encoder):
    bytes_per_pixel = 1

    def __init__(self, profile: FastProfile, options: Options) -> None:
        self.profile, self.options = profile, options

    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], importance: Sequence[NDArray[np.uint8] | None], goal: Goal,
        progress: Progress | None = None,
    ) -> list[Sections]:  # fmt: skip
        self.profile.importance += importance
        self.profile.used.append(self.options)
        return self.profile.encode(pictures, goal, progress)


class FastDecoder(Decoder):
    def decode(self, container: Container, scale: int = 1, tune: str | None = None) -> NDArray[np.uint8]:
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
        return np.asarray(Image.fromarray(pixels.reshape(shape)).reduce(scale))


class Device(ModuleType):
    """In place of `codec.device`, which imports torch: all that is asked of a device on which nothing is computed."""

    def resolve(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(type="cpu")

    def pixels_at_once(self, device: SimpleNamespace, footprint: int) -> int:
        return 0

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)


@cache
def only() -> tuple[Profile[Any], ...]:
    return (FastProfile(),)


def alone() -> None:
    """Make it the only profile of this program, for good, and do without torch."""
    codec.profiles.profiles = only
    sys.modules["codec.device"] = Device("codec.device")
