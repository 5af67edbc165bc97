"""A function as bytes: its shape and weights in one range-coded stream, its grids in another.

Each routine serves both directions: an encoder passes what to write, a decoder passes None, and both get back what
the stream holds. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codec.container import CorruptError
from codec.entropy import selftest, tables
from codec.entropy.coder import LIMIT, Coder, Decoder, Encoder, code_laplace, continuations
from codec.entropy.integer_arm import WEIGHT_BITS, WEIGHT_LIMIT, IntegerARM
from codec.entropy.wavefront import code_planes, waves, zero
from codec.overfit import reference_weights
from codec.overfit.lambda_conditioned_weights import NUMBER_BITS, LambdaConditionedWeights
from codec.overfit.reference_weights import PLAIN
from codec.overfit.spec import FEATURES_BITS, FIELDS, FLAGS, LEVELS_BITS, SPATIAL_CONTEXTS, Spec

if TYPE_CHECKING:
    from collections.abc import Iterator

Integers = NDArray[np.int32]
Grids = Sequence[Integers] | Sequence[Sequence[Integers]]
WholeWeights = dict[str, NDArray[np.int64]]

MAGNITUDES = 513  # of weights that are told apart when their bits are estimated
_REFERENCE_BITS, _EXPONENT_BITS, _SCALE_BITS = 4, 4, 6


@dataclass(frozen=True)
class QuantisedWeight:
    """One tensor of differences to reference weights: integers * 2**-exponent, where the exponent is 0 to 12."""

    integers: Integers
    exponent: int

    @staticmethod
    def nothing(shape: tuple[int, ...]) -> QuantisedWeight:
        """No difference."""
        return QuantisedWeight(np.zeros(shape, np.int32), 0)


@dataclass(frozen=True)
class Origin:
    """Weights that readers know, which a file's weights are differences to.

    Attributes:
        number: of `codec.overfit.reference_weights`; with a universal function, its own number for a lambda, or 0 for
            the plain reference weights.
        universal: the model's lambda-conditioned weights, in profiles that have models.
    """

    number: int
    universal: LambdaConditionedWeights | None = None

    def weights(self, spec: Spec) -> WholeWeights:
        """The weights in units of 2**-12.

        Raises:
            UnsupportedError, CorruptError: there is nothing of this number for this shape.
        """
        if self.universal is None or self.number == PLAIN:
            return reference_weights.weights(self.number, spec)
        return self.universal.weights(self.number)


@dataclass(frozen=True)
class QuantisedWeights:
    """A function's weights as a file holds them: differences, by name."""

    origin: Origin
    differences: dict[str, QuantisedWeight]

    def whole(self, spec: Spec) -> WholeWeights:
        """The weights themselves as whole numbers, in units of 2**-12."""
        return {
            name: origin
            + (self.differences[name].integers.astype(np.int64) << WEIGHT_BITS - self.differences[name].exponent)
            for name, origin in self.origin.weights(spec).items()
        }


def write(spec: Spec, weights: QuantisedWeights, grids: Grids) -> tuple[bytes, bytes]:
    """Bodies of the sections for weights and for grids.

    Args:
        weights: within what the integer network holds, as `quantise` makes them.
        grids: by level, finest first, of each feature a plane (height, width), within -LIMIT..LIMIT.
    """
    header, body = Encoder(), Encoder()
    _code_head(header, spec, weights.origin, (spec.height, spec.width, spec.outputs))
    _code_differences(header, spec, weights.origin, weights.differences)
    whole = weights.whole(spec)
    planes = [grids[p.level][p.feature] for p in spec.planes]
    empty = [_code_bit(header, not plane.any()) for plane in planes]
    for group in spec.groups:
        _code_group(body, group, planes, planes, empty, spec, whole)
    return header.finish(), body.finish()


def read(
    weights_section: bytes,
    grids_section: bytes,
    height: int,
    width: int,
    outputs: int,
    universal: LambdaConditionedWeights | None = None,
    *,
    truncated: bool = False,
) -> tuple[Spec, QuantisedWeights, list[list[Integers]]]:
    """Read what `write` was given back from the sections: a function's shape, its weights, and its grids by level.

    A grid is a list of planes (height, width). Those that are not coded take no memory, as a file of a few bytes can
    name hundreds.

    Args:
        universal: lambda-conditioned weights of the file's model, in profiles that have models.
        truncated: the grids' section is only a beginning; samples that it does not decide are left zero.

    Raises:
        CorruptError: the sections hold no function.
        LimitError: the function is too large.
        RuntimeError: this machine decodes wrongly.
    """
    selftest.check()
    spec, weights, empty = read_weights(weights_section, height, width, outputs, universal)
    from_section = _read_beginning if truncated else _read_complete
    planes = iter(from_section(grids_section, spec, weights.whole(spec), empty))
    coarse_first = [list(islice(planes, count)) for count in reversed(spec.features)]
    return spec, weights, coarse_first[::-1]


def verify(sections: tuple[bytes, bytes], spec: Spec, weights: QuantisedWeights, grids: Grids) -> None:
    """Read back what was written; anything else than the same would be a file that shows another picture.

    Raises:
        RuntimeError: it is not the same.
    """
    size = spec.height, spec.width, spec.outputs
    read_spec, read_weights, read_grids = read(*sections, *size, weights.origin.universal)
    places = [(plane.level, plane.feature) for plane in spec.planes]
    same = read_spec == spec and all(np.array_equal(grids[i][j], read_grids[i][j]) for i, j in places)
    whole, read_whole = weights.whole(spec), read_weights.whole(spec)
    same &= all(np.array_equal(whole[name], read_whole[name]) for name in whole)
    selftest.check_read_back(same)


def read_weights(
    section: bytes, height: int, width: int, outputs: int, universal: LambdaConditionedWeights | None = None
) -> tuple[Spec, QuantisedWeights, list[bool]]:
    """The first part of `read`: a function's shape and weights, and which of its planes are all zero."""
    header = Decoder(section)
    spec, origin = _code_head(header, None, Origin(PLAIN, universal), (height, width, outputs))
    weights = _code_differences(header, spec, origin, None)
    empty = [_code_bit(header, False) for _ in spec.planes]
    if not header.exhausted:
        raise CorruptError("the function's weights do not end where their section does: the file is damaged")
    return spec, weights, empty


def _read_complete(section: bytes, spec: Spec, whole: WholeWeights, empty: list[bool]) -> list[Integers]:
    body = Decoder(section)
    planes = [_in_range(plane) for group in _decode_planes(body, spec, whole, empty) for plane in group]
    if not body.exhausted:
        raise CorruptError("the grids do not end where their section does: the file is damaged")
    return planes


def _read_beginning(section: bytes, spec: Spec, whole: WholeWeights, empty: list[bool]) -> list[Integers]:
    """Samples that a truncated section decides: its lowest and highest continuation both give them; zero for others."""
    low, high = (_decode_planes(body, spec, whole, empty) for body in continuations(section))
    planes = [zero(p.height, p.width) for p in spec.planes]
    for group, values, others in zip(spec.groups, low, high, strict=True):
        if all(map(np.array_equal, values, others)):
            planes[group.start : group.stop] = values
            continue
        wave = waves(1, *values[0].shape)[0]  # of the first of them; each is one later than the one before
        pairs = enumerate(zip(values, others, strict=True))
        first = min(wave[a != b].min(initial=wave.max() + len(group)) + k for k, (a, b) in pairs)
        for k, i in enumerate(group):
            planes[i] = values[k] if empty[i] else np.where(wave + k < first, values[k], 0)
        break
    return [_in_range(plane) for plane in planes]


def _in_range(samples: Integers) -> Integers:
    """The samples; refuse them if some are beyond -LIMIT..LIMIT, which no writer writes."""
    if max(samples.max(), -samples.min()) > LIMIT:
        raise CorruptError("a grid's samples are out of range: the file is damaged")
    return samples


def _decode_planes(body: Decoder, spec: Spec, whole: WholeWeights, empty: list[bool]) -> Iterator[list[Integers]]:
    """Planes in coding order, those that are coded together at a time, (height, width)."""
    planes: list[Integers] = []
    for group in spec.groups:
        decoded = _code_group(body, group, None, planes, empty, spec, whole)
        planes += decoded
        yield decoded


def _code_bit(coder: Coder, bit: bool) -> bool:
    return bool(coder.uniform(int(bit), 1))


def _code_head(coder: Coder, spec: Spec | None, origin: Origin, size: tuple[int, int, int]) -> tuple[Spec, Origin]:
    """A function's shape, and the weights that its own are differences to."""
    universal = origin.universal
    if universal is None:
        spec = _code_spec(coder, spec, size, models=False)
        origin = Origin(coder.uniform(origin.number, _REFERENCE_BITS))
        origin.weights(spec)  # an unknown one is refused before what depends on it
        return spec, origin
    origin = Origin(coder.uniform(origin.number, NUMBER_BITS), universal)
    if origin.number == PLAIN:
        return _code_spec(coder, spec, size, models=True), origin
    spec = universal.spec(*size)
    spec.check()
    return spec, origin


def _code_spec(coder: Coder, spec: Spec | None, size: tuple[int, int, int], *, models: bool) -> Spec:
    count = coder.uniform(len(spec.features) - 1 if spec else 0, LEVELS_BITS) + 1
    told = spec.features if spec else (1,) * count
    features = tuple(coder.uniform(n - 1, FEATURES_BITS[models]) + 1 for n in told)
    fields: dict[str, Any] = {
        name: coder.uniform(getattr(spec, name) - least if spec else 0, bits) + least for name, bits, least in FIELDS
    }
    fields |= {name: models and _code_bit(coder, bool(getattr(spec, name, False))) for name in FLAGS}
    read = Spec(*size, features, **fields)
    read.check()
    return read


def _code_differences(
    coder: Coder, spec: Spec, origin: Origin, told: dict[str, QuantisedWeight] | None
) -> QuantisedWeights:
    """The differences; to a universal function, with a bit for each tensor that tells whether there are any."""
    differences = {}
    sure = origin.universal is None or origin.number == PLAIN
    for name, shape in spec.weight_shapes.items():
        weight = told[name] if told else None
        if sure or _code_bit(coder, weight is not None and bool(weight.integers.any())):
            differences[name] = _code_weight(coder, shape, weight)
        else:
            differences[name] = QuantisedWeight.nothing(shape)
    coded = QuantisedWeights(origin, differences)
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
    magnitudes = np.minimum(np.abs(integers.reshape(-1)), MAGNITUDES - 1)
    bits = _bits_of_magnitudes() @ np.bincount(magnitudes, minlength=MAGNITUDES)
    best = int(bits.argmin())
    return float(bits[best]) + _EXPONENT_BITS + _SCALE_BITS, best


def magnitude_bits(scale: int) -> NDArray[np.float64]:
    """Bits of a weight by its magnitude, (MAGNITUDES,), under a scale as `weight_bits` gives it."""
    bits: NDArray[np.float64] = _bits_of_magnitudes()[scale]
    return bits


@cache
def _bits_of_magnitudes() -> NDArray[np.float64]:
    """The same for all scales, (scales, MAGNITUDES)."""
    magnitudes = np.arange(MAGNITUDES)
    scales = tables.scales_of(np.arange(tables.SCALES))[:, None]
    beyond = np.exp(-(magnitudes - 0.5) / scales) - np.exp(-(magnitudes + 0.5) / scales)
    probability = np.where(magnitudes == 0, 1 - np.exp(-0.5 / scales), 0.5 * beyond)
    bits: NDArray[np.float64] = -np.log2(probability + 1 / tables.TOTAL)
    return bits


def _code_group(
    coder: Coder, group: range, values: Sequence[Integers] | None, planes: Sequence[Integers], empty: list[bool],
    spec: Spec, whole: WholeWeights,
) -> list[Integers]:  # fmt: skip
    """Code planes that are coded together; all planes before them are known."""
    first = spec.planes[group.start]
    before = range(group.start - spec.references, group.start)
    known = [None if i < 0 or empty[i] else (planes[i], spec.planes[i].level - first.level) for i in before]
    told = None if values is None else np.stack([values[i] for i in group])
    coded = np.array([not empty[i] for i in group])
    model, offsets = integer_arm(whole, [i for i in group if not empty[i]], spec), SPATIAL_CONTEXTS[: spec.spatial]
    return code_planes(coder, known, told, coded, model, offsets, (first.height, first.width))


def integer_arm(whole: WholeWeights, planes: Sequence[int], spec: Spec) -> IntegerARM:
    """The probability models of some planes, from weights in units of 2**-12."""
    arm = {n.removeprefix("arm."): w.astype(np.float64) for n, w in whole.items() if n.startswith("arm.")}
    bias = arm.pop("output_bias")[:, planes].T
    own = {n: w[planes] if spec.separate else w[None] for n, w in arm.items()}
    return IntegerARM(**own, output_bias=bias)
