"""Pictures as samples and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_ROWS = 32  # of a picture that become pixels at a time


def to_tensor(pictures: Sequence[NDArray[np.uint8]], device: torch.device) -> torch.Tensor:
    """Pictures (height, width) or (height, width, channels) as one batch of samples in 0..1.

    Returns:
        (batch, channels, height, width), as high and wide as the highest and the widest; others have their last row
        and column repeated.
    """
    import numpy as np
    import torch

    height, width = (max(picture.shape[dim] for picture in pictures) for dim in (0, 1))
    channels = pictures[0].shape[2] if pictures[0].ndim == 3 else 1
    batch = torch.empty(len(pictures), channels, height, width, device=device)
    for samples, picture in zip(batch, pictures, strict=True):
        h, w = picture.shape[:2]
        samples[:, :h, :w] = torch.from_numpy(np.array(picture)).to(device).view(h, w, channels).permute(2, 0, 1)
        samples[:, :h, w:] = samples[:, :h, w - 1 : w]
        samples[:, h:] = samples[:, h - 1 : h]
    return batch.div_(255)


def from_rgb(picture: NDArray[np.float32], channels: int) -> NDArray[np.uint8]:
    """Pixels as `to_pixels` gives them, with 3 channels or 1, of a picture (3, height, width).

    A picture of one channel is the mean of the three.
    """
    return to_pixels(picture if channels == 3 else picture.mean(0, keepdims=True))


def to_pixels(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(channels, height, width) to (height, width, channels); one channel gives a picture without an axis for it."""
    import numpy as np

    count, height, width = samples.shape
    pixels = np.empty((height, width, count), np.uint8)
    for row in range(0, height, _ROWS):  # temporaries of a large picture would take more memory than all else
        # Samples overflow to NaN only by the weights of a file made to do harm; of NaN and 0, `fmax` takes 0.
        bounded = np.fmin(np.fmax(samples[:, row : row + _ROWS], 0), 1)
        pixels[row : row + _ROWS] = np.rint(bounded * 255).transpose(1, 2, 0)
    return pixels[:, :, 0] if count == 1 else pixels
