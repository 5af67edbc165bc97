"""Smaller networks for a trained transform: channels that say little are taken out of latent or gated layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.autoencoders.networks.coding_order import OFFSETS, PRESETS, Preset
from codec.autoencoders.networks.transform import Block, Pointwise, Transform
from codec.training.transform import USUAL

State = dict[str, Tensor]
RIDGE = 1e-6  # of hidden channels' mean power: what keeps their second moments invertible


@torch.no_grad()
def pruned(weights: Mapping[str, Tensor], channels: Sequence[int], values: Tensor) -> State:
    """Weights of a model whose latent has some channels no more.

    Its decoder makes what the other one makes where these channels have the given values. Its prior begins as the other
    one is where they are zero, but for channels that are in another group now: it has to learn.

    Args:
        weights: of a `codec.training.transform.Model`, as `read_weights` returns them.
        values: of all channels, (latent,), with gains divided out; such as their means over photos.
    """
    found = {name: tensor.clone() for name, tensor in weights.items()}
    kept = [channel for channel in range(len(values)) if channel not in channels]
    project, expand = "transform.encoder.project", "transform.decoder.expand"
    for name in (f"{project}.weight", f"{project}.bias"):
        found[name] = found[name][kept]
    found[f"{expand}.bias"] += found[f"{expand}.weight"][:, list(channels)] @ values[list(channels)]
    found[f"{expand}.weight"] = found[f"{expand}.weight"][:, kept]
    found["transform.log_gain"] = found["transform.log_gain"][:, kept]
    prior = {name.removeprefix("prior."): tensor for name, tensor in found.items() if name.startswith("prior.")}
    smaller = pruned_prior(prior, PRESETS[USUAL], len(values), kept)
    return found | {f"prior.{name}": tensor for name, tensor in smaller.items()}


def pruned_prior(weights: Mapping[str, Tensor], preset: Preset, latent: int, kept: Sequence[int]) -> State:
    """Weights of a `ProgressivePrior` for those channels of the latent that are kept.

    Raises:
        ValueError: they are so few that the preset has fewer groups of them.
    """
    before, after = list(pairwise(preset.bounds(latent))), list(pairwise(preset.bounds(len(kept))))
    if len(before) != len(after):
        raise ValueError(f"a latent of {len(kept)} channels has fewer groups than one of {latent}")
    found = dict(weights)
    for name in ("unit", "mean", "log_scale"):
        found[name] = weights[name][..., kept]
    for step in range(len(OFFSETS)):
        own = f"steps.{step}."
        found[f"{own}embed.weight"] = _columns(weights[f"{own}embed.weight"], latent, kept)
        for i, (_, end) in enumerate(after[:-1]):
            name = f"{own}earlier.{i}.weight"
            known = weights[name].new_zeros(len(weights[name]), latent)
            known[:, : before[i][1]] = weights[name]
            found[name] = known[:, kept][:, :end]
        for kind in ("weight", "bias"):
            names = [f"{own}output.{i}.{kind}" for i in range(len(after))]
            means, scales = (torch.cat(rows)[kept] for rows in zip(*(weights[n].chunk(2) for n in names), strict=True))
            for name, (a, b) in zip(names, after, strict=True):
                found[name] = torch.cat([means[a:b], scales[a:b]])
    return found


def _columns(weight: Tensor, latent: int, kept: Sequence[int]) -> Tensor:
    """Columns of a layer whose inputs are grids of all channels, and what is less than one after them."""
    end = weight.shape[1] // latent * latent
    of_grids = weight[:, :end].unflatten(1, (-1, latent))[:, :, kept].flatten(1)
    return torch.cat([of_grids, weight[:, end:]], 1)


@torch.no_grad()
def narrow(transform: Transform, expansion: int, pictures: Tensor, lambdas: Tensor) -> None:
    """Take hidden channels out of a transform's gated layers, so that it is one of a smaller `Config.expansion`.

    Blocks are narrowed in their order, each for what it gets from those before it by then.

    Args:
        pictures: (batch, 3, 16 h, 16 w) in 0..1, with many more samples of latents than blocks have hidden channels.
        lambdas: (batch,)
    """
    blocks = [block for block in transform.modules() if isinstance(block, Block)]
    hooks = [block.register_forward_pre_hook(partial(_narrow, expansion)) for block in blocks]
    gains = transform.gains(lambdas)
    rounded = (transform.encode(pictures, lambdas) * gains).round()
    transform.decode(rounded / gains, lambdas, *pictures.shape[2:])
    for hook in hooks:
        hook.remove()


def _narrow(expansion: int, block: nn.Module, inputs: tuple[Tensor]) -> None:
    """Narrow a block, of which the outputs for (batch, channels, h, w) shall change as little as possible."""
    assert isinstance(block, Block)
    hidden = block.hidden(block.mixed(*inputs).movedim(1, -1).flatten(0, 2))
    before, after = block.gate_in, block.gate_out
    weight = torch.cat([after.weight, after.bias[:, None]], 1)
    kept, weight = fewer_inputs(hidden, weight, expansion * len(weight))
    rows = torch.cat([kept, kept + hidden.shape[1]])  # of gates, then of values
    block.gate_in = _pointwise(before.weight[rows], before.bias[rows])
    block.gate_out = _pointwise(weight[:, :-1].float(), weight[:, -1].float())


def _pointwise(weight: Tensor, bias: Tensor) -> Pointwise:
    """A layer of these weights."""
    layer = Pointwise(weight.shape[1], weight.shape[0])
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer


def fewer_inputs(samples: Tensor, weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose inputs of a linear layer without which its outputs change least, and fit the weights of the others.

    One after the other goes the one whose loss costs least when all the others' weights make up for it (Hassibi and
    Stork, "Second order derivatives for network pruning: optimal brain surgeon", NIPS 1992; exact for linear layers).

    Args:
        samples: of the inputs, (n, inputs).
        weight: with the bias as last column, (outputs, inputs + 1).
        count: how many inputs stay.

    Returns:
        Which inputs stay, rising (count,), and the weight (outputs, count + 1).
    """
    known = F.pad(samples, (0, 1), value=1).double()
    moments = known.T @ known / len(known)
    inverse = (moments + RIDGE * moments.diagonal().mean() * torch.eye(len(moments)).to(moments)).inverse()
    weight, kept = weight.double(), torch.arange(len(moments))
    while len(kept) > count + 1:
        cost = weight.square().sum(0) / inverse.diagonal()
        out = int(cost[:-1].argmin())
        own = inverse[out] / inverse[out, out]
        weight = weight - weight[:, out, None] * own
        inverse = inverse - inverse[:, out, None] * own
        stay = torch.arange(len(kept)) != out
        weight, inverse, kept = weight[:, stay], inverse[stay][:, stay], kept[stay]
    return kept[:-1], weight
