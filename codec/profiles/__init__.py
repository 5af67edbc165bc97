"""Coding profiles: one module each, behind one interface, found by the id in the file or by name."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from os import PathLike
from types import NoneType
from typing import TYPE_CHECKING

from codec.container import MAX_SECTION, Container, CorruptError, Section, TruncatedError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUALITIES = (0, 10, 50, 90, 100)  # for which profiles state their lambdas
PAPER = "paper"  # the effort that is the published recipe
LARGEST = len(Section) * MAX_SECTION  # bytes of a file, but for its header

__all__ = ["Profile", "Settings", "by_id", "by_name", "names"]


def _check_type(name: str, value: object, wanted: type | tuple[type, ...], what: str) -> None:
    """Refuse what is no number, say, where one is asked for; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise TypeError(f"{name} must be {what}, not {value!r}")


@dataclass(frozen=True)
class Settings:
    """What a caller may choose about an encode; checked before any slow work.

    Attributes:
        quality: 0..100, int or float; the file's size grows with it.
        target_size: bytes that the file may have: it gets the best quality that fits, whatever `quality` says.
        target_bpp: the same in bits per pixel.
        model: in profile `clric`, the autoencoder: its name or hash in the store, or a file or folder.
        effort: 1..9; more is slower and smaller, never another format. "paper" is the published recipe, for comparison.
        device: "auto", or a torch device such as "cpu", "cuda:1", "mps".
        seed: of every random number drawn; same arguments and machine, same bytes.
        progress: called as `progress(done, total)` now and then, in iterations of the fit; of several pictures, in
            pictures.

    Raises:
        TypeError: one is of another type, such as a text for a number.
        ValueError: quality is outside 0..100, effort neither 1..9 nor `PAPER`, seed outside 0..2^64 - 1, or a target
            makes no sense.
    """

    quality: float = 75
    target_size: int | None = None
    target_bpp: float | None = None
    model: str = "base"
    effort: int | str = 5
    device: str = "auto"
    seed: int = 0
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        _check_type("quality", self.quality, Real, "a number from 0 to 100")
        _check_type("target_size", self.target_size, (Integral, NoneType), "a whole number of bytes")
        _check_type("target_bpp", self.target_bpp, (Real, NoneType), "a number of bits per pixel")
        _check_type("effort", self.effort, (Real, str), f'a whole number from 1 to 9, or "{PAPER}"')
        _check_type("seed", self.seed, int, "a whole number from 0 to 2**64 - 1")
        _check_type("model", self.model, (str, PathLike), "a name, or a file or folder")
        if not (self.progress is None or callable(self.progress)):
            raise TypeError(f"progress must be a function of two numbers, not {self.progress!r}")
        if not 0 <= self.quality <= 100:  # also refuses NaN
            raise ValueError(f"quality must be from 0 to 100, not {self.quality!r}")
        if self.effort not in (*range(1, 10), PAPER):
            raise ValueError(f'effort must be a whole number from 1 to 9, or "{PAPER}", not {self.effort!r}')
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be from 0 to 2**64 - 1, not {self.seed}")

        targets = [target for target in (self.target_size, self.target_bpp) if target is not None]
        if len(targets) > 1:
            raise ValueError("target_size and target_bpp both say how large a file may be: give one of them")
        if targets and not 0 < targets[0] < math.inf:
            raise ValueError(f"a target must be more than 0, not {targets[0]!r}")
        if targets and self.effort == PAPER:
            raise ValueError(f'effort "{PAPER}" takes a quality, not a target')

    @property
    def sized(self) -> bool:
        """Whether files shall have the best quality that fits."""
        return self.target_size is not None or self.target_bpp is not None

    def size(self, width: int, height: int) -> int | None:
        """Bytes that the file of a picture may have, if that is asked for; no more than it could."""
        target = self.target_size if self.target_bpp is None else self.target_bpp * width * height / 8
        return None if target is None else int(min(target, LARGEST))

    def log_lambda(self, logarithms: tuple[float, ...]) -> float:
        """Natural logarithm of lambda for the quality: between those for `QUALITIES`, linear."""
        import numpy as np

        return float(np.interp(self.quality, QUALITIES, logarithms))

    def counting(self, total: int) -> Callable[[int], None]:
        """What tells `progress` of one more iteration of about so many, each time that it is called."""
        done = itertools.count(1)

        def count(_: int) -> None:
            if self.progress:
                self.progress(min(next(done), total), total)

        return count


class Profile(ABC):
    """One way of coding a picture into sections of the container."""

    id: int
    name: str
    footprint: int  # bytes of memory that a fit takes for each pixel

    def prepared(self, settings: Settings) -> Profile:
        """The profile, ready to encode with these settings: the model that they name is read now and only now."""
        return self

    @property
    def model(self) -> bytes:
        """Prefix of the identity of the model that was read, see `codec.container.Header`; b"" if there is none."""
        return b""

    def together(self, settings: Settings) -> bool:
        """Whether several pictures can be coded in one fit."""
        return settings.effort != PAPER

    @abstractmethod
    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], settings: Settings, room: Sequence[int] | None = None
    ) -> list[dict[Section, bytes]]:
        """Code pictures as sections of the container, all in one fit, by a profile that was `prepared`.

        Args:
            pictures: (height, width) or (height, width, 3), uint8, all of the same mode; one, unless `together`.
            room: bytes that the sections of each may take; the best quality that fits is taken in place of the
                settings', and where none does, the one that takes fewest.
        """

    @abstractmethod
    def check(self, container: Container) -> None:
        """Raise a `FormatError` where the sections are not valid, as far as that shows without a network and torch."""

    @abstractmethod
    def decode(self, container: Container, device: str, scale: int = 1) -> NDArray[np.uint8]:
        """Decode what `encode` made; raise a `FormatError` where the sections are not valid.

        Args:
            scale: 1, 2, 4 or 8: by how much the picture is made smaller, as `codec.decode` says.
        """


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
