"""Options of profiles, each declared once: its default, the values it takes, and a line of help.

Keywords of `Image.save` and of `encode`, the command's options and the table in the README all come from here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, ClassVar

from codec.container import MAX_SECTION, Section

PAPER = "paper"  # the effort that is the published recipe
TUNES = ("fidelity", "looks")  # for which a picture may be shown: what is coded, or texture drawn beside it
LARGEST = len(Section) * MAX_SECTION  # bytes of a file, but for its header


class Kind(ABC):
    """Values of one kind. A bool is of none of them."""

    types: ClassVar[tuple[type, ...]]

    @abstractmethod
    def __str__(self) -> str:
        """Their name, for "must be ..."."""

    def accepts(self, value: Any) -> bool:
        """Whether a value of one of the types is in range."""
        return True

    def plain(self, value: Any) -> Any:
        """The same value in Python's own type: NumPy's narrow ones overflow."""
        if not isinstance(value, Real):
            return value
        return int(value) if isinstance(value, Integral) else float(value)

    def check(self, name: str, value: object) -> Any:
        """Return the value, plain; refuse what is not of this kind.

        Raises:
            TypeError: it is of another type.
            ValueError: it is out of range.
        """
        right = isinstance(value, self.types) and not isinstance(value, bool)
        if not right or not self.accepts(value):
            raise (ValueError if right else TypeError)(f"{name} must be {self}, not {value!r}")
        return self.plain(value)


@dataclass(frozen=True)
class Range(Kind):
    """Base of numbers of a range."""

    low: float
    high: float

    def accepts(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)  # also refuses NaN


@dataclass(frozen=True)
class Number(Range):
    """Numbers of a range."""

    types = (Real,)

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Amount(Kind):
    """Positive numbers of a unit, or integers only."""

    unit: str
    whole: bool = False

    @property
    def types(self) -> tuple[type, ...]:  # type: ignore[override]
        return (Integral,) if self.whole else (Real,)

    def __str__(self) -> str:
        return f"a {'whole ' * self.whole}number of {self.unit}, more than 0"

    def accepts(self, value: Any) -> bool:
        return bool(0 < value < math.inf)

    def plain(self, value: Any) -> Any:
        return super().plain(LARGEST if isinstance(value, int) and value > LARGEST else value)


@dataclass(frozen=True)
class Whole(Range):
    """Integers of a range."""

    low: int
    high: int
    types = (Integral,)

    def __str__(self) -> str:
        high = self.high if self.high < 2**32 else f"2**{self.high.bit_length()} - 1"
        return f"a whole number from {self.low} to {high}"


@dataclass(frozen=True)
class Described(Kind):
    """Base of values that are described in words."""

    described: str

    def __str__(self) -> str:
        return self.described


@dataclass(frozen=True)
class Choice(Described):
    """Some values, integers or text."""

    values: tuple[int | str, ...]
    types = (Real, str)

    def accepts(self, value: Any) -> bool:
        return value in self.values


@dataclass(frozen=True)
class Text(Described):
    """Text of some meaning."""

    types: tuple[type, ...] = (str,)  # type: ignore[misc]


@dataclass(frozen=True)
class Function(Described):
    """Functions, which no command line can give."""

    types = (Callable,)  # type: ignore[assignment]


@dataclass(frozen=True)
class Declared:
    """An option as it was declared."""

    name: str
    default: Any
    kind: Kind
    help: str

    def __str__(self) -> str:
        """Values that it takes, and its help."""
        kind = str(self.kind)
        return f"{kind[0].upper()}{kind[1:]}. {self.help}"


def option(default: Any, kind: Kind, help: str) -> Any:  # noqa: A002
    """Field of `Options` or of a class that is derived from it.

    Args:
        default: of its kind, or None, which is then a value, too.
        help: a sentence or two, for people.
    """
    return field(default=default, metadata={"kind": kind, "help": help})


def effort_option(default: int) -> Any:
    """Field of how long an encode may take; profiles have their own defaults."""
    return option(
        default, Choice(f'a whole number from 1 to 9, or "{PAPER}"', (*range(1, 10), PAPER)),
        f'More is slower and smaller, never another format. "{PAPER}" is the published recipe, for comparison.',
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that all profiles have; checked before any slow work.

    Raises:
        TypeError: one is of another type, such as a text for a number.
        ValueError: one is out of its range, or two of them contradict each other.
    """

    quality: float = option(75, Number(0, 100), "The file's size grows with it.")
    target_size: int | None = option(
        None, Amount("bytes", whole=True),
        "The file gets the best quality that fits; alpha and metadata are included.",
    )  # fmt: skip
    target_bpp: float | None = option(None, Amount("bits per pixel"), "The same, in bits per pixel.")
    effort: int | str = effort_option(5)
    device: str = option("auto", Text('"auto", "cpu", "cuda", "cuda:1" or "mps"'), "By default a GPU if there is one.")
    seed: int = option(
        0, Whole(0, 2**64 - 1), "It fixes all random numbers: same picture, options and machine, same bytes."
    )
    progress: Callable[[int, int], None] | None = option(
        None, Function("a function of two numbers"),
        "It is told how much of how much is done: iterations, or of several pictures, pictures.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for declared in self.declared():
            value = getattr(self, declared.name)
            if value is not None or declared.default is not None:
                object.__setattr__(self, declared.name, declared.kind.check(declared.name, value))
        if self.target_size is not None and self.target_bpp is not None:
            raise ValueError("target_size and target_bpp both say how large a file may be: give one of them")
        if self.sized and self.effort == PAPER:
            raise ValueError(f'effort "{PAPER}" takes a quality, not a target')

    @classmethod
    def declared(cls) -> list[Declared]:
        """All options, in their order."""
        return [Declared(f.name, f.default, f.metadata["kind"], f.metadata["help"]) for f in fields(cls)]

    @property
    def sized(self) -> bool:
        """Whether files shall have the best quality that fits a size."""
        return self.target_size is not None or self.target_bpp is not None

    def budget(self, width: int, height: int) -> int | None:
        """Bytes that the file of a picture may have, if that is asked for; no more than it could."""
        target = self.target_size if self.target_bpp is None else self.target_bpp * width * height / 8
        return None if target is None else int(min(target, LARGEST))
