"""The alpha channel: lossless, as differences between neighbours, deflated; and colours for where it hides them.

Of the codecs that any Python reads for ever, deflate is the best one; lossless WebP would take a fifth less.
"""

from __future__ import annotations

import zlib
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codec.container import Container, CorruptError, Section, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

Samples = NDArray[np.uint8]

_AXES = ((), (1,), (0,), (0, 1))  # along which there are differences, by the body's first byte
_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_RLE)  # noise along edges takes less if no repetitions are looked for
_RAW = -15  # no header and no checksum of deflate's own


def encode(alpha: Samples) -> bytes:
    """Body of the section for samples (height, width): the smallest that there is; none if all are opaque."""
    if alpha.min() == 255:
        return b""
    ways = product(range(len(_AXES)), _STRATEGIES)
    return min((bytes([way]) + _deflated(_differences(alpha, _AXES[way]), strategy) for way, strategy in ways), key=len)


def _differences(alpha: Samples, axes: tuple[int, ...]) -> Samples:
    for axis in axes:
        alpha = np.diff(alpha, axis=axis, prepend=np.uint8(0))
    return alpha


def _deflated(samples: Samples, strategy: int) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, _RAW, 9, strategy)
    return stream.compress(samples.tobytes()) + stream.flush()


def decode(container: Container, scale: int = 1) -> Samples | None:
    """The alpha channel (height, width) of a file, or None if its mode has none.

    What is missing of a truncated file is opaque. With a scale other than 1 it is made smaller, as `codec.decode` says.

    Raises:
        CorruptError: the section is damaged, or is there and should not be, or the other way round.
        UnsupportedError: it is coded in a way that is not known.
    """
    header = container.header
    if header.has_alpha != (Section.ALPHA in header.spans):
        raise CorruptError(
            f"file is damaged: its mode is {header.mode}, which its sections do not agree with; get it again"
        )
    if not header.has_alpha:
        return None
    body, (_, length) = container.sections[Section.ALPHA], header.spans[Section.ALPHA]
    shape = header.height, header.width
    if not length or len(body) < length:
        return np.full([-(-side // scale) for side in shape], 255, np.uint8)
    if body[0] >= len(_AXES):
        raise UnsupportedError(f"alpha channel of kind {body[0]} is not known to this version: update pillow-clric")
    alpha = _inflated(body[1:], header.height * header.width).reshape(shape)
    for axis in _AXES[body[0]]:
        alpha = np.add.accumulate(alpha, axis, np.uint8)
    return alpha if scale == 1 else _shrunk(alpha, scale)


def _shrunk(alpha: Samples, scale: int) -> Samples:
    """Means over blocks of `scale` x `scale`, which the lower and right edge cut off."""
    total, count = alpha.astype(np.uint32), np.ones(alpha.shape, np.uint32)
    for axis, length in enumerate(alpha.shape):
        starts = np.arange(0, length, scale)
        total, count = (np.add.reduceat(numbers, starts, axis) for numbers in (total, count))
    return np.rint(total / count).astype(np.uint8)


def _inflated(data: bytes, count: int) -> Samples:
    """The stream's bytes, which must be so many; never more are made, whatever it holds."""
    stream = zlib.decompressobj(_RAW)
    try:
        found = stream.decompress(data, count + 1)
    except zlib.error as error:
        raise CorruptError("file is damaged: its alpha channel cannot be inflated; get the file again") from error
    if len(found) != count or not stream.eof or stream.unused_data:
        raise CorruptError("file is damaged: its alpha channel has another size than the picture; get the file again")
    return np.frombuffer(found, np.uint8)


def filled(colours: Samples, alpha: Samples) -> Samples:
    """Colours in which those of fully transparent pixels, which nobody sees, go on smoothly from those of the others.

    Args:
        colours: (height, width) or (height, width, 3).
        alpha: (height, width).
    """
    if alpha.all():
        return colours
    import torch

    from codec.device import computing

    samples = torch.from_numpy(np.array(colours)).view(*alpha.shape, -1).permute(2, 0, 1).float()
    with computing(samples.device), torch.no_grad():
        smooth = _filled(samples[None], torch.from_numpy(alpha > 0).float()[None, None])
    return smooth[0].permute(1, 2, 0).round().to(torch.uint8).numpy().reshape(colours.shape)


def _filled(samples: Tensor, seen: Tensor) -> Tensor:
    """Samples (1, channels, height, width): from a coarser copy where they are not seen, and so on."""
    from torch.nn.functional import avg_pool2d, interpolate

    if seen.all() or seen.numel() == 1:
        return samples * seen
    weight = avg_pool2d(seen, 2, ceil_mode=True)
    mean = avg_pool2d(samples * seen, 2, ceil_mode=True) / weight.clamp(min=1e-3)
    below = _filled(mean, (weight > 0).float())
    return samples.where(seen > 0, interpolate(below, size=seen.shape[2:], mode="bilinear"))
