"""Shape of an overfitted function: its grids, and the shapes of its weights.

A function is described by a `Spec`, which a file carries in a few bytes, and holds its weights as a plain
dictionary of tensors. Every tensor has a leading batch axis: over images, candidates or lambdas.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from codec.container import CorruptError, LimitError
from codec.entropy.integer_arm import MAX_CONTEXTS
from codec.runtime import cached_property

# Causal neighbours (row, column offset), nearest first. Offsets to the right stay within 2 * |row| - 1 columns, so
# that all positions with the same `column + 2 * row` can be coded at once (the wavefront).
SPATIAL_CONTEXTS: tuple[tuple[int, int], ...] = (
    (0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-2, -1), (-2, 1), (-1, -2), (0, -3), (-3, 0), (-2, -2),
    (-2, 2), (-3, -1), (-3, 1), (-1, -3), (-2, 3), (0, -4), (-3, 2), (-3, -2), (-4, 0), (-2, -3), (-3, 3), (-1, -4),
)  # fmt: skip
MARGIN = 4  # no context lies further away than this, in rows or columns

# Fields of a shape: name, bits, smallest value. The bits bound what a reader allocates.
FIELDS = (("spatial", 5, 1), ("references", 4, 0), ("hidden", 6, 1), ("residuals", 2, 0))
FLAGS = ("separate", "linear")  # only where there are models
MAX_REFERENCES = 2**4 - 1
LEVELS_BITS = 4
FEATURES_BITS = {False: 4, True: 7}  # by whether there are models: latents have many channels
MAX_SAMPLES = 2**31  # features in all times the picture's pixels: bounds a reader's memory
MAX_WAVES = 2**20  # of planes that are coded one after the other: bounds a reader's time

# Free taps of a symmetric filter of 8: Keys' cubic (a = -1/2) a quarter of a sample away.
BICUBIC = (-0.0234375, 0.2265625, 0.8671875, -0.0703125)


@dataclass(frozen=True)
class Plane:
    """One feature of one resolution: the unit that is coded at a time."""

    level: int  # its resolution is 1 / 2**level
    feature: int  # its place among the features of that resolution
    height: int
    width: int


@dataclass(frozen=True)
class Spec:
    """The shape of a function.

    Attributes:
        height, width: of its output, in samples.
        outputs: channels of its output.
        features: number of features at resolution 1/1, 1/2, 1/4 ...
        spatial: causal contexts within a plane, the first of `SPATIAL_CONTEXTS`.
        references: planes coded just before whose co-located value is a context too.
        hidden: width of the synthesis' hidden 1x1 layer.
        residuals: number of residual 3x3 layers after it.
        separate: whether each plane has a probability model of its own; planes of one resolution are coded together
            then, and all before a plane in it are references at the same place.
        linear: whether a linear function of the features is added to the output of the 1x1 layers.
    """

    height: int
    width: int
    outputs: int
    features: tuple[int, ...]
    spatial: int = 12
    references: int = 2
    hidden: int = 16
    residuals: int = 2
    separate: bool = False
    linear: bool = False

    def check(self) -> None:
        """Refuse shapes that no function has.

        Raises:
            CorruptError: there are no such contexts.
            LimitError: it is too large.
        """
        if self.spatial > len(SPATIAL_CONTEXTS) or self.contexts > MAX_CONTEXTS:
            raise CorruptError(f"the function has {self.contexts} contexts, more than there are: the file is damaged")
        count = sum(self.features)
        if count * self.height * self.width > MAX_SAMPLES:
            raise LimitError(
                f"file claims {count} features of {self.width} x {self.height} samples: the format has at most "
                f"{MAX_SAMPLES} samples; do not trust this file"
            )
        waves = sum(self.planes[group.start].width + 2 * self.planes[group.start].height for group in self.groups)
        if waves > MAX_WAVES:
            raise LimitError(
                f"file claims {len(self.groups)} groups of planes of up to {self.width} x {self.height} samples, which "
                f"take {waves} steps: the format has at most {MAX_WAVES}; do not trust this file"
            )

    @property
    def contexts(self) -> int:
        """Inputs of the probability model, which is also the width of its hidden layers."""
        return self.spatial + self.references

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) by level, finest first: halved and rounded up at each."""
        return tuple((-(-self.height // 2**i), -(-self.width // 2**i)) for i in range(len(self.features)))

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        """All planes in coding order: coarse to fine."""
        levels = reversed(range(len(self.features)))
        return tuple(Plane(i, j, *self.sizes[i]) for i in levels for j in range(self.features[i]))

    @cached_property
    def groups(self) -> tuple[range, ...]:
        """Groups of planes that are coded together, by their places in the coding order."""
        if not self.separate:
            return tuple(range(i, i + 1) for i in range(len(self.planes)))
        ends = list(accumulate(reversed(self.features)))
        return tuple(range(end - count, end) for end, count in zip(ends, reversed(self.features), strict=True))

    @cached_property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each weight, without the batch axis, by name: `module.what`."""
        c, k, n = self.contexts, self.hidden, self.outputs
        models = (len(self.planes),) if self.separate else ()
        shapes: dict[str, tuple[int, ...]] = {
            "arm.hidden1": (*models, c, c),
            "arm.hidden1_bias": (*models, c),
            "arm.hidden2": (*models, c, c),
            "arm.hidden2_bias": (*models, c),
            "arm.output": (*models, 2, c),
            "arm.stabiliser": (*models, 2, c),
            "arm.output_bias": (2, len(self.planes)),
            "upsampling.taps": (len(self.features) - 1, len(BICUBIC)),
            "synthesis.hidden": (k, sum(self.features)),
            "synthesis.hidden_bias": (k,),
            "synthesis.output": (n, k),
            "synthesis.output_bias": (n,),
        }
        if self.linear:
            shapes["synthesis.linear"] = (n, sum(self.features))
        for i in range(1, self.residuals + 1):
            shapes[f"synthesis.residual{i}"] = (n, n, 3, 3)
            shapes[f"synthesis.residual{i}_bias"] = (n,)
        return shapes
