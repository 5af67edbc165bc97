"""Where a fit starts: the trained base functions, and a guess of the grids.

The guess saves the encoder iterations. No reader needs it, and a file does not depend on it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from codec.overfit.analysis import Analysis
from codec.overfit.bases import LAMBDAS, OUTPUTS, base_weights, trained_spec
from codec.overfit.fit import Function, Weights
from codec.overfit.function import Spec
from codec.overfit.quantise import as_tensors

FILE = Path(__file__).with_name("analysis.safetensors")


def candidates(target: Tensor, lambdas: Tensor) -> list[Function]:
    """Starting points for fits to pictures: the base functions for the two lambdas nearest to each target's.

    Args:
        target: (batch, 1 or 3, height, width), samples in 0..1.
        lambdas: (batch,).
    """
    analysis = _analysis(target.device)
    spec = trained_spec(target.shape[2], target.shape[3], target.shape[1])
    distance = (lambdas.log().unsqueeze(1) - lambdas.new_tensor(LAMBDAS).log()).abs()
    nearest = distance.topk(2, largest=False).indices
    with torch.no_grad():
        guess = analysis(target.expand(-1, OUTPUTS, -1, -1))
        return [Function(spec, functions(spec, which), analysis.scale(guess, which)) for which in nearest.T]


def functions(spec: Spec, which: Tensor) -> Weights:
    """Weights of trained functions, (batch, ...) each; which (batch,) counts from 0."""
    bases = [as_tensors(base_weights(1 + i, spec), which.device) for i in range(len(LAMBDAS))]
    return {name: torch.cat([base[name] for base in bases])[which] for name in spec.weight_shapes}


@cache
def _analysis(device: torch.device) -> Analysis:
    analysis = Analysis(OUTPUTS, len(LAMBDAS)).to(device).requires_grad_(False)
    analysis.load_state_dict({name: tensor.float() for name, tensor in load_file(FILE, device=str(device)).items()})
    return analysis
