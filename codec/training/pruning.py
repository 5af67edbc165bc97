"""A smaller latent for a trained transform: channels that say nothing are taken out of all its networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from codec.autoencoders.networks.coding_order import OFFSETS, PRESETS, Preset
from codec.training.transform import USUAL

State = dict[str, Tensor]


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
