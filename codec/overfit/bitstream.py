"""A function as bytes: its shape and weights in one range-coded stream, its grids in another.

Each routine serves both directions: an encoder passes what to write, a decoder passes None, and both get back what
the stream holds. NumPy only.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codec.container import CorruptError, LimitError
from codec.entropy import tables
from codec.entropy.arm import MAX_CONTEXTS, WEIGHT_BITS, WEIGHT_LIMIT, IntegerARM
from codec.entropy.coder import LIMIT, Coder, Decoder, Encoder, code_laplace
from codec.entropy.wavefront import code_plane
from codec.overfit.bases import base_weights
from codec.overfit.function import SPATIAL_CONTEXTS, Plane, Spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Integers = NDArray[np.int32]
WholeWeights = dict[str, NDArray[np.int64]]

# Fields of a function's shape: name, bits, smallest value. The bits bound what a reader allocates.
_FIELDS = (("spatial", 5, 1), ("references", 4, 0), ("hidden", 6, 1), ("residuals", 2, 0))
_LEVELS_BITS, _FEATURES_BITS = 4, 4
_BASE_BITS, _EXPONENT_BITS, _SCALE_BITS = 4, 4, 6
MAX_SAMPLES = 2**31  # features in all times the picture's pixels: bounds a reader's memory


@dataclass(frozen=True)
class QuantisedWeight:
    """One tensor of differences to a base: integers * 2**-exponent, where the exponent is 0 to 12."""

    integers: Integers
    exponent: int


@dataclass(frozen=True)
class QuantisedWeights:
    """A function's weights as a file holds them: differences, by name, to one of `codec.overfit.bases`."""

    base: int
    differences: dict[str, QuantisedWeight]

    def whole(self, spec: Spec) -> WholeWeights:
        """The weights themselves, in units of 2**-12."""
        return {
            name: origin
            + (self.differences[name].integers.astype(np.int64) << WEIGHT_BITS - self.differences[name].exponent)
            for name, origin in base_weights(self.base, spec).items()
        }


def write(spec: Spec, weights: QuantisedWeights, grids: Sequence[Integers]) -> tuple[bytes, bytes]:
    """Bodies of the sections for weights and for grids.

    Args:
        weights: within what the integer network holds, as `quantise` makes them.
        grids: by level, finest first, (features, height, width), within -LIMIT..LIMIT.
    """
    header, body = Encoder(), Encoder()
    _code_spec(header, spec, spec.height, spec.width, spec.outputs)
    _code_weights(header, spec, weights)
    whole = weights.whole(spec)
    planes = [grids[p.level][p.feature] for p in spec.planes]
    empty = [_code_bit(header, not plane.any()) for plane in planes]
    for i, plane in enumerate(spec.planes):
        if not empty[i]:
            _code_plane(body, i, plane, planes[i], planes, spec, whole)
    return header.finish(), body.finish()


def read(
    weights_section: bytes, grids_section: bytes, height: int, width: int, outputs: int, *, truncated: bool = False
) -> tuple[Spec, QuantisedWeights, list[Integers]]:
    """What `write` was given, from the sections and the container's header.

    Args:
        truncated: the grids' section is only a beginning; planes that are not wholly there are left zero.

    Raises:
        CorruptError: the sections hold no function.
        LimitError: the function is too large.
    """
    header = Decoder(weights_section)
    spec = _code_spec(header, None, height, width, outputs)
    weights = _code_weights(header, spec, None)
    empty = [_code_bit(header, False) for _ in spec.planes]
    if not header.exhausted:
        raise CorruptError("the function's weights do not end where their section does: the file is damaged")
    read_planes = _read_beginning if truncated else _read_whole
    return spec, weights, _by_level(spec, read_planes(grids_section, spec, weights.whole(spec), empty))


def _read_whole(section: bytes, spec: Spec, whole: WholeWeights, empty: list[bool]) -> list[Integers]:
    body = Decoder(section)
    planes = list(_decode_planes(body, spec, whole, empty))
    if not body.exhausted:
        raise CorruptError("the grids do not end where their section does: the file is damaged")
    return planes


def _read_beginning(section: bytes, spec: Spec, whole: WholeWeights, empty: list[bool]) -> list[Integers]:
    """Planes that a truncated section decides: its lowest and highest continuation both give them; zero for others."""
    low, high = (_decode_planes(Decoder(section + end), spec, whole, empty) for end in (b"", b"\xff" * 16))
    planes = [np.zeros((p.height, p.width), np.int32) for p in spec.planes]
    with suppress(CorruptError):
        for i, (plane, other) in enumerate(zip(low, high, strict=True)):
            if not np.array_equal(plane, other):
                break
            planes[i] = plane
    return planes


def _decode_planes(body: Decoder, spec: Spec, whole: WholeWeights, empty: list[bool]) -> Iterator[Integers]:
    """Planes in coding order, one at a time."""
    planes: list[Integers] = []
    for i, plane in enumerate(spec.planes):
        nothing = np.zeros((plane.height, plane.width), np.int32)
        planes.append(nothing if empty[i] else _code_plane(body, i, plane, None, planes, spec, whole))
        yield planes[-1]


def _by_level(spec: Spec, planes: list[Integers]) -> list[Integers]:
    """Planes in coding order to grids by level, finest first."""
    levels: list[list[Integers]] = [[] for _ in spec.features]
    for plane, values in zip(spec.planes, planes, strict=True):
        levels[plane.level].append(values)
    return [np.stack(features) for features in levels]


def _code_bit(coder: Coder, bit: bool) -> bool:
    return bool(coder.uniform(int(bit), 1))


def _code_spec(coder: Coder, spec: Spec | None, height: int, width: int, outputs: int) -> Spec:
    count = coder.uniform(len(spec.features) - 1 if spec else 0, _LEVELS_BITS) + 1
    told = spec.features if spec else (1,) * count
    features = tuple(coder.uniform(n - 1, _FEATURES_BITS) + 1 for n in told)
    fields = {
        name: coder.uniform(getattr(spec, name) - least if spec else 0, bits) + least for name, bits, least in _FIELDS
    }
    read = Spec(height, width, outputs, features, **fields)
    if read.spatial > len(SPATIAL_CONTEXTS) or read.contexts > MAX_CONTEXTS:
        raise CorruptError(f"the function has {read.contexts} contexts, more than there are: the file is damaged")
    if sum(features) * height * width > MAX_SAMPLES:
        raise LimitError(
            f"file claims {sum(features)} features of {width} x {height} samples: the format has at most {MAX_SAMPLES} "
            "samples; do not trust this file"
        )
    return read


def _code_weights(coder: Coder, spec: Spec, weights: QuantisedWeights | None) -> QuantisedWeights:
    base = coder.uniform(weights.base if weights else 0, _BASE_BITS)
    base_weights(base, spec)  # an unknown one is refused before what depends on it
    told = weights.differences if weights else {}
    shapes = spec.weight_shapes.items()
    coded = QuantisedWeights(base, {name: _code_weight(coder, shape, told.get(name)) for name, shape in shapes})
    for name, whole in coded.whole(spec).items():
        if name.startswith("arm.") and (np.abs(whole) >= WEIGHT_LIMIT).any():
            raise CorruptError(f"the function's weights {name} are out of range: the file is damaged")
    return coded


def _code_weight(coder: Coder, shape: tuple[int, ...], weight: QuantisedWeight | None) -> QuantisedWeight:
    size = int(np.prod(shape))
    exponent = coder.uniform(weight.exponent if weight else 0, _EXPONENT_BITS)
    if exponent > WEIGHT_BITS:
        raise CorruptError("a step of the function's weights is out of range: the file is damaged")
    scale = coder.uniform(weight_bits(weight.integers)[1] if weight else 0, _SCALE_BITS)
    told = weight.integers.reshape(-1) if weight else None
    zeros = np.zeros(size, np.int64)
    integers = code_laplace(coder, told, zeros, zeros + scale) if size else np.zeros(0, np.int32)
    return QuantisedWeight(integers.reshape(shape), exponent)


def weight_bits(integers: Integers) -> tuple[float, int]:
    """Bits that a tensor of weights costs, and the scale under which it costs least."""
    if not integers.size:
        return 0.0, 0
    magnitudes = np.minimum(np.abs(integers.reshape(-1)), 512)
    scales = np.exp((tables.LOG_SCALE_MIN_EIGHTHS + np.arange(tables.SCALES)) / tables.LOG_SCALE_FRACTIONS)[:, None]
    beyond = np.exp(-(magnitudes - 0.5) / scales) - np.exp(-(magnitudes + 0.5) / scales)
    probability = np.where(magnitudes == 0, 1 - np.exp(-0.5 / scales), 0.5 * beyond)
    bits = -np.log2(probability + 1 / tables.TOTAL).sum(1)
    best = int(bits.argmin())
    return float(bits[best]) + _EXPONENT_BITS + _SCALE_BITS, best


def _code_plane(
    coder: Coder, index: int, plane: Plane, values: Integers | None, planes: list[Integers], spec: Spec,
    whole: WholeWeights,
) -> Integers:  # fmt: skip
    """Code one plane; all planes before it are known."""
    shape = plane.height, plane.width
    nearest = range(index - 1, max(-1, index - 1 - spec.references), -1)
    known = [_align(planes[j], spec.planes[j].level - plane.level, shape) for j in nearest]
    known += [np.zeros(shape, np.int32)] * (spec.references - len(known))
    decoded = code_plane(coder, shape, values, known, integer_arm(whole, index), SPATIAL_CONTEXTS[: spec.spatial])
    if np.abs(decoded).max() > LIMIT:
        raise CorruptError("a grid's samples are out of range: the file is damaged")
    return decoded


def _align(values: Integers, levels: int, shape: tuple[int, int]) -> Integers:
    """Repeat a coarser plane's samples to the resolution of a finer one."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return values[y >> levels, x >> levels] if levels else values


def integer_arm(whole: WholeWeights, plane: int) -> IntegerARM:
    """The probability model of one plane, from weights in units of 2**-12."""
    arm = {n.removeprefix("arm."): w.astype(np.float64) for n, w in whole.items() if n.startswith("arm.")}
    return IntegerARM(**{**arm, "output_bias": arm["output_bias"][:, plane]})
