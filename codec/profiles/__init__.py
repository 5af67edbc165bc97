"""Coding profiles: a folder each, behind one interface, found by the id in the file or by name."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from codec.container import UnsupportedError
from codec.profiles.base import Profile

__all__ = ["DEFAULT", "by_id", "by_name", "names", "profiles"]

DEFAULT = "msp"
# To add a profile, write its folder and add it here.
_FOLDERS = ("msp", "clric", "coolchic", "vq")


@cache
def profiles() -> tuple[Profile[Any], ...]:
    """All profiles."""
    return tuple(import_module(f"codec.profiles.{folder}.profile").PROFILE for folder in _FOLDERS)


def names() -> list[str]:
    """Names of all profiles."""
    return [profile.name for profile in profiles()]


def by_name(name: str) -> Profile[Any]:
    """The profile of this name; `ValueError` lists the names there are."""
    for profile in profiles():
        if profile.name == name:
            return profile
    raise ValueError(f"profile must be one of {', '.join(names())}, not {name!r}")


def by_id(number: int) -> Profile[Any]:
    """The profile of this id in a file's header; `UnsupportedError` if there is none."""
    for profile in profiles():
        if profile.id == number:
            return profile
    raise UnsupportedError(f"coding profile {number} is not known to this version: update pillow-clric")
