"""The section COLOUR: an ICC profile, as a number if its colours are those of a well-known space, or compressed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from codec import icc
from codec.container import CorruptError, Section, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SPACES", "SRGB", "SRGB_CURVE", "Space", "name_of", "profile", "recognise", "sections"]

SRGB_CURVE: icc.Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_GAMMA: icc.Curve = (563 / 256,)  # 2.2 as Adobe writes it

_BT709 = icc.Primaries(((28576, 14581, 912), (25239, 46983, 6361), (9375, 3972, 46787)), icc.D65)
_P3 = icc.Primaries(((33759, 15807, -69), (19135, 45367, 2745), (10296, 4363, 51385)), icc.D65)
_ADOBE = icc.Primaries(((39960, 20389, 1276), (13453, 41004, 3989), (9777, 4143, 48796)), icc.D65)

_MAX_PROFILE = 2**24  # bytes of one that is compressed
_TOLERANCE = 1 / 255  # of samples in sRGB


@dataclass(frozen=True)
class Space:
    """A colour space. In grey it is what it is for equal red, green and blue.

    Attributes:
        name: as people call it.
        curve: of each channel.
        display: the primaries.
    """

    name: str
    curve: icc.Curve
    display: icc.Primaries

    def profile(self, *, grey: bool) -> bytes:
        """The ICC profile for RGB, or for grey."""
        return icc.write(self.name + " grey" * grey, self.curve, None if grey else self.display)


SRGB = 1
SPACES = {
    SRGB: Space("sRGB", SRGB_CURVE, _BT709),
    2: Space("Display P3", SRGB_CURVE, _P3),
    3: Space("Adobe RGB (1998)", _GAMMA, _ADOBE),
    4: Space("Gamma 2.2", _GAMMA, _BT709),
}  # by the numbers in files


def sections(profile: bytes) -> dict[Section, bytes]:
    """Return the section that holds a profile: ICC if COLOUR would not be smaller, or too large for readers."""
    number = recognise(profile)
    stream = zlib.compressobj(9, wbits=-zlib.MAX_WBITS, zdict=_dictionary())
    body = bytes([number]) if number else b"\0" + stream.compress(profile) + stream.flush()
    if len(body) < len(profile) <= _MAX_PROFILE:
        return {Section.COLOUR: body}
    return {Section.ICC: profile}


def profile(body: bytes, *, grey: bool) -> bytes:
    """Return the ICC profile that a body of section COLOUR stands for.

    Args:
        body: of the section.
        grey: whether the picture is grey, with or without alpha.

    Raises:
        CorruptError: it is empty or no DEFLATE stream, or holds more than it may.
        UnsupportedError: this version does not know the space.
    """
    if not body:
        raise _corrupt("is empty")
    if body[0] in SPACES:
        if len(body) > 1:
            raise _corrupt("has more than a number")
        return SPACES[body[0]].profile(grey=grey)
    if body[0]:
        raise UnsupportedError(f"colour space {body[0]} is not known to this version: update pillow-clric")
    stream = zlib.decompressobj(-zlib.MAX_WBITS, _dictionary())
    try:
        found = stream.decompress(body[1:], _MAX_PROFILE)
    except zlib.error as error:
        raise _corrupt("does not decode") from error
    if not stream.eof or stream.unused_data:
        raise _corrupt(f"does not end within {_MAX_PROFILE} bytes, or not where its section does")
    return found


def name_of(body: bytes) -> str:
    """Return the name of the space in a body of section COLOUR, of which the first byte is enough."""
    number = body[0] if body else 0
    return SPACES[number].name if number in SPACES else f"unknown ({number})" if number else "ICC profile"


def recognise(profile: bytes) -> int:
    """Return the number of the well-known space whose colours nobody tells from those of the profile; 0 if none."""
    found = icc.read(profile)
    if found is None:
        return 0
    grey, shown = len(found.curves) == 1, _in_srgb(found)
    near = (number for number in SPACES if _difference(shown, _grid(number, grey=grey)) <= _TOLERANCE)
    return next(near, 0)


@cache
def _grid(number: int, *, grey: bool) -> NDArray[np.float64]:
    shaper = icc.read(SPACES[number].profile(grey=grey))
    assert shaper is not None
    return _in_srgb(shaper)


def _in_srgb(shaper: icc.Shaper) -> NDArray[np.float64]:
    """All greys and some thousand other colours, as samples of sRGB, which may be outside of 0..1."""
    import numpy as np

    channels = len(shaper.curves)
    levels = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * channels)).reshape(channels, -1)
    levels = np.concatenate([levels, np.tile(np.arange(256), (channels, 1))], axis=1)
    light = np.stack([curve[level] for curve, level in zip(shaper.curves, levels, strict=True)])
    with np.errstate(all="ignore"):  # what is no number is unlike any space
        linear = np.linalg.solve(np.array(_BT709.columns).T / 65536, shaper.columns @ light)
    size = np.abs(linear)
    return np.sign(linear) * np.where(size > 0.0031308, 1.055 * size ** (1 / 2.4) - 0.055, 12.92 * size)


def _difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    import numpy as np

    with np.errstate(invalid="ignore"):
        return float(np.abs(one - other).max())


@cache
def _dictionary() -> bytes:
    """Bytes that profiles have in common."""
    return SPACES[SRGB].profile(grey=False)


def _corrupt(what: str) -> CorruptError:
    return CorruptError(f"file is damaged: its colour profile {what}; get the file again")
