"""Coding profiles: one module each, behind one interface, found by the id in the file or by name."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from codec.container import Container, CorruptError, Section, TruncatedError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUALITIES = (0, 10, 50, 90, 100)  # for which profiles state their lambdas
PAPER = "paper"  # the effort that is the published recipe

__all__ = ["Coded", "Profile", "Settings", "by_id", "by_name", "names"]


@dataclass(frozen=True)
class Settings:
    """What a caller may choose about an encode; checked before any slow work.

    Raises:
        ValueError: quality is outside 0..100, or effort neither 1..9 nor `PAPER`.
    """

    quality: float = 75
    model: str = "base"
    effort: int | str = 5
    device: str = "auto"
    seed: int = 0
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.quality <= 100:  # also refuses NaN
            raise ValueError(f"quality must be from 0 to 100, not {self.quality!r}")
        if self.effort not in (*range(1, 10), PAPER):
            raise ValueError(f'effort must be a whole number from 1 to 9, or "{PAPER}", not {self.effort!r}')

    def lam(self, logarithms: tuple[float, ...]) -> float:
        """Lambda for the quality, from its natural logarithms at `QUALITIES`, between which it is log-linear."""
        import numpy as np

        return float(np.exp(np.interp(self.quality, QUALITIES, logarithms)))

    def counting(self, total: int) -> Callable[[int], None]:
        """What tells `progress` of one more iteration of so many, each time that it is called."""
        done = itertools.count(1)

        def count(_: int) -> None:
            if self.progress:
                self.progress(next(done), total)

        return count


@dataclass(frozen=True)
class Coded:
    """A picture as a profile codes it.

    Attributes:
        sections: bodies of the container's sections.
        model: what the header says of the model, see `codec.container.Header`; b"" if there is none.
    """

    sections: dict[Section, bytes]
    model: bytes = b""


class Profile(ABC):
    """One way of coding a picture into sections of the container."""

    id: int
    name: str

    @abstractmethod
    def encode(self, pixels: NDArray[np.uint8], settings: Settings) -> Coded:
        """Code (height, width) or (height, width, 3) uint8 pixels as sections of the container."""

    @abstractmethod
    def decode(self, container: Container, device: str) -> NDArray[np.uint8]:
        """Decode what `encode` made; raise a `FormatError` where the sections are not valid."""


@cache
def _profiles() -> tuple[Profile, ...]:
    from codec.profiles.clric import Clric
    from codec.profiles.coolchic import CoolChic

    return (Clric(), CoolChic())


def names() -> list[str]:
    """The names of all profiles."""
    return [profile.name for profile in _profiles()]


def by_name(name: str) -> Profile:
    """The profile of this name; `ValueError` lists the names there are."""
    for profile in _profiles():
        if profile.name == name:
            return profile
    raise ValueError(f"profile must be one of {', '.join(names())}, not {name!r}")


def by_id(number: int) -> Profile:
    """The profile of this id in a file's header; `UnsupportedError` if there is none."""
    for profile in _profiles():
        if profile.id == number:
            return profile
    raise UnsupportedError(f"coding profile {number} is not known to this version: please update pillow-clric")


def function_sections(container: Container) -> tuple[bytes, bytes]:
    """Weights and grids of a file whose picture is a function.

    Raises:
        CorruptError: there are none.
        TruncatedError: the file ends before the end of its weights.
    """
    header = container.header
    if not header.spans.keys() >= {Section.WEIGHTS, Section.GRIDS}:
        raise CorruptError("file has no weights or no grids: it is no picture of this profile")
    weights, grids = container.sections[Section.WEIGHTS], container.sections[Section.GRIDS]
    if len(weights) < header.spans[Section.WEIGHTS][1]:
        raise TruncatedError("file is truncated before the end of its weights: get the whole file again")
    return weights, grids
