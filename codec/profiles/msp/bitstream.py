"""The section of a file that holds a latent: a head of 3 bytes, then one stream of the range coder."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from codec.container import TruncatedError, UnsupportedError

PRESETS = ("baseline", "normal", "extra")  # the index is what the file holds
_HEAD = Struct("<BH")


@dataclass(frozen=True)
class Head:
    """How a latent is coded.

    Attributes:
        preset: name of the order in which it is.
        position: quality among the knots of the model, in 1 / 256 of the distance between two of them.
    """

    preset: str
    position: int


def write(head: Head, stream: bytes) -> bytes:
    """The section."""
    return _HEAD.pack(PRESETS.index(head.preset), head.position) + stream


def read_head(section: bytes) -> tuple[Head, bytes]:
    """Head and stream of a section, of which the end may be missing.

    Raises:
        TruncatedError: it lacks a part of the head.
        UnsupportedError: it has a preset that this version does not know.
    """
    if len(section) < _HEAD.size:
        raise TruncatedError("file is truncated before its latent begins, or has none: get the whole file again")
    preset, position = _HEAD.unpack_from(section)
    if preset >= len(PRESETS):
        raise UnsupportedError(f"preset {preset} of profile msp is not known to this version: update pillow-clric")
    return Head(PRESETS[preset], position), section[_HEAD.size :]
