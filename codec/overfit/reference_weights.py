"""Reference weights, which a file's weights are differences to: functions that come with the format, as integers.

Number 0 is the plain function: bicubic upsampling, all else zero. The next were trained on photos, for the lambdas
of `LAMBDAS`; they are part of the format, and `docs/FORMAT.md` gives the hash of their file. The last are the same in
wider functions, whose other weights are zero. NumPy only.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import deserialize

from codec.container import CorruptError, UnsupportedError
from codec.entropy.integer_arm import WEIGHT_BITS
from codec.overfit.spec import BICUBIC, Spec

LAMBDAS = (0.032, 0.008, 0.002, 0.0005, 0.000125)
PLAIN = 0
TRAINED = range(1, 1 + len(LAMBDAS))
WIDENED = range(TRAINED.stop, TRAINED.stop + len(LAMBDAS))
OUTPUTS = 3  # of the trained functions
FILE = Path(__file__).with_name("functions.safetensors")
SHA256 = "6e97f7105c0ecd145e230ec54f7f567e0080afc582e3c5a163f1247b8630c4aa"

ReferenceWeights = dict[str, NDArray[np.int64]]


def trained_spec(height: int, width: int, outputs: int) -> Spec:
    """The shape of the trained functions."""
    return Spec(height, width, outputs, features=(1,) * 7, spatial=14, references=2, hidden=16, residuals=2)


def weights(number: int, spec: Spec) -> ReferenceWeights:
    """The reference weights of a number, integers in units of 2**-12, shaped as `Spec.weight_shapes`.

    Raises:
        UnsupportedError: there are none of this number yet.
        CorruptError: they do not have the shape of the function.
    """
    if number == PLAIN:
        return _plain(spec)
    if number >= WIDENED.stop:
        raise UnsupportedError(f"reference weights {number} are not known to this version: please update pillow-clric")
    trained = _trained(1 + (number - 1) % len(LAMBDAS), spec.outputs)
    if not (_alike(trained, spec) if number in TRAINED else _wider(spec)):
        raise CorruptError(
            f"the function does not have the shape of its reference weights {number}: the file is damaged"
        )
    return trained if number in TRAINED else _widened(trained, spec)


def numbers(spec: Spec) -> list[int]:
    """The numbers of all reference weights that a function of this shape has use for: the plain ones come first."""
    if _alike(_trained(1, spec.outputs), spec):
        return [PLAIN, *TRAINED]
    return [PLAIN, *WIDENED] if _wider(spec) else [PLAIN]


def _alike(weights: ReferenceWeights, spec: Spec) -> bool:
    """Whether they are the weights of a function of this shape."""
    return {name: w.shape for name, w in weights.items()} == spec.weight_shapes


def _wider(spec: Spec) -> bool:
    """Whether nothing of this shape is less than in the trained functions, and all is alike but its three widths."""
    least = trained_spec(spec.height, spec.width, spec.outputs)
    widths = {name: getattr(least, name) for name in ("spatial", "references", "hidden")}
    return replace(spec, **widths) == least and all(getattr(spec, name) >= n for name, n in widths.items())


def _widened(trained: ReferenceWeights, spec: Spec) -> ReferenceWeights:
    """Trained weights in a wider function: of its contexts, those nearest in space and the planes just before."""
    least = trained_spec(spec.height, spec.width, spec.outputs)
    contexts = [*range(least.spatial), *range(spec.spatial, spec.spatial + least.references)]
    weights = {name: np.zeros(shape, np.int64) for name, shape in spec.weight_shapes.items()}
    for name, w in trained.items():
        of_arm = name.startswith("arm.")
        weights[name][np.ix_(*(contexts if of_arm and n == least.contexts else range(n) for n in w.shape))] = w
    return weights


def _plain(spec: Spec) -> ReferenceWeights:
    weights = {name: np.zeros(shape, np.int64) for name, shape in spec.weight_shapes.items()}
    weights["upsampling.taps"] += np.array([round(tap * 2**WEIGHT_BITS) for tap in BICUBIC])
    return weights


@cache
def _trained(number: int, outputs: int) -> ReferenceWeights:
    """One of the trained functions; with other than three outputs, each shows what it would of a grey picture."""
    weights = {name: w[number - 1].astype(np.int64) for name, w in _stored().items()}
    if outputs == OUTPUTS:
        return weights
    for name, w in weights.items():
        if name.startswith("synthesis.residual") and not name.endswith("bias"):
            w = np.eye(outputs, dtype=np.int64)[:, :, None, None] * (w.sum((0, 1)) // OUTPUTS)
        elif name.startswith(("synthesis.residual", "synthesis.output")):
            w = (w.sum(0, keepdims=True) // OUTPUTS).repeat(outputs, 0)
        weights[name] = w
    return weights


@cache
def _stored() -> dict[str, NDArray[np.int16]]:
    """All trained functions, as their file has them."""
    contents = FILE.read_bytes()
    if sha256(contents).hexdigest() != SHA256:  # files would silently show other pictures
        raise RuntimeError(f"{FILE} is not the one that belongs to this version: please install pillow-clric again")
    stored = dict(deserialize(contents))  # type: ignore[no-untyped-call]
    return {name: np.frombuffer(told["data"], "<i2").reshape(told["shape"]) for name, told in stored.items()}
