"""Checks that this machine decodes as all others do and reads what it wrote: errors are better than wrong pictures."""

from __future__ import annotations

from functools import cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from codec.entropy.coder import Decoder
from codec.entropy.integer_arm import WEIGHT_BITS, IntegerARM
from codec.entropy.wavefront import code_planes

SHAPE = 5, 8
OFFSETS = (0, -1), (-1, 0), (-1, 1), (-2, -1)
CONTEXTS = len(OFFSETS) + 2
STREAM = bytes(i * i * 7 % 251 for i in range(1, 200))
SYMBOLS = 0xE64CDDDC  # CRC-32 of what is decoded


@cache
def check() -> None:
    """Decode a short stream, once in a process: range coder, tables, and products of 46 bits that nearly cancel out.

    Raises:
        RuntimeError: its symbols are not what they are on other machines.
    """
    known = _whole(*SHAPE, bits=14).astype(np.int32)[::2, ::2]
    stream, coded = Decoder(STREAM), np.array([True, False, True])
    planes = code_planes(stream, [(known, 1), None], None, coded, _model(), OFFSETS, SHAPE)
    symbols = np.append(planes, [stream.uniform(0, bits) for bits in range(1, 17)])
    if crc32(symbols.astype("<i4").tobytes()) != SYMBOLS:
        raise RuntimeError(
            "this machine decodes numbers wrongly, so that pictures would be wrong: install other versions of numpy "
            "and constriction, or use another machine"
        )


def check_read_back(same: bool) -> None:
    """Refuse what was written if it does not read back the same: it would show another picture.

    Raises:
        RuntimeError: it does not.
    """
    if not same:
        raise RuntimeError("what was written does not read back the same: please report this with the picture")


def _model() -> IntegerARM:
    """Networks for two planes whose hidden units are the same in pairs, which the output weighs by about +w and -w."""
    bits = {"hidden1": 12, "hidden1_bias": 20, "hidden2": 9, "hidden2_bias": 12, "output": 19, "stabiliser": 2}
    shapes = {name: (2, CONTEXTS) if name.endswith("bias") else (2, CONTEXTS, CONTEXTS) for name in bits}
    weights = {name: _whole(*shapes[name], bits=count) for name, count in bits.items()}
    for name in ("hidden1", "hidden1_bias", "hidden2", "hidden2_bias"):
        weights[name][:, 1::2] = weights[name][:, ::2]
    weights["hidden1"] -= np.eye(CONTEXTS) * 2**WEIGHT_BITS  # which is added again
    weights["output"][:, 0, 1::2] = weights["output"][:, 1, ::2] // 2**14 - weights["output"][:, 0, ::2]
    weights["output"][:, 1] = -np.eye(CONTEXTS)[0]  # small scales, whose tables are made quickly
    weights["stabiliser"][:, 1] = 0
    for name in ("output", "stabiliser"):
        weights[name] = weights[name][:, :2]
    return IntegerARM(**weights, output_bias=np.array([[0.0, -512.0]] * 2))


def _whole(*shape: int, bits: int) -> NDArray[np.float64]:
    """Whole numbers of so many bits and a sign, which seem random and are the same everywhere."""
    numbers = np.arange(np.prod(shape), dtype=np.int64) * 2654435761 % 2**32 >> 31 - bits
    return np.array(numbers - 2**bits, np.float64).reshape(shape)
