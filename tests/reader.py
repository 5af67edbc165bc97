"""Another reader, written from docs/FORMAT.md alone: slow and plain, whole numbers of Python, nothing of the codec.

What it reads is what the format says, so the tests hold the codec's reader against it.
"""

from __future__ import annotations

import json
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CONTEXTS = (
    (0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-2, -1), (-2, 1), (-1, -2), (0, -3), (-3, 0), (-2, -2),
    (-2, 2), (-3, -1), (-3, 1), (-1, -3), (-2, 3), (0, -4), (-3, 2), (-3, -2), (-4, 0), (-2, -3), (-3, 3), (-1, -4),
)  # fmt: skip
TAPS = (-96, 928, 3552, -288)
BASES = Path(__file__).parent.parent / "codec" / "overfit" / "functions.safetensors"
BASES_HEADER, BASES_COUNT = 1280, 5
BASES_ORDER = (
    "arm.hidden1", "arm.hidden1_bias", "arm.hidden2", "arm.hidden2_bias", "arm.output", "arm.output_bias",
    "arm.stabiliser", "synthesis.hidden", "synthesis.hidden_bias", "synthesis.output", "synthesis.output_bias",
    "synthesis.residual1", "synthesis.residual1_bias", "synthesis.residual2", "synthesis.residual2_bias",
    "upsampling.taps",
)  # fmt: skip
ONE = 2**96
LN2 = 0xB17217F7D1CF79ABC9E3B398

Grid = list[list[int]]
Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


class DamagedError(Exception):
    """The stream is none that a writer writes."""


class UnknownError(Exception):
    """The file refers to a base function that is not in the specification."""


# The range coder


class Stream:
    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0
        self.range = 2**64 - 1
        self.offset = self.word() << 32 | self.word()

    def word(self) -> int:
        self.position += 4
        return int.from_bytes(self.data[self.position - 4 : self.position], "little")

    def symbol(self, frequencies: Sequence[int]) -> int:
        unit = self.range >> 24
        quantile = self.offset // unit
        if quantile >= 1 << 24:
            raise DamagedError
        ends = [*accumulate(frequencies)]
        symbol = bisect_right(ends, quantile)  # the first that ends beyond it
        self.offset -= unit * (ends[symbol] - frequencies[symbol])
        self.range = unit * frequencies[symbol]
        if self.range < 1 << 32:
            self.range <<= 32
            self.offset = self.offset << 32 | self.word()
        return symbol

    def bits(self, count: int) -> int:
        return self.symbol([1 << 24 - count] * (1 << count)) if count else 0

    def run(self, means: Sequence[int], scales: Sequence[int]) -> list[int]:
        k = half_width(max(scales))
        centres = [(mean + 8) // 16 for mean in means]
        triples = zip(means, centres, scales, strict=True)
        symbols = [self.symbol(frequencies(k, scale, mean + 8 - 16 * centre)) for mean, centre, scale in triples]
        residuals = [symbol - k if symbol <= 2 * k else self.escape(k) for symbol in symbols]
        return [centre + residual for centre, residual in zip(centres, residuals, strict=True)]

    def escape(self, k: int) -> int:
        sign, count = self.bits(1), self.bits(4)
        beyond = k + (1 << count) + self.bits(count)
        return -beyond if sign else beyond

    def end(self) -> None:
        if self.position < len(self.data) or (self.range < 2**64 - 1 and self.offset >= 2**33 - 1):
            raise DamagedError


# Frequencies


def half_width(scale: int) -> int:
    return next(k for k, last in ((7, 23), (15, 30), (31, 35), (63, 41), (127, 47), (255, 63)) if scale <= last)


def exponential(p: int, q: int) -> int:
    n, x = divmod(ONE * p // q, LN2)
    terms = [ONE]
    for k in range(1, 40):
        terms.append(terms[-1] * x // ONE // k)
    return sum(terms) << n if n >= 0 else sum(terms) >> -n


@cache
def frequencies(k: int, scale: int, j: int) -> list[int]:
    b = exponential(scale - 24, 8)
    d = exponential(-ONE, b)
    edges = {t: 32 * t + 16 - 2 * (j - 8) for t in range(-k - 1, k + 1)}
    middle = min(t for t, edge in edges.items() if edge >= 0)
    beyond = {t: exponential(-ONE * abs(edges[t]), 32 * b) // 2 for t in (middle - 1, middle)}
    for t in range(middle, k):
        beyond[t + 1] = d * beyond[t] // ONE
    for t in range(middle - 1, -k - 1, -1):
        beyond[t - 1] = d * beyond[t] // ONE
    masses = [
        ONE - beyond[t - 1] - beyond[t] if edges[t - 1] < 0 <= edges[t] else abs(beyond[t] - beyond[t - 1])
        for t in range(-k, k + 1)
    ]
    room = 2**24 - (2 * k + 2)
    row = [1 + room * mass // ONE for mass in [*masses, beyond[-k - 1] + beyond[k]]]
    row[k] += 2**24 - sum(row)
    return row


# The function


@dataclass
class Shape:
    """What a file says of a function's shape, or a model of its universal function's; features by level."""

    features: list[int]
    spatial: int
    references: int
    hidden: int
    residuals: int
    separate: bool = False
    linear: bool = False

    @property
    def planes(self) -> list[int]:
        """The level of each grid, in coding order."""
        return [level for level in range(len(self.features))[::-1] for _ in range(self.features[level])]

    @property
    def groups(self) -> list[list[int]]:
        """The grids that are coded together, by their places in the coding order."""
        if not self.separate:
            return [[index] for index in range(len(self.planes))]
        levels = range(len(self.features))[::-1]
        return [[index for index, of in enumerate(self.planes) if of == level] for level in levels]

    def tensors(self, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The tensors in the order of a file."""
        contexts, planes, hidden = self.spatial + self.references, len(self.planes), self.hidden
        models = (planes,) if self.separate else ()
        for layer in ("arm.hidden1", "arm.hidden2"):
            yield layer, (*models, contexts, contexts)
            yield layer + "_bias", (*models, contexts)
        yield from (("arm.output", (*models, 2, contexts)), ("arm.stabiliser", (*models, 2, contexts)))
        yield "arm.output_bias", (2, planes)
        yield "upsampling.taps", (len(self.features) - 1, 4)
        yield from (("synthesis.hidden", (hidden, planes)), ("synthesis.hidden_bias", (hidden,)))
        yield from (("synthesis.output", (outputs, hidden)), ("synthesis.output_bias", (outputs,)))
        if self.linear:
            yield "synthesis.linear", (outputs, planes)
        for r in range(1, self.residuals + 1):
            yield f"synthesis.residual{r}", (outputs, outputs, 3, 3)
            yield f"synthesis.residual{r}_bias", (outputs,)


def read_shape(stream: Stream, *, model: bool) -> Shape:
    """From a file that names a model, or from one that does not."""
    levels = stream.bits(4) + 1
    features = [stream.bits(7 if model else 4) + 1 for _ in range(levels)]
    shape = Shape(features, stream.bits(5) + 1, stream.bits(4), stream.bits(6) + 1, stream.bits(2))
    if model:
        shape.separate, shape.linear = bool(stream.bits(1)), bool(stream.bits(1))
    return shape


@dataclass
class Universal:
    """A model's universal function; a model that has none has neither shape nor knots."""

    shape: Shape | None
    knots: dict[str, Whole]

    def between(self, name: str, number: int) -> Whole:
        """A tensor of the function of this number, in units of 2^-12."""
        t = self.knots[name]
        x = (number - 1) * (len(t) - 1)
        k, r = x // 1022, x % 1022
        between: Whole = (t[k] * (1022 - r) + t[min(k + 1, len(t) - 1)] * r + 511) // 1022
        return between


def universal_function(path: Path) -> Universal:
    """From a model's file."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    described = json.loads(header.pop("__metadata__")["clric"]).get("function")
    knots = {}
    for name, entry in header.items():
        if name.startswith("function."):
            assert entry["dtype"] == "I16"
            first, last = (start + offset for offset in entry["data_offsets"])
            numbers = np.frombuffer(data[first:last], "<i2").astype(np.int64)
            knots[name.removeprefix("function.")] = numbers.reshape(entry["shape"])
    return Universal(Shape(**described["shape"]) if described else None, knots)


def trained_base(number: int, outputs: int) -> dict[str, Whole]:
    data, position = BASES.read_bytes(), BASES_HEADER
    sizes = dict(Shape([1] * 7, spatial=14, references=2, hidden=16, residuals=2).tensors(outputs=3))
    base = {}
    for name in BASES_ORDER:
        size = BASES_COUNT * int(np.prod(sizes[name]))
        tensors = np.frombuffer(data, "<i2", size, position).reshape(BASES_COUNT, *sizes[name])
        base[name] = tensors[number - 1].astype(np.int64)
        position += 2 * size
    assert position == len(data)
    if outputs != 3:
        for r in ("1", "2"):
            kernel = np.zeros((outputs, outputs, 3, 3), np.int64)
            for k in range(outputs):
                for dr, dc in np.ndindex(3, 3):
                    kernel[k, k, dr, dc] = int(base[f"synthesis.residual{r}"][:, :, dr, dc].sum()) // 3
            base[f"synthesis.residual{r}"] = kernel
            base[f"synthesis.residual{r}_bias"] = mean(base[f"synthesis.residual{r}_bias"], outputs)
        for name in ("synthesis.output", "synthesis.output_bias"):
            base[name] = mean(base[name], outputs)
    return base


def widened_base(base: dict[str, Whole], shape: Shape, expected: dict[str, tuple[int, ...]]) -> dict[str, Whole]:
    if shape.features != [1] * 7 or shape.residuals != 2 or shape.separate or shape.linear:
        raise DamagedError
    if shape.spatial < 14 or shape.references < 2 or shape.hidden < 16:
        raise DamagedError
    places = [*range(14), shape.spatial, shape.spatial + 1]
    wide = {name: np.zeros(size, np.int64) for name, size in expected.items()}
    for name, b in base.items():
        if name in ("arm.hidden1", "arm.hidden2"):
            for k, place in enumerate(places):
                wide[name][place, places] = b[k]
        elif name.startswith("arm.") and name != "arm.output_bias":
            wide[name][..., places] = b
        elif name in ("synthesis.hidden", "synthesis.hidden_bias"):
            wide[name][:16] = b
        elif name == "synthesis.output":
            wide[name][:, :16] = b
        else:
            wide[name] = b
    return wide


def mean(b: Whole, outputs: int) -> Whole:
    return np.array([(b[0] + b[1] + b[2]) // 3 for _ in range(outputs)])


class Function:
    """Shape, weights and grids in coding order, from the two bodies and, if the file names a model, what that has."""

    def __init__(
        self, weights: bytes, grids: bytes, height: int, width: int, outputs: int, universal: Universal | None = None
    ) -> None:
        stream = Stream(weights)
        self.outputs, self.universal = outputs, universal
        self.number = stream.bits(10) if universal else 0
        self.shape = self.read_shape(stream)
        if self.shape.spatial > 24 or self.shape.spatial + self.shape.references > 31:
            raise DamagedError
        self.sizes = [(-(-height // 2**level), -(-width // 2**level)) for level in range(len(self.shape.features))]
        self.planes = self.shape.planes
        if not universal:
            self.number = stream.bits(4)
        self.base = self.base_function()
        self.integers: dict[str, Whole] = {}
        self.exponents: dict[str, int] = {}
        for name, shape in self.shape.tensors(outputs):
            self.read_tensor(stream, name, shape)
        self.whole = self.whole_weights()
        empty = [stream.bits(1) for _ in self.planes]
        stream.end()
        stream = Stream(grids)
        sizes = [self.sizes[level] for level in self.planes]
        self.grids: list[Grid] = [[[0] * columns for _ in range(rows)] for rows, columns in sizes]
        for group in self.shape.groups:
            self.read_grids(stream, group, empty)
        stream.end()

    @property
    def of_model(self) -> Universal | None:
        """The universal function, if that is what the weights are differences to."""
        return self.universal if self.number else None

    def read_shape(self, stream: Stream) -> Shape:
        if not self.of_model:
            return read_shape(stream, model=self.universal is not None)
        if not self.of_model.shape:
            raise DamagedError
        return self.of_model.shape

    def base_function(self) -> dict[str, Whole]:
        """What the weights are differences to."""
        expected = dict(self.shape.tensors(self.outputs))
        if self.of_model:
            base = {name: self.of_model.between(name, self.number) for name in expected}
        elif self.number > 2 * BASES_COUNT:
            raise UnknownError
        elif self.number > BASES_COUNT:
            base = widened_base(trained_base(self.number - BASES_COUNT, self.outputs), self.shape, expected)
        elif self.number:
            base = trained_base(self.number, self.outputs)
        else:
            base = {name: np.zeros(shape, np.int64) for name, shape in expected.items()}
            base["upsampling.taps"] += TAPS
        if {name: b.shape for name, b in base.items()} != expected:
            raise DamagedError
        return base

    def read_tensor(self, stream: Stream, name: str, shape: tuple[int, ...]) -> None:
        """Its differences."""
        count = int(np.prod(shape))
        numbers = [0] * count
        self.exponents[name] = 0
        if not self.of_model or stream.bits(1):
            self.exponents[name], scale = stream.bits(4), stream.bits(6)
            numbers = stream.run([0] * count, [scale] * count) if count else []
        self.integers[name] = np.array(numbers, np.int64).reshape(shape)

    def whole_weights(self) -> dict[str, Whole]:
        """Weights in units of 2^-12."""
        whole = {}
        for name, integers in self.integers.items():
            if self.exponents[name] > 12:
                raise DamagedError
            whole[name] = self.base[name] + integers * 2 ** (12 - self.exponents[name])
            if name.startswith("arm.") and (np.abs(whole[name]) >= 2**20).any():
                raise DamagedError
        return whole

    def read_grids(self, stream: Stream, group: list[int], empty: list[int]) -> None:
        """Those of a group, which are coded together."""
        height, width = self.sizes[self.planes[group[0]]]
        models = {index: self.model(index) for index in group}
        for wave in range(width + 2 * height + len(group)):
            places = [
                (index, y, wave - k - 2 * y)
                for k, index in enumerate(group)
                for y in range(height)
                if not empty[index] and 0 <= wave - k - 2 * y < width
            ]
            if places:
                distributions = [models[index](self.contexts(index, y, x)) for index, y, x in places]
                means, scales = zip(*distributions, strict=True)
                for (index, y, x), value in zip(places, stream.run(means, scales), strict=True):
                    self.grids[index][y][x] = value

    def contexts(self, index: int, y: int, x: int) -> list[int]:
        grid = self.grids[index]
        found = []
        for dy, dx in CONTEXTS[: self.shape.spatial]:
            inside = y + dy >= 0 and 0 <= x + dx < len(grid[0])
            found.append(grid[y + dy][x + dx] if inside else 0)
        for other in range(index - 1, index - 1 - self.shape.references, -1):
            shift = self.planes[other] - self.planes[index] if other >= 0 else 0
            found.append(self.grids[other][y >> shift][x >> shift] if other >= 0 else 0)
        return found

    def model(self, index: int) -> Callable[[list[int]], tuple[int, int]]:
        """A grid's probability model, from contexts to mean and scale."""
        names = ("hidden1", "hidden1_bias", "hidden2", "hidden2_bias", "output", "stabiliser")
        own = index if self.shape.separate else ...
        a1, b1, a2, b2, o, s = (self.whole[f"arm.{name}"][own].tolist() for name in names)
        b3 = self.whole["arm.output_bias"][:, index].tolist()

        def clip(x: int) -> int:
            return min(max(x, 0), 2**27)

        def dot(row: list[int], inputs: list[int]) -> int:
            return sum(w * x for w, x in zip(row, inputs, strict=True))

        def distribution(c: list[int]) -> tuple[int, int]:
            u = [clip(4096 * x + dot(row, c) + b) for x, row, b in zip(c, a1, b1, strict=True)]
            v = [clip(x + (dot(row, u) + 4096 * b) // 4096) for x, row, b in zip(u, a2, b2, strict=True)]
            w = [dot(o[k], v) + 4096 * dot(s[k], c) + 4096 * b3[k] for k in (0, 1)]
            mean, scale = (w[0] + 2**19) >> 20, 24 + ((w[1] + 2**20) >> 21)
            return min(max(mean, -16 * 16383), 16 * 16383), min(max(scale, 0), 63)

        return distribution

    def weight(self, name: str) -> Floats:
        return self.whole[name] / 4096

    def output(self) -> Floats:
        """(outputs, height, width): the picture's samples, or a normalised latent."""
        by_level: list[list[Grid]] = [[] for _ in self.shape.features]
        for level, grid in zip(self.planes, self.grids, strict=True):
            by_level[level].append(grid)
        features = np.empty((0, 1, 1))
        for level in range(len(by_level))[::-1]:
            grids = np.array(by_level[level], np.float64)
            if len(features):
                for axis in (1, 2):
                    features = double(features, self.weight("upsampling.taps")[level], axis)
                features = features[:, : grids.shape[1], : grids.shape[2]]
            features = np.concatenate([grids, features.reshape(-1, *grids.shape[1:])])
        y = self.synthesis(features)
        return y * (self.of_model.between("steps", self.number) / 4096)[:, None, None] if self.of_model else y

    def synthesis(self, features: Floats) -> Floats:
        reach = self.shape.residuals
        x = np.pad(features, ((0, 0), (reach, reach), (reach, reach)), "edge")
        h = np.maximum(0, self.mix("synthesis.hidden", x) + self.weight("synthesis.hidden_bias")[:, None, None])
        y = self.mix("synthesis.output", h) + self.weight("synthesis.output_bias")[:, None, None]
        if self.shape.linear:
            y += self.mix("synthesis.linear", x)
        for r in range(1, reach + 1):
            windows = np.lib.stride_tricks.sliding_window_view(y, (3, 3), (1, 2))
            kernel, bias = self.weight(f"synthesis.residual{r}"), self.weight(f"synthesis.residual{r}_bias")
            y = y[:, 1:-1, 1:-1] + np.einsum("ijkl,jyxkl->iyx", kernel, windows) + bias[:, None, None]
        return y

    def mix(self, layer: str, x: Floats) -> Floats:
        mixed: Floats = np.einsum("ij,jyx->iyx", self.weight(layer), x)
        return mixed


def double(x: Floats, taps: Floats, axis: int) -> Floats:
    x = np.moveaxis(x, axis, -1)
    n = x.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (2, 2)), "edge")
    left = sum(taps[k] * x[..., k : k + n] for k in range(4))
    right = sum(taps[k] * x[..., 4 - k : 4 - k + n] for k in range(4))
    return np.moveaxis(np.stack([left, right], -1).reshape(*x.shape[:2], -1), -1, axis)


# The latent of profile msp

OFFSETS = ((1, 1), (0, 1), (1, 0))
BAND = 8192


@dataclass
class Preset:
    """Order of coding; where groups begin, in 1/192 of the channels, and phases of the halvings from the finest on."""

    name: str
    groups: list[int]
    phases: list[int]

    @property
    def phased(self) -> bool:
        return max(self.phases) > 1


PRESETS = (
    Preset("baseline", [], [1, 1, 1]),
    Preset("normal", [16, 80], [1, 1, 1]),
    Preset("extra", [3, 12, 36, 96], [4, 2, 2]),
)


def model_tensors(path: Path) -> dict[str, Whole]:
    """All tensors of whole numbers in a model's file."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    types = {"I8": "<i1", "I16": "<i2", "I32": "<i4"}
    found = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__" and entry["dtype"] in types:
            first, last = (start + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(data[first:last], types[entry["dtype"]]).astype(np.int64)
            found[name] = found[name].reshape(entry["shape"])
    return found


def whole_exponential(x: int, factor: int) -> int:
    return factor * exponential(x, 1024) // ONE


class Networks:
    """Networks of a prior, given its tensors."""

    def __init__(self, tensors: dict[str, Whole], prefix: str) -> None:
        self.tensors = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

    def layer(self, name: str, x: Whole) -> Whole:
        """A linear layer along the last axis."""
        weight, bias, shift, (low, high) = (
            self.tensors[f"{name}.{part}"] for part in ("weight", "bias", "shift", "inputs")
        )
        sums: Whole = np.clip(x, low, high) @ weight.T + bias
        return self.shifted(sums, shift)

    @staticmethod
    def shifted(sums: Whole, shift: Whole) -> Whole:
        shifted: Whole = (sums + (2**shift // 2)) >> shift
        return shifted

    def spatial(self, name: str, x: Whole) -> Whole:
        """A depthwise convolution of 3 x 3."""
        weight, bias, shift, (low, high) = (
            self.tensors[f"{name}.{part}"] for part in ("weight", "bias", "shift", "inputs")
        )
        height, width = x.shape[:2]
        x = np.pad(np.clip(x, low, high), ((1, 1), (1, 1), (0, 0)), "edge")
        sums = np.zeros((height, width, len(weight)), np.int64)
        for dr, dc in np.ndindex(3, 3):
            sums += x[dr : dr + height, dc : dc + width] * weight[:, 0, dr, dc]
        return self.shifted(sums + bias, shift)

    def context(self, offset: int, inputs: Whole, condition: Whole) -> Whole:
        x: Whole = (self.layer(f"steps.{offset}.embed", inputs) + condition).clip(-256, 256)
        for block in (0, 1):
            name = f"steps.{offset}.context.{block}."
            mixed = self.spatial(name + "mix", self.layer(name + "mix_in", x).clip(0, 256)).clip(-256, 256)
            x = (x + self.layer(name + "mix_out", mixed)).clip(-256, 256)
            x = (x + self.layer(name + "output", self.layer(name + "hidden", x).clip(0, 256))).clip(-256, 256)
        return x


class Latent(Networks):
    """The latent of a section, (height, width, channels), given the tensors of the model.

    It is the grids, or packets of which none is lost, or the enhancement layer.
    """

    def __init__(
        self, section: bytes, tensors: dict[str, Whole], height: int, width: int, *, in_packets: bool = False,
        enhancement: bool = False,
    ) -> None:  # fmt: skip
        packets = Packets(section, 2, (height, width)) if in_packets else None
        head, rest = (packets.head, b"") if packets else (section[:3], section[3:])
        if enhancement:
            head, rest = bytes([1]) + section[:2], section[2:]
        if len(head) < 3:
            raise DamagedError
        number, self.position = head[0] % 16 if packets else head[0], int.from_bytes(head[1:], "little")
        if not enhancement:
            number &= ~8  # texture
        if number >= len(PRESETS):
            raise UnknownError
        self.preset = PRESETS[number]
        part, prior = ("enhancement.", "prior.") if enhancement else ("", f"prior.{self.preset.name}.")
        super().__init__(tensors, part + prior)
        gains = tensors.get(part + "gains.log", np.zeros((0, 0), np.int64))
        knots, self.channels = gains.shape
        if not self.tensors or self.position > 256 * (knots - 1):
            raise DamagedError
        bounds = {0, self.channels} | {self.half_even(part * self.channels, 192) for part in self.preset.groups}
        self.bounds = sorted(bounds)
        self.unit = [int(g + u) for g, u in zip(self.between(gains), self.tensors["log_unit"], strict=True)]
        self.into = np.array([whole_exponential(-u, 2**21) for u in self.unit])
        self.out_of = np.array([whole_exponential(u, 2**19) for u in self.unit])
        self.log_scale = self.between(self.tensors["log_scale"])
        self.condition = self.between(self.tensors["condition"])
        whole = np.zeros((height, width, self.channels), np.int64)
        self.level = packets.level if packets else 0
        for (rows, columns), data in packets.parts() if packets else [(np.s_[:, :], rest)]:
            self.symbols, self.stream = whole[rows, columns], Stream(data)
            self.activations = np.zeros_like(self.symbols)
            self.read()
            self.stream.end()
        self.symbols = whole
        if np.abs(self.symbols).max() > 16383:
            raise DamagedError

    @staticmethod
    def half_even(p: int, q: int) -> int:
        """p / q, rounded; a half to the even number."""
        whole, rest = divmod(p, q)
        return whole + (2 * rest > q or (2 * rest == q and whole % 2))

    def between(self, t: Whole) -> Whole:
        """(..., knots, n) to (..., n)."""
        k = min(self.position // 256, t.shape[-2] - 2)
        r = self.position - 256 * k
        mixed: Whole = (t[..., k, :] * (256 - r) + t[..., k + 1, :] * r + 128) // 256
        return mixed

    def read(self) -> None:
        every = range(self.channels)
        cells = [(y, x) for y in range(0, len(self.symbols), 8) for x in range(0, self.symbols.shape[1], 8)]
        mean, scale = self.distribution(self.tensors["mean"], self.log_scale[3, 0], every)
        self.code(cells, every, [mean] * len(cells), [scale] * len(cells))
        for halving in (2, 1, 0):
            self.refine(halving)

    def refine(self, halving: int) -> None:
        d, level = 2**halving, min(2, halving + self.level)
        first = self.activations[:: 2 * d, :: 2 * d]
        known = [first]
        for offset, (dy, dx) in enumerate(OFFSETS):
            current = self.activations[dy * d :: 2 * d, dx * d :: 2 * d]
            rows, columns = current.shape[:2]
            before = np.zeros((*first.shape[:2], 1), np.int64)
            for phase in range(self.preset.phases[level]):
                own = np.zeros_like(first)
                own[:rows, :columns] = current * before[:rows, :columns]
                inputs = [*known, own, 32 * before] if self.preset.phased else known
                condition = self.condition[level, offset]
                context = self.context(offset, np.concatenate(inputs, 2), condition)
                step = max(1, BAND // max(1, columns))
                for top in range(0, rows, step):
                    band = range(top, min(rows, top + step))
                    cells = [(y, x) for y in band for x in range(columns) if self.phase(level, y, x) == phase]
                    self.band(d, level, offset, cells, context)
                for y, x in np.ndindex(rows, columns):
                    before[y, x] |= self.phase(level, y, x) == phase
            complete = first.copy()
            complete[:rows, :columns] = current
            known.append(complete)

    def phase(self, level: int, y: int, x: int) -> int:
        y, x = y % 2, x % 2
        return {1: 0, 2: (y + x) % 2, 4: 2 * ((y + x) % 2) + y}[self.preset.phases[level]]

    def band(self, d: int, level: int, offset: int, cells: list[tuple[int, int]], context: Whole) -> None:
        dy, dx = OFFSETS[offset]
        places = [((2 * y + dy) * d, (2 * x + dx) * d) for y, x in cells]
        for group, (start, stop) in enumerate(zip(self.bounds, self.bounds[1:], strict=False)):
            channels, means, scales = range(start, stop), [], []
            for (y, x), (row, column) in zip(cells, places, strict=True):
                c = context[y, x]
                u = self.layer(f"steps.{offset}.mix.{group}", c)
                if group:
                    u = u + self.layer(f"steps.{offset}.earlier.{group - 1}", self.activations[row, column, :start])
                outputs = self.layer(f"steps.{offset}.output.{group}", c + np.clip(u, 0, 256)).clip(-(2**20), 2**20)
                logarithms = 8 * outputs[stop - start :] + self.log_scale[level, offset, start:stop]
                mean, scale = self.distribution(outputs[: stop - start], logarithms, channels)
                means.append(mean)
                scales.append(scale)
            self.code(places, channels, means, scales)

    def distribution(self, means: Whole, logarithms: Whole, channels: range) -> tuple[list[int], list[int]]:
        """Means in 1/16 and scales of the symbols of some channels, from numbers in units of the channels."""
        mean, scale = [], []
        for number, logarithm, k in zip(means.tolist(), logarithms.tolist(), channels, strict=True):
            m = (number * int(self.out_of[k]) + 2**23) >> 24
            mean.append(min(max(m, -16 * 16383), 16 * 16383))
            scale.append(min(max((logarithm + self.unit[k] + 64) // 128 + 24, 0), 63))
        return mean, scale

    def code(
        self, places: list[tuple[int, int]], channels: range, means: list[list[int]], scales: list[list[int]]
    ) -> None:
        """Read some channels at some places."""
        elements = [(y, x, k) for y, x in places for k in channels]
        told = list(zip(elements, chain(*means), chain(*scales), strict=True))
        for width in (7, 15, 31, 63, 127, 255):
            of_width = [(e, m, i) for e, m, i in told if half_width(i) == width and (i or (m + 8) // 16)]
            if of_width:
                found = self.stream.run([m for _, m, _ in of_width], [i for _, _, i in of_width])
                for (element, _, _), symbol in zip(of_width, found, strict=True):
                    self.symbols[element] = symbol
                    scaled = (symbol * int(self.into[element[2]]) + 2**15) >> 16
                    self.activations[element] = min(max(scaled, -256), 256)


def difference(coefficients: Floats) -> Floats:
    """What an enhancement layer adds, (8 h, 8 w, 3), given its coefficients (h, w, 192)."""
    axes = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    order = sorted((v + u, v, u) for v in range(8) for u in range(8))
    height, width = coefficients.shape[:2]
    made = np.zeros((height, 8, width, 8, 3))
    places = np.arange(8) + 0.5

    def wave(frequency: int) -> Floats:
        cosine: Floats = np.cos(np.pi / 8 * frequency * places) * np.sqrt((2 if frequency else 1) / 8)
        return cosine

    for k in range(192):
        _, v, u = order[k // 3]
        made += np.einsum("hw,y,x,c->hywxc", coefficients[:, :, k], wave(v), wave(u), axes[k % 3])
    return made.reshape(8 * height, 8 * width, 3)


def texture_noise(row: int, column: int, function: int) -> float:
    """The noise of a function of a patch, given its row and column."""
    x = row * 0x9E3779B1 + column * 0x85EBCA77 + function * 0xC2B2AE3D & 0xFFFFFFFF
    x ^= x >> 16
    x = x * 0x85EBCA6B & 0xFFFFFFFF
    x ^= x >> 13
    x = x * 0xC2B2AE35 & 0xFFFFFFFF
    x ^= x >> 16
    return float((2 * (x >> 24) - 255) / np.sqrt(4 * (256**2 - 1) / 12))


# Packets


def crc16(data: bytes) -> int:
    crc = 0xFFFF
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def times(a: int, b: int) -> int:
    """Product in GF(256)."""
    product = 0
    while b:
        product ^= a * (b & 1)
        a, b = a << 1 ^ (0x11D if a & 0x80 else 0), b >> 1
    return product


@cache
def multiples(a: int) -> list[int]:
    return [times(a, b) for b in range(256)]


def inverse(a: int) -> int:
    return multiples(a).index(1)


def added(row: list[int], factor: int, other: list[int]) -> list[int]:
    """row + factor * other."""
    products = multiples(factor)
    return [a ^ products[b] for a, b in zip(row, other, strict=True)]


class Packets:
    """Packets of a section that is whole, but for what is damaged: their streams by number.

    Args:
        detail: bytes of their heads after the first.
        size: rows and columns of the map.
    """

    def __init__(self, section: bytes, detail: int, size: tuple[int, int]) -> None:
        found: dict[bytes, dict[int, bytes]] = {}  # by head, all after the number by number
        self.detail = detail
        place = 0
        while place < len(section):
            head, number, _, stop = self.packet(section, place)
            if crc16(section[place:stop]) == int.from_bytes(section[stop : stop + 2], "little"):
                found.setdefault(head, {})[number] = section[place + len(head) + (section[place] >= 16) : stop + 2]
                place = stop + 2
            else:
                place += 1
        if not found:
            raise DamagedError
        self.head = max(found, key=lambda head: (len(found[head]), sum(map(len, found[head].values()))))
        self.spacing = s = 1 + self.head[0] // 16
        self.level = {1: 0, 2: 1, 3: 1}.get(s, 2 if s < 8 else 3)
        self.numbers = [p for p in range(s * s) if p % s < size[0] and (2 * p + p // s) % s < size[1]]
        rows = found[self.head]
        self.restored = self.restore(rows)
        self.streams = {p: self.stream(p, row) for p, row in {**rows, **self.restored}.items() if p in self.numbers}

    def stream(self, number: int, row: bytes) -> bytes:
        """The stream of a packet without head and number, if its checksum is right; zeros may follow."""
        if self.spacing == 1:
            return row[:-2]
        packet = self.head + bytes([number]) + row
        _, _, start, stop = self.packet(packet, 0)
        if crc16(packet[:stop]) != int.from_bytes(packet[stop : stop + 2], "little") or any(packet[stop + 2 :]):
            raise DamagedError
        return packet[start:stop]

    def restore(self, rows: dict[int, bytes]) -> dict[int, bytes]:
        """Rows that are missing, if parity rows are enough: by elimination."""
        missing = [p for p in self.numbers if p not in rows]
        parity = {p: self.stream(p, row) for p, row in rows.items() if p >= self.spacing**2}
        if not parity or len(parity) < len(missing):
            return {}
        equations = []  # factors of what is missing, and their sum
        for x, contents in list(parity.items())[: len(missing)]:
            total = list(contents)
            for y in self.numbers:
                if y in rows:
                    total = added(total, inverse(x ^ y), list(rows[y].ljust(len(total), b"\0")))
            equations.append([inverse(x ^ y) for y in missing] + total)
        for i in range(len(missing)):
            equations[i] = [times(inverse(equations[i][i]), a) for a in equations[i]]
            for j in range(len(missing)):
                if j != i:
                    equations[j] = added(equations[j], equations[j][i], equations[i])
        return {p: bytes(equations[i][len(missing) :]) for i, p in enumerate(missing)}

    def parts(self) -> list[tuple[tuple[slice, slice], bytes]]:
        """Rows and columns of each packet, and its stream."""
        s = self.spacing
        return [((np.s_[p % s :: s], np.s_[(2 * p + p // s) % s :: s]), data) for p, data in self.streams.items()]

    def packet(self, section: bytes, place: int) -> tuple[bytes, int, int, int]:
        """Head and number of the packet that may stand at a place, and where its stream starts and stops."""
        after = place + 1 + self.detail
        head = section[place:after]
        if section[place] < 16:
            return head, 0, after, place + len(section) - 2
        length, start = 0, after + 1
        for shift in (0, 7, 14, 21):
            if start >= len(section):
                return head, 0, start, start
            length |= (section[start] & 127) << shift
            start += 1
            if section[start - 1] < 128:
                if shift and not section[start - 1]:  # longer than it needs to be
                    return head, 0, start, start
                break
        return head, section[after], start, start + length


# The indices of profile vq


class Indices(Networks):
    """The map of indices of a section without damage, (height, width), given the tensors of the model, if any."""

    def __init__(self, section: bytes, tensors: dict[str, Whole], sizes: list[int], height: int, width: int) -> None:
        super().__init__(tensors, "prior.")
        packets = Packets(section, 0, (height, width))
        self.book = packets.head[0] % 16
        self.size, first = sizes[self.book], sum(sizes[: self.book])
        self.entries = slice(first, first + self.size)
        self.first, self.code = np.zeros(self.size, np.int64), np.zeros((self.size, 0), np.int64)
        if self.tensors:
            self.first, self.code = (self.tensors[name][self.entries] for name in ("first", "code"))
        self.indices = np.full((height, width), -1, np.int64)
        self.level = packets.level
        for place, data in packets.parts():
            self.map, self.stream = self.indices[place], Stream(data)
            self.read()
            self.stream.end()

    def read(self) -> None:
        rows, columns = self.map.shape
        for y, x in [(y, x) for y in range(0, rows, 16) for x in range(0, columns, 16)]:
            self.map[y, x] = self.number(self.first)
        for halving in (3, 2, 1, 0):
            self.refine(halving)

    def refine(self, halving: int) -> None:
        d, level = 2**halving, min(3, halving + self.level)
        first = self.map[:: 2 * d, :: 2 * d]
        known = [self.code[first]]
        for offset, (dy, dx) in enumerate(OFFSETS):
            current = self.map[dy * d :: 2 * d, dx * d :: 2 * d]
            rows, columns = current.shape
            logits = self.logits(level, offset, np.concatenate(known, 2))
            for row, column in np.ndindex(rows, columns):
                current[row, column] = self.number(logits[row, column])
            complete = first.copy()
            complete[:rows, :columns] = current
            known.append(self.code[complete])

    def logits(self, level: int, offset: int, known: Whole) -> Whole:
        if not self.tensors:
            return np.zeros((*known.shape[:2], self.size), np.int64)
        x = self.context(offset, known, self.tensors["condition"][level, offset, self.book])
        y = np.clip(x + np.clip(self.layer(f"steps.{offset}.mix", x), 0, 256), -256, 256)
        bias: Whole = self.tensors["bias"][level, offset, self.entries]
        return self.layer(f"output.{self.book}", y) + bias

    def number(self, logits: Whole) -> int:
        return self.stream.symbol(categories([int(x) for x in logits]))


def categories(logits: list[int]) -> list[int]:
    n, greatest = len(logits), max(logits)
    weights = [exponential(x - greatest, 64) * 2**24 // ONE for x in logits]
    room = 2**24 - n
    ratio = 2**29 * room // sum(weights)
    found = [1 + w * ratio // 2**29 for w in weights]
    found[logits.index(greatest)] += 2**24 - sum(found)
    return found


# Alpha


def alpha(body: bytes, height: int, width: int) -> Grid:
    """The samples of an alpha channel, by rows."""
    if not body:
        return [[255] * width for _ in range(height)]
    if body[0] > 3:
        raise UnknownError
    stream = zlib.decompressobj(-15)
    data = stream.decompress(body[1:], height * width + 1)
    if len(data) != height * width or not stream.eof or stream.unused_data:
        raise DamagedError
    d = [list(data[y * width : (y + 1) * width]) for y in range(height)]
    for y in range(height):
        for x in range(width):
            if body[0] & 1 and x:
                d[y][x] = (d[y][x] + d[y][x - 1]) % 256
    for y in range(1, height):
        for x in range(width):
            if body[0] & 2:
                d[y][x] = (d[y][x] + d[y - 1][x]) % 256
    return d


# Colour

D50 = (0xF6D6, 0x10000, 0xD32D)
D65_TO_D50 = (68674, 1502, -3291, 1939, 64912, -1119, -606, 988, 49262)
SRGB_CURVE, GAMMA_CURVE = (3, (157286, 62119, 3417, 5072, 2651)), (0, (144128,))
BT709 = ((28576, 14581, 912), (25239, 46983, 6361), (9375, 3972, 46787))
P3 = ((33759, 15807, -69), (19135, 45367, 2745), (10296, 4363, 51385))
ADOBE = ((39960, 20389, 1276), (13453, 41004, 3989), (9777, 4143, 48796))
SPACES = {
    1: ("sRGB", SRGB_CURVE, BT709),
    2: ("Display P3", SRGB_CURVE, P3),
    3: ("Adobe RGB (1998)", GAMMA_CURVE, ADOBE),
    4: ("Gamma 2.2", GAMMA_CURVE, BT709),
}


def colour(body: bytes, mode: int) -> bytes:
    """The ICC profile that a section colour stands for, in a file of this mode."""
    if not body:
        raise DamagedError
    if body[0]:
        if body[0] not in SPACES:
            raise UnknownError
        if len(body) > 1:
            raise DamagedError
        return space(body[0], grey=mode in (0, 2))
    stream = zlib.decompressobj(-15, zdict=space(1, grey=False))
    data = stream.decompress(body[1:], 2**24)
    if not stream.eof or stream.unused_data:
        raise DamagedError
    return data


def space(number: int, grey: bool) -> bytes:
    name, (kind, curve), primaries = SPACES[number]
    tags = {
        "desc": text(name + (" grey" if grey else "")),
        "cprt": text("CC0"),
        "wtpt": numbers("XYZ ", D50),
        "chad": numbers("sf32", D65_TO_D50),
    }
    for letter, primary in zip("" if grey else "rgb", primaries, strict=False):
        tags[letter + "XYZ"] = numbers("XYZ ", primary)
    for letter in "k" if grey else "rgb":
        tags[letter + "TRC"] = numbers("para", (kind << 16, *curve))
    table, data = struct.pack(">I", len(tags)), b""
    places: dict[bytes, int] = {}
    for name, tag in tags.items():
        if tag not in places:
            places[tag] = 132 + 12 * len(tags) + len(data)
            data += tag + bytes(-len(tag) % 4)
        table += name.encode() + struct.pack(">II", places[tag], len(tag))
    header = bytearray(128)
    header[0:4] = struct.pack(">I", 128 + len(table) + len(data))
    header[8:10] = b"\x04\x30"
    header[12:24] = b"mntr" + (b"GRAY" if grey else b"RGB ") + b"XYZ "
    header[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">3i", *D50)
    return bytes(header) + table + data


def text(words: str) -> bytes:
    utf16 = words.encode("utf-16-be")
    return b"mluc" + struct.pack(">III", 0, 1, 12) + b"enUS" + struct.pack(">II", len(utf16), 28) + utf16


def numbers(kind: str, values: Sequence[int]) -> bytes:
    return kind.encode() + bytes(4) + struct.pack(f">{len(values)}i", *values)
