"""ICC profiles that consist of primaries and curves, as those of displays do: written, and read as far as that."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["D65", "Chromaticities", "Curve", "Primaries", "Shaper", "codes", "colours", "primaries", "read", "write"]

Chromaticities = tuple[tuple[float, float], ...]  # x and y of red, green, blue and white
Curve = tuple[float, ...]  # light of a sample x: (g,) is x^g; (g, a, b, c, d) is (a x + b)^g from d on, c x below

_D50 = (0xF6D6, 0x10000, 0xD32D)  # X, Y and Z of the profiles' white, in 65536ths
_HEADER = struct.Struct(">I4xI4s4s4s6H4s28x3i48x")
_TAG = struct.Struct(">4sII")
_CLASSES = (b"mntr", b"scnr", b"spac")
_CHANNELS = {b"RGB ": (b"r", b"g", b"b"), b"GRAY": (b"k",)}
_PARAMETERS = {0: 1, 3: 5, 4: 7}  # of the kinds of parametric curve that are in use
_OTHER_MEANS = (b"A2B", b"B2A", b"D2B", b"B2D")  # what programs go by instead of curves and primaries
_HDR = (16, 18)  # codes of transfer functions of which curves are only a picture


@dataclass(frozen=True)
class Primaries:
    """Colours of a display.

    Attributes:
        columns: X, Y and Z of red, of green and of blue, adapted to a white of D50, in 65536ths.
        adaptation: the matrix that adapted them, by rows, in 65536ths.
    """

    columns: tuple[tuple[int, int, int], ...]
    adaptation: tuple[int, ...]


D65 = (68674, 1502, -3291, 1939, 64912, -1119, -606, 988, 49262)  # the adaptation from this white


@dataclass(frozen=True)
class Shaper:
    """Meaning of samples by a profile that has nothing but curves and primaries.

    Attributes:
        curves: float64 (channels, 256), light of each sample of 8 bits.
        columns: float64 (3, channels), X, Y and Z of each channel's full light, for a white of D50.
    """

    curves: NDArray[np.float64]
    columns: NDArray[np.float64]


def colours(profile: bytes) -> bytes:
    """Return the name of the colours that a profile is for, such as b"RGB "; b"" of what is no profile."""
    return profile[16:20] if profile[36:40] == b"acsp" else b""


def codes(profile: bytes) -> tuple[int, int]:
    """Return a profile's primaries and transfer function by their codes in ITU-T H.273; 0 if it has none."""
    try:
        found = struct.unpack_from(">8x2B", profile[_tags(profile)[b"cicp"]])
    except (KeyError, struct.error):
        return 0, 0
    return found if colours(profile) else (0, 0)


def primaries(chromaticities: Chromaticities) -> Primaries:
    """Return the primaries of these chromaticities, adapted by Bradford's method.

    Raises:
        ValueError: no display has them.
    """
    import numpy as np

    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    try:
        with np.errstate(all="raise"):
            x, y = np.array(chromaticities).T
            points = np.stack([x, y, 1 - x - y])
            white = points[:, 3] / y[3]
            cones = bradford @ (np.array(_D50) / 65536) / (bradford @ white)
            adaptation = np.linalg.solve(bradford, cones[:, None] * bradford)
            columns = adaptation @ (points[:, :3] * np.linalg.solve(points[:, :3], white))
            whole = np.rint(np.stack([columns.T, adaptation]) * 65536).astype(int).tolist()
    except (ArithmeticError, ValueError) as error:
        raise ValueError(f"no display has primaries of chromaticities {chromaticities}") from error
    return Primaries(tuple(map(tuple, whole[0])), tuple(value for row in whole[1] for value in row))


def write(name: str, curve: Curve, display: Primaries | None) -> bytes:
    """Make a profile of version 4.3; of the same arguments the same bytes.

    Args:
        name: programs show it.
        curve: of each channel.
        display: the primaries; None for grey.

    Raises:
        ValueError: a number is too large for a profile.
    """
    parametric = {count: kind for kind, count in _PARAMETERS.items()}
    space = b"RGB " if display else b"GRAY"
    try:
        tags = {b"desc": _text(name), b"cprt": _text("CC0"), b"wtpt": _tag(b"XYZ ", *_D50)}
        tags[b"chad"] = _tag(b"sf32", *(display.adaptation if display else D65))
        for channel, column in zip(_CHANNELS[space], display.columns if display else (), strict=False):
            tags[channel + b"XYZ"] = _tag(b"XYZ ", *column)
        light = _tag(b"para", parametric[len(curve)] << 16, *(round(65536 * value) for value in curve))
        tags |= {channel + b"TRC": light for channel in _CHANNELS[space]}
    except (OverflowError, struct.error) as error:
        raise ValueError("a curve or primaries of a display are in smaller numbers") from error
    return _file(space, tags)


def read(profile: bytes) -> Shaper | None:
    """Return the meaning of samples; None of what is no profile, or says more than by curves and primaries."""
    import numpy as np

    try:
        tags = _tags(profile)
        names = _CHANNELS[colours(profile)]
        curves = np.stack([_samples(profile[tags[name + b"TRC"]]) for name in names])
        bodies = [profile[tags[name + b"XYZ"]] for name in names] if len(names) == 3 else []
        columns = [struct.unpack_from(">3i", body, 8) for body in bodies] or [_D50]
    except (KeyError, ValueError, struct.error):
        return None
    more = any(tag.startswith(_OTHER_MEANS) for tag in tags) or codes(profile)[1] in _HDR
    if more or profile[12:16] not in _CLASSES or profile[20:24] != b"XYZ ":
        return None
    return Shaper(curves, np.array(columns).T / 65536)


def _tag(kind: bytes, *values: int) -> bytes:
    return kind + struct.pack(f">4x{len(values)}i", *values)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII4sII", 1, 12, b"enUS", len(encoded), 28) + encoded


def _file(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Header, table of tags, and their bodies, each once and at a multiple of four bytes."""
    places, data = dict[bytes, int](), b""
    start = _HEADER.size + 4 + _TAG.size * len(tags)
    for body in tags.values():
        if body not in places:
            places[body] = start + len(data)
            data += body + bytes(-len(body) % 4)
    table = b"".join(_TAG.pack(name, places[body], len(body)) for name, body in tags.items())
    date = 2000, 1, 1, 0, 0, 0
    head = _HEADER.pack(start + len(data), 0x4300000, b"mntr", space, b"XYZ ", *date, b"acsp", *_D50)
    return head + struct.pack(">I", len(tags)) + table + data


def _tags(profile: bytes) -> dict[bytes, slice]:
    """Places of bodies by name, each of which may be all of the profile."""
    (count,) = struct.unpack_from(">I", profile, _HEADER.size)
    table = profile[_HEADER.size + 4 :][: _TAG.size * count]
    return {name: slice(place, place + length) for name, place, length in _TAG.iter_unpack(table)}


def _samples(tag: bytes) -> NDArray[np.float64]:
    """Light of the samples of 8 bits by a curve: float64 (256,).

    Raises:
        ValueError, struct.error, KeyError: it is none.
    """
    import numpy as np

    x = np.arange(256) / 255
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        table = np.frombuffer(tag, ">u2", count, 12)
        if count > 1:
            return np.interp(x, np.linspace(0, 1, count), table / 65535)
        return np.asarray(x ** (table[0] / 256 if count else 1))
    if tag[:4] != b"para":
        raise ValueError("no curve")
    (kind,) = struct.unpack_from(">H", tag, 8)
    given = np.frombuffer(tag, ">i4", _PARAMETERS[kind], 12) / 65536
    g, a, b, c, d, e, f = np.append(given, (1, 1, 0, 0, 0, 0, 0)[len(given) :])
    with np.errstate(all="ignore"):  # what is no number is unlike any curve
        return np.asarray(np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f))
