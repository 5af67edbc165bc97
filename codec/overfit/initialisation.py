"""Initial functions of fits: from reference weights, a universal function, principal components, or random numbers.

A guess of the grids saves the encoder iterations. No reader needs it, and a file does not depend on it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.device import of_package
from codec.overfit import reference_weights
from codec.overfit.analysis import Analysis
from codec.overfit.bitstream import Origin
from codec.overfit.function import Function, Weights
from codec.overfit.quantise import as_tensors
from codec.overfit.reference_weights import LAMBDAS, OUTPUTS, PLAIN, trained_spec
from codec.overfit.spec import Spec

# Shape of the function that `principal` makes, but for what depends on the latent.
PRINCIPAL: dict[str, Any] = {"spatial": 8, "references": 2, "hidden": 1, "residuals": 0, "linear": True}
SURE = -2.5  # log-scale of samples that are taken to be zero
STIRRED = 0.4  # standard deviation of new units' weights, relative to that of all
FILE = Path(__file__).with_name("analysis.safetensors")


def trained(target: Tensor, lambdas: Tensor, **wider: Any) -> Function:
    """Initial functions of fits to pictures: trained reference weights, with guessed grids.

    Args:
        target: (batch, 1 or 3, height, width), samples in 0..1.
        lambdas: (batch,); each gets the reference weights of the nearest lambda.
        wider: fields of the shape that are more than those of the trained functions. The outputs stay the same.
    """
    analysis = _analysis(target.device)
    spec = replace(trained_spec(target.shape[2], target.shape[3], target.shape[1]), **wider)
    which = (lambdas.log().unsqueeze(1) - lambdas.new_tensor(LAMBDAS).log()).abs().argmin(1)
    with torch.no_grad():
        guess = analysis(target.expand(-1, OUTPUTS, -1, -1))
        return Function(spec, _awake(functions(spec, which)), analysis.scale(guess, which))


def _awake(weights: Weights) -> Weights:
    """The same with random inputs for hidden units that count for nothing: as all alike, they would stay so."""
    units, idle = weights["synthesis.hidden"], ~weights["synthesis.output"].any(1)
    generator = torch.Generator("cpu").manual_seed(0)  # so that it is the same on every device
    drawn = torch.randn(units.shape[1:], generator=generator, device="cpu", dtype=units.dtype).to(units.device)
    spread = STIRRED * units.std((1, 2), keepdim=True)
    return {**weights, "synthesis.hidden": torch.where(idle.unsqueeze(2), spread * drawn, units)}


def coarse(function: Function) -> Function:
    """The same functions with empty grids, the finest of which counts for nothing and is taken to stay empty.

    A fit that begins so fills it only where that pays. From a guess it never gets rid of what it does not need.
    """
    weights = {name: w.clone() for name, w in function.weights.items()}
    weights["synthesis.hidden"][:, :, : function.spec.features[0]] = 0
    weights["arm.output_bias"][:, 1, -function.spec.features[0] :] = SURE
    return replace(function, weights=weights, grids=[torch.zeros_like(g) for g in function.grids])


def universal(origin: Origin, scaled: Tensor) -> Function:
    """A model's universal function, with a scaled latent (1, channels, height, width) as its finest grid."""
    assert origin.universal is not None
    channels, height, width = scaled.shape[1:]
    spec = origin.universal.spec(height, width, channels)
    coarse = [scaled.new_zeros(1, n, *size) for n, size in zip(spec.features[1:], spec.sizes[1:], strict=True)]
    return Function(spec, as_tensors(origin.weights(spec), scaled.device), [scaled, *coarse])


def principal(latent: Tensor, step: float) -> Function:
    """A plain function of a latent (1, channels, height, width): its rounded principal components, put together again.

    Components that are zero everywhere are left out.
    """
    channels, height, width = latent.shape[1:]
    mean = latent.mean((2, 3), keepdim=True)
    samples = (latent - mean).flatten(2)[0]
    axes = torch.linalg.eigh(samples @ samples.mT).eigenvectors.flip(1)
    components = axes.mT @ samples / step
    used = components.round().any(1).nonzero()
    count = int(used.max()) + 1 if len(used) else 1
    spec = Spec(height, width, channels, (count,), **PRINCIPAL)
    weights = as_tensors(reference_weights.weights(PLAIN, spec), latent.device)
    weights["synthesis.linear"] = axes[None, :, :count] * step
    weights["synthesis.output_bias"] = mean[:, :, 0, 0]
    spread = components[:count].abs().mean(1).clamp(min=1e-2).log()  # of a Laplace distribution, its scale
    weights["arm.output_bias"] = torch.stack([torch.zeros_like(spread), spread]).unsqueeze(0)
    return Function(spec, weights, [components[None, :count].unflatten(2, (height, width))])


def random(spec: Spec, generator: torch.Generator) -> Function:
    """A function that knows nothing: random weights, and grids that are zero."""
    weights = as_tensors(reference_weights.weights(PLAIN, spec), generator.device)
    for name in ("arm.hidden1", "arm.hidden2", "arm.output", "synthesis.hidden", "synthesis.output"):
        shape = weights[name].shape
        drawn = torch.randn(shape, generator=generator, device=generator.device)
        weights[name] = drawn / shape[-1] ** 0.5
    sizes = zip(spec.features, spec.sizes, strict=True)
    return Function(spec, weights, [torch.zeros(1, n, *size, device=generator.device) for n, size in sizes])


def functions(spec: Spec, which: Tensor) -> Weights:
    """Trained reference weights, (batch, ...) each; which (batch,) counts from 0."""
    _, *numbers = reference_weights.numbers(spec)
    trained = [as_tensors(reference_weights.weights(number, spec), which.device) for number in numbers]
    return {name: torch.cat([each[name] for each in trained])[which] for name in spec.weight_shapes}


@cache
def _analysis(device: torch.device) -> Analysis:
    return of_package(lambda: Analysis(OUTPUTS, len(LAMBDAS)), FILE).to(device)
