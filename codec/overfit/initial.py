"""Where a fit starts: functions trained on photos, one for each of some lambdas, and a guess of the grids.

They save the encoder iterations. No reader needs them, and a file does not depend on them.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.overfit.analysis import Analysis
from codec.overfit.fit import Function, Weights
from codec.overfit.function import BICUBIC, Spec

LAMBDAS = (0.032, 0.008, 0.002, 0.0005, 0.000125)
LEVELS = 7
CHANNELS = 3
FILE = Path(__file__).with_name("initial.safetensors")


def spec(height: int, width: int, outputs: int) -> Spec:
    """The function that the trained weights are for."""
    return Spec(height, width, outputs, features=(1,) * LEVELS, spatial=14, references=2, hidden=16, residuals=2)


def candidates(target: Tensor, lambdas: Tensor) -> list[Function]:
    """Starting points for fits to pictures: the trained functions for the two lambdas nearest to each target's.

    Args:
        target: (batch, 1 or 3, height, width), samples in 0..1.
        lambdas: (batch,).
    """
    weights, analysis = _load(target.device)
    outputs, height, width = target.shape[1:]
    with torch.no_grad():
        grids = analysis(target.expand(-1, CHANNELS, -1, -1))
        distance = (lambdas.log().unsqueeze(1) - lambdas.new_tensor(LAMBDAS).log()).abs()
        nearest = distance.topk(2, largest=False).indices
        return [
            Function(
                spec(height, width, outputs),
                _for_outputs({name: w[which] for name, w in weights.items()}, outputs),
                analysis.scale(grids, which),
            )
            for which in nearest.T
        ]


def _for_outputs(weights: Weights, outputs: int) -> Weights:
    """The same function with one output: what it shows of a picture whose channels are all alike."""
    if outputs == CHANNELS:
        return weights
    grey = dict(weights)
    for name in weights:
        if name.startswith("synthesis.residual") and not name.endswith("bias"):
            grey[name] = weights[name].sum(2, keepdim=True).mean(1, keepdim=True)
        elif name.startswith(("synthesis.residual", "synthesis.output")):
            grey[name] = weights[name].mean(1, keepdim=True)
    return grey


@cache
def _load(device: torch.device) -> tuple[Weights, Analysis]:
    tensors = {name: tensor.float() for name, tensor in load_file(FILE, device=str(device)).items()}
    analysis = Analysis(CHANNELS, len(LAMBDAS)).to(device).requires_grad_(False)
    parts: dict[str, dict[str, Tensor]] = {"function": {}, "analysis": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    analysis.load_state_dict(parts["analysis"])
    return parts["function"], analysis


def export(weights: Weights, analysis: Analysis, path: Path = FILE) -> None:
    """Write trained weights as the package's file (float16)."""
    tensors = {f"function.{k}": v for k, v in weights.items()}
    tensors |= {f"analysis.{k}": v for k, v in analysis.state_dict().items()}
    save_file({k: v.detach().half().cpu().contiguous() for k, v in tensors.items()}, path)


def plain_weights(spec: Spec, batch: int, generator: torch.Generator) -> Weights:
    """Where training starts: random where layers must differ, bicubic upsampling, zero otherwise; (batch, ...) each."""
    gains = {"arm.hidden1": 0.3, "arm.hidden2": 0.3, "synthesis.hidden": 1 / 16, "synthesis.output": 1.0}
    weights = {}
    for name, shape in spec.weight_shapes.items():
        weights[name] = torch.zeros(batch, *shape)
        if name == "upsampling.taps":
            weights[name] += torch.tensor(BICUBIC)
        elif name in gains:
            weights[name] = torch.randn(batch, *shape, generator=generator) * gains[name] / math.sqrt(shape[-1])
    weights["synthesis.output_bias"] += 0.5
    return weights
