"""From samples to the bytes of a function and back: fit, quantise, write, verify; read, synthesise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from codec.device import computing, resolve
from codec.overfit import bitstream, initial, synthesis
from codec.overfit.fit import Function, Schedule, fit
from codec.overfit.quantise import dequantise, quantise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codec.profiles import Settings

# (warm-up, main, settling) iterations by effort; the last is COOL-CHIC's own budget.
ITERATIONS = {
    1: (5, 60, 20), 2: (10, 150, 40), 3: (20, 300, 60), 4: (30, 600, 100), 5: (40, 1200, 150),
    6: (50, 2000, 250), 7: (60, 3000, 350), 8: (80, 6000, 600), 9: (100, 15000, 1000),
}  # fmt: skip
WEIGHTS_BUDGET = 860  # bytes that a function's weights may take
WEIGHTS_BUDGET_PIXELS = 768 * 512  # for a picture of up to so many pixels; for larger ones, more in proportion


def encode(samples: NDArray[np.float32], lam: float, settings: Settings) -> tuple[bytes, bytes]:
    """Fit a function to samples (channels, height, width) in 0..1; bodies of its sections.

    Args:
        lam: distortion that one bit per pixel may save.

    Raises:
        RuntimeError: the device is not there, or the bytes did not decode to what was written.
    """
    device = resolve(settings.device)
    schedule = Schedule(*ITERATIONS[settings.effort])
    with computing(device):
        target = torch.from_numpy(samples).unsqueeze(0).to(device)
        lambdas = torch.full((1,), lam, device=device)
        generator = torch.Generator(device).manual_seed(settings.seed)
        candidates = initial.candidates(target, lambdas)

        def report(done: int) -> None:
            if settings.progress:
                settings.progress(done, schedule.total)

        function = fit(target, lambdas, candidates, schedule, generator, report)
        budget = max(WEIGHTS_BUDGET, WEIGHTS_BUDGET * samples[0].size // WEIGHTS_BUDGET_PIXELS)
        [weights] = quantise(function, target, lambdas, budget)
        grids = [g[0].cpu().numpy().astype(np.int32) for g in function.grids]
    sections = bitstream.write(function.spec, weights, grids)
    _verify(sections, function, weights, grids)
    return sections


def _verify(
    sections: tuple[bytes, bytes],
    function: Function,
    weights: bitstream.QuantisedWeights,
    grids: list[bitstream.Integers],
) -> None:
    """Read back what was written; anything else than the same would be a file that shows another picture."""
    spec = function.spec
    read_spec, read_weights, read_grids = bitstream.read(*sections, spec.height, spec.width, spec.outputs)
    same = read_spec == spec and all(np.array_equal(a, b) for a, b in zip(grids, read_grids, strict=True))
    whole, read_whole = weights.whole(spec), read_weights.whole(spec)
    same &= all(np.array_equal(whole[name], read_whole[name]) for name in whole)
    if not same:
        raise RuntimeError("what was written does not read back the same: please report this with the picture")


def decode(
    weights: bytes, grids: bytes, height: int, width: int, outputs: int, device: str, *, truncated: bool
) -> NDArray[np.float32]:
    """Evaluate the function in these sections: (outputs, height, width), about 0..1 but not clipped."""
    spec, quantised, integers = bitstream.read(weights, grids, height, width, outputs, truncated=truncated)
    target = resolve(device)
    with computing(target):
        levels = [torch.from_numpy(g).float().unsqueeze(0).to(target) for g in integers]
        output = synthesis.synthesise(levels, dequantise(spec, quantised, target), spec)[0]
    return output.cpu().numpy()
