"""Interface of coding profiles."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from codec.container import METADATA, Container, Header, Section, UnsupportedError
from codec.profiles.options import Options

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from codec.importance import Importance

Sections = dict[Section, bytes]
Progress = Callable[[int, int], None]  # done, total
Chosen = TypeVar("Chosen", bound=Options)

SHARED = METADATA | {Section.ALPHA}  # by all profiles
QUALITIES = (0, 10, 50, 90, 100)  # for which profiles state their lambdas


@dataclass(frozen=True)
class Quality:
    """Goal of an encode: a quality from 0 to 100."""

    value: float

    def log_lambda(self, logarithms: tuple[float, ...]) -> float:
        """Natural logarithm of lambda, linear between those for `QUALITIES`."""
        import numpy as np

        return float(np.interp(self.value, QUALITIES, logarithms))

    @classmethod
    def at(cls, log_lambda: float, logarithms: tuple[float, ...]) -> Quality:
        """The quality whose `log_lambda` is this; the logarithms fall."""
        import numpy as np

        return cls(float(np.interp(-log_lambda, np.negative(logarithms), QUALITIES)))


@dataclass(frozen=True)
class Budget:
    """Goal of an encode: the best quality at which each picture's sections take at most so many bytes."""

    sizes: tuple[int, ...]


Goal = Quality | Budget


class Encoder(ABC):
    """Encoder of a profile for some options, with all that is loaded once.

    Attributes:
        model: identity of the model that files need, as `codec.container.Header` holds it; b"" if they need none.
        sections: that all its files have. What others take, entries in the directory included, counts as what is coded.
        bytes_per_pixel: memory that pictures which are coded at once take for each pixel of their common shape; None if
            they are coded one by one.
    """

    model: bytes = b""
    sections: Sequence[Section] = (Section.WEIGHTS, Section.GRIDS)
    bytes_per_pixel: int | None = None

    @abstractmethod
    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], importance: Sequence[Importance | None], goal: Goal,
        progress: Progress | None = None,
    ) -> list[Sections]:  # fmt: skip
        """Code pictures, all at once.

        A picture that takes more than its budget at the lowest quality, too, gets that.

        Args:
            pictures: (height, width) or (height, width, 3), uint8, all of the same mode; one, if `bytes_per_pixel` is
                None.
            importance: of the pixels of each, as `codec.importance.log_weights` takes it.
            progress: told now and then, in whatever the encoder counts.
        """


class Decoder(ABC):
    """Decoder of files that have one profile and model."""

    @abstractmethod
    def decode(self, container: Container, scale: int = 1, tune: str | None = None) -> NDArray[np.uint8]:
        """Decode a picture to (height, width) or (height, width, 3), uint8.

        Args:
            scale: 1, 2, 4 or 8: by how much the picture is made smaller, as `codec.decode` says.
            tune: one of `TUNES`, or None for what the file asks for; in vain where there is no choice.

        Raises:
            FormatError: the sections are not valid.
        """

    def repair(self, container: Container) -> Sections:
        """Sections of a whole file that shows what `decode` makes of a damaged one, and as that, warn of what is lost.

        Raises:
            FormatError: nothing can be made of it.
        """
        raise UnsupportedError("a file that is not in packets cannot be repaired: get it again")

    def describe(self, container: Container) -> dict[str, Any]:
        """Coding of a picture, as far as the header does not say it: facts by name, which `json` can write.

        Raises:
            FormatError: the sections are not valid.
        """
        return {}


class Profile(ABC, Generic[Chosen]):
    """One way of coding pictures into sections of the container. It imports torch only when it is used.

    Attributes:
        id: in files.
        name: for people.
        options: class of its options.
        sections: that its pictures may be in.
        cost: about how long a file of a given size takes, relative to other profiles.
    """

    id: int
    name: str
    options: type[Chosen]
    sections: Collection[Section] = (Section.WEIGHTS, Section.GRIDS)
    cost: float

    def parse(self, given: Mapping[str, Any]) -> Chosen:
        """Options of these values.

        Raises:
            TypeError, ValueError: one is wrong, or there is none of a name.
        """
        known = [declared.name for declared in self.options.declared()]
        for name in given:
            if name not in known:
                raise TypeError(f"profile {self.name} has no option {name!r}, but {', '.join(known)}")
        return self.options(**given)

    def check_directory(self, header: Header) -> None:
        """Refuse a file that needs a section which only other profiles have: this version would leave it out.

        Raises:
            UnsupportedError: there is one.
        """
        others = {*Section} - {*self.sections, *SHARED}
        for entry in header.directory:
            if entry.required and entry.section in others:
                raise UnsupportedError(
                    f"file needs its section {Section(entry.section).name}, not known to this version in profile "
                    f"{self.name}: update pillow-clric"
                )

    @abstractmethod
    def encoder(self, options: Chosen, device: torch.device) -> Encoder:
        """Encoder for these options, with what it needs loaded."""

    @abstractmethod
    def decoder(self, header: Header, device: str) -> Decoder:
        """Decoder of files with such a header.

        Args:
            device: name, as `codec.runtime.resolved` gives it: not all decoders need torch.

        Raises:
            ModelError: the model that it names is not there.
        """

    @abstractmethod
    def check(self, container: Container) -> None:
        """Raise a `FormatError` where the sections are not valid, as far as that shows without a network and torch."""


def counting(progress: Progress | None, total: int) -> Callable[[], None]:
    """Function that tells `progress` of one more iteration of about so many, each time that it is called."""
    done = itertools.count(1)

    def count() -> None:
        if progress:
            progress(min(next(done), total), total)

    return count
