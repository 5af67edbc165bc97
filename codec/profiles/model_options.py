"""Options and headers of profiles whose files name a model. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

from codec.container import CorruptError, Header
from codec.profiles.options import Options, Text, option


def model_option(default: str, what: str) -> Any:
    """Field of `ModelOptions`.

    Args:
        what: the model is, for people.
    """
    help = f"The {what}: its name or hash in the store, or where it is. Who reads the file needs it too."  # noqa: A001
    return option(default, Text("a name, or a file or folder", (str, PathLike)), help)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Options of a profile that has models; it declares the field again, with a default and help of its own.

    Raises:
        MissingModelError: there is no such model.
    """

    model: str

    def __post_init__(self) -> None:
        super().__post_init__()
        from codec.autoencoders import store

        store.check(self.model)


def check_model(header: Header) -> None:
    """Raise a `CorruptError` if the file names no model."""
    if not header.model:
        raise CorruptError("file names no model, as all of its profile do: it is damaged; get it again")
