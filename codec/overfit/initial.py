"""Where a fit starts: functions trained on photos, one for each of some lambdas, or plain ones."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from codec.overfit.analysis import Analysis
from codec.overfit.fit import Function
from codec.overfit.function import BICUBIC, Spec

LAMBDAS = (0.032, 0.008, 0.002, 0.0005, 0.000125)
LEVELS = 7


def spec(height: int, width: int, outputs: int) -> Spec:
    """The function that the trained weights are for."""
    return Spec(height, width, outputs, features=(1,) * LEVELS, spatial=14, references=2, hidden=16, residuals=2)


def plain_weights(spec: Spec, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights for the layers that must differ, bicubic upsampling, zero for the rest; (batch, ...) each."""
    weights = {}
    for name, shape in spec.weight_shapes.items():
        value = torch.zeros(batch, *shape, device=generator.device)
        if name == "upsampling.taps":
            value += torch.tensor(BICUBIC, device=generator.device)
        elif name in ("arm.hidden1", "arm.hidden2", "synthesis.hidden", "synthesis.output"):
            value = torch.randn(batch, *shape, generator=generator, device=generator.device) / math.sqrt(shape[-1])
        weights[name] = value * {"arm.hidden1": 0.3, "arm.hidden2": 0.3, "synthesis.hidden": 1 / 16}.get(name, 1)
    weights["synthesis.output_bias"] += 0.5
    return weights


def export(weights: dict[str, Tensor], analysis: Analysis, path: Path) -> None:
    """Write trained weights as the package's safetensors file (float16)."""
    from safetensors.torch import save_file

    tensors = {f"function.{k}": v for k, v in weights.items()}
    tensors |= {f"analysis.{k}": v for k, v in analysis.state_dict().items()}
    save_file({k: v.detach().half().contiguous() for k, v in tensors.items()}, path)


def candidates(target: Tensor, lambdas: Tensor, generator: torch.Generator) -> list[Function]:
    """Starting points for a fit to target (batch, outputs, height, width)."""
    batch, outputs, height, width = target.shape
    shape = spec(height, width, outputs)
    plain = []
    for _ in range(3):
        weights = {n: w.to(target.device) for n, w in plain_weights(shape, batch, generator).items()}
        grids = [target.new_zeros(batch, n, *size) for n, size in zip(shape.features, shape.sizes, strict=True)]
        plain.append(Function(shape, weights, grids))
    return plain
