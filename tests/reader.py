"""Another reader, written from docs/FORMAT.md alone: slow and plain, whole numbers of Python, nothing of the codec.

What it reads is what the format says, so the tests hold the codec's reader against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import accumulate
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
        ends = accumulate(frequencies)
        symbol, end = next((s, end) for s, end in enumerate(ends) if quantile < end)
        self.offset -= unit * (end - frequencies[symbol])
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


def shapes(
    levels: int, planes: int, contexts: int, hidden: int, residuals: int, outputs: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors in the order of a file."""
    for layer in ("arm.hidden1", "arm.hidden2"):
        yield layer, (contexts, contexts)
        yield layer + "_bias", (contexts,)
    yield from (("arm.output", (2, contexts)), ("arm.stabiliser", (2, contexts)), ("arm.output_bias", (2, planes)))
    yield "upsampling.taps", (levels - 1, 4)
    yield from (("synthesis.hidden", (hidden, planes)), ("synthesis.hidden_bias", (hidden,)))
    yield from (("synthesis.output", (outputs, hidden)), ("synthesis.output_bias", (outputs,)))
    for r in range(1, residuals + 1):
        yield f"synthesis.residual{r}", (outputs, outputs, 3, 3)
        yield f"synthesis.residual{r}_bias", (outputs,)


def trained_base(number: int, outputs: int) -> dict[str, Whole]:
    data, position = BASES.read_bytes(), BASES_HEADER
    sizes = dict(shapes(levels=7, planes=7, contexts=16, hidden=16, residuals=2, outputs=3))
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


def mean(b: Whole, outputs: int) -> Whole:
    return np.array([(b[0] + b[1] + b[2]) // 3 for _ in range(outputs)])


class Function:
    """Shape, weights and grids in coding order, from the two bodies."""

    def __init__(self, weights: bytes, grids: bytes, height: int, width: int, outputs: int) -> None:
        stream = Stream(weights)
        self.levels = stream.bits(4) + 1
        self.features = [stream.bits(4) + 1 for _ in range(self.levels)]
        self.spatial, self.references = stream.bits(5) + 1, stream.bits(4)
        self.hidden, self.residuals = stream.bits(6) + 1, stream.bits(2)
        self.outputs = outputs
        self.sizes = [(-(-height // 2**level), -(-width // 2**level)) for level in range(self.levels)]
        self.planes = [level for level in range(self.levels)[::-1] for _ in range(self.features[level])]
        self.integers: dict[str, Whole] = {}
        self.exponents: dict[str, int] = {}
        self.base = stream.bits(4)
        for name, shape in self.shapes():
            self.exponents[name], scale = stream.bits(4), stream.bits(6)
            count = int(np.prod(shape))
            numbers = stream.run([0] * count, [scale] * count) if count else []
            self.integers[name] = np.array(numbers, np.int64).reshape(shape)
        self.whole = self.whole_weights()
        empty = [stream.bits(1) for _ in self.planes]
        stream.end()
        stream = Stream(grids)
        self.grids: list[Grid] = []
        for index, level in enumerate(self.planes):
            rows, columns = self.sizes[level]
            self.grids.append([[0] * columns for _ in range(rows)])
            if not empty[index]:
                self.read_grid(stream, index)
        stream.end()

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        contexts = self.spatial + self.references
        return shapes(self.levels, len(self.planes), contexts, self.hidden, self.residuals, self.outputs)

    def whole_weights(self) -> dict[str, Whole]:
        """Weights in units of 2^-12."""
        if self.base > BASES_COUNT:
            raise UnknownError
        base = {name: np.zeros(shape, np.int64) for name, shape in self.shapes()}
        base["upsampling.taps"] += TAPS
        if self.base:
            trained = trained_base(self.base, self.outputs)
            if {name: b.shape for name, b in trained.items()} != dict(self.shapes()):
                raise DamagedError
            base = trained
        whole = {}
        for name, integers in self.integers.items():
            if self.exponents[name] > 12:
                raise DamagedError
            whole[name] = base[name] + integers * 2 ** (12 - self.exponents[name])
            if name.startswith("arm.") and (np.abs(whole[name]) >= 2**20).any():
                raise DamagedError
        return whole

    def read_grid(self, stream: Stream, index: int) -> None:
        grid = self.grids[index]
        height, width = len(grid), len(grid[0])
        model = self.model(index)
        for wave in range(width + 2 * height):
            places = [(y, wave - 2 * y) for y in range(height) if 0 <= wave - 2 * y < width]
            if places:
                distributions = [model(self.contexts(index, y, x)) for y, x in places]
                means, scales = zip(*distributions, strict=True)
                for (y, x), value in zip(places, stream.run(means, scales), strict=True):
                    grid[y][x] = value

    def contexts(self, index: int, y: int, x: int) -> list[int]:
        grid = self.grids[index]
        found = []
        for dy, dx in CONTEXTS[: self.spatial]:
            inside = y + dy >= 0 and 0 <= x + dx < len(grid[0])
            found.append(grid[y + dy][x + dx] if inside else 0)
        for other in range(index - 1, index - 1 - self.references, -1):
            shift = self.planes[other] - self.planes[index] if other >= 0 else 0
            found.append(self.grids[other][y >> shift][x >> shift] if other >= 0 else 0)
        return found

    def model(self, index: int) -> Callable[[list[int]], tuple[int, int]]:
        """From contexts to mean and scale."""
        names = ("hidden1", "hidden1_bias", "hidden2", "hidden2_bias", "output", "stabiliser", "output_bias")
        a1, b1, a2, b2, o, s, b3 = (self.whole[f"arm.{name}"].tolist() for name in names)

        def clip(x: int) -> int:
            return min(max(x, 0), 2**27)

        def dot(row: list[int], inputs: list[int]) -> int:
            return sum(w * x for w, x in zip(row, inputs, strict=True))

        def distribution(c: list[int]) -> tuple[int, int]:
            u = [clip(4096 * x + dot(row, c) + b) for x, row, b in zip(c, a1, b1, strict=True)]
            v = [clip(x + (dot(row, u) + 4096 * b) // 4096) for x, row, b in zip(u, a2, b2, strict=True)]
            w = [dot(o[k], v) + 4096 * dot(s[k], c) + 4096 * b3[k][index] for k in (0, 1)]
            mean, scale = (w[0] + 2**19) >> 20, 24 + ((w[1] + 2**20) >> 21)
            return min(max(mean, -16 * 16383), 16 * 16383), min(max(scale, 0), 63)

        return distribution

    def weight(self, name: str) -> Floats:
        return self.whole[name] / 4096

    def output(self) -> Floats:
        """(outputs, height, width)."""
        by_level: list[list[Grid]] = [[] for _ in self.features]
        for level, grid in zip(self.planes, self.grids, strict=True):
            by_level[level].append(grid)
        features = np.empty((0, 1, 1))
        for level in range(self.levels)[::-1]:
            grids = np.array(by_level[level], np.float64)
            if len(features):
                for axis in (1, 2):
                    features = double(features, self.weight("upsampling.taps")[level], axis)
                features = features[:, : grids.shape[1], : grids.shape[2]]
            features = np.concatenate([grids, features.reshape(-1, *grids.shape[1:])])
        return self.synthesis(features)

    def synthesis(self, features: Floats) -> Floats:
        reach = self.residuals
        x = np.pad(features, ((0, 0), (reach, reach), (reach, reach)), "edge")
        for layer in ("synthesis.hidden", "synthesis.output"):
            x = np.einsum("ij,jyx->iyx", self.weight(layer), x) + self.weight(layer + "_bias")[:, None, None]
            x = np.maximum(x, 0) if layer == "synthesis.hidden" else x
        for r in range(1, self.residuals + 1):
            windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
            kernel, bias = self.weight(f"synthesis.residual{r}"), self.weight(f"synthesis.residual{r}_bias")
            x = x[:, 1:-1, 1:-1] + np.einsum("ijkl,jyxkl->iyx", kernel, windows) + bias[:, None, None]
        return x


def double(x: Floats, taps: Floats, axis: int) -> Floats:
    x = np.moveaxis(x, axis, -1)
    n = x.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (2, 2)), "edge")
    left = sum(taps[k] * x[..., k : k + n] for k in range(4))
    right = sum(taps[k] * x[..., 4 - k : 4 - k + n] for k in range(4))
    return np.moveaxis(np.stack([left, right], -1).reshape(*x.shape[:2], -1), -1, axis)
