"""VQGANs as taming-transformers (github.com/CompVis/taming-transformers) and latent diffusion write them."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from codec.autoencoders.errors import ModelFileError

ENTRIES = "quantize.embedding.weight"  # in diffusers, too
_GROUPS = 32  # of all normalisations

# Parts of names of weights, and what diffusers calls them; levels of the decoder are counted from the other end.
_NAMES = (
    (r"\bmid\.block_([12])", lambda m: f"mid_block.resnets.{int(m[1]) - 1}"),
    (r"\bmid\.attn_1", "mid_block.attentions.0"),
    (r"\b(down|up)\.(\d+)\.block\b", r"\1_blocks.\2.resnets"),
    (r"\b(down|up)\.(\d+)\.attn\b", r"\1_blocks.\2.attentions"),
    (r"\b(down|up)\.(\d+)\.(down|up)sample\b", r"\1_blocks.\2.\3samplers.0"),
    (r"\bnin_shortcut\b", "conv_shortcut"),
    (r"\bnorm_out\b", "conv_norm_out"),
    (r"(\battentions\.\d+)\.norm\b", r"\1.group_norm"),
    (r"(\battentions\.\d+)\.([qkv])\b", r"\1.to_\2"),
    (r"(\battentions\.\d+)\.proj_out\b", r"\1.to_out.0"),
)


def to_diffusers(tensors: dict[str, Tensor], source: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration of diffusers' `VQModel`, found from the weights' shapes, and the weights in its names.

    Raises:
        ModelFileError: they are of no such network.
    """
    try:
        widths = _widths(tensors)
        told = {
            "block_out_channels": widths,
            "layers_per_block": _count(tensors, "encoder.down.0.block"),
            "latent_channels": len(tensors["encoder.conv_out.weight"]),
            "vq_embed_dim": len(tensors["quant_conv.weight"]),
        }
    except (KeyError, TypeError) as error:
        raise ModelFileError(f"{source} is no VQGAN that is known: it has no weights {error}") from error
    levels = range(len(widths))
    told |= {
        "down_block_types": [_type(tensors, f"encoder.down.{level}", "Down", "Encoder") for level in levels],
        "up_block_types": [_type(tensors, f"decoder.up.{level}", "Up", "Decoder") for level in reversed(levels)],
        "mid_block_add_attention": "encoder.mid.attn_1.norm.weight" in tensors,
        "act_fn": "silu", "norm_num_groups": _GROUPS, "norm_type": "group",
    }  # fmt: skip
    renamed = {_renamed(name, len(widths)): tensor for name, tensor in tensors.items()}
    # Its attention consists of convolutions of 1 x 1, that of diffusers of linear layers.
    return told, {name: t.flatten(1) if ".to_" in name and t.dim() == 4 else t for name, t in renamed.items()}


def _widths(tensors: dict[str, Tensor]) -> list[int]:
    """Channels at each level."""
    first = "encoder.down.{}.block.0.conv1.weight"
    return [len(tensors[first.format(level)]) for level in range(_count(tensors, "encoder.down"))]


def _count(tensors: dict[str, Tensor], of: str) -> int:
    """Number of parts of a name."""
    return len({name[len(of) :].split(".")[1] for name in tensors if name.startswith(f"{of}.")})


def _type(tensors: dict[str, Tensor], level: str, direction: str, network: str) -> str:
    attention = "Attn" if any(name.startswith(f"{level}.attn.") for name in tensors) else ""
    return f"{attention}{direction}{network}Block2D"


def _renamed(name: str, levels: int) -> str:
    name = re.sub(r"^decoder\.up\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", name)
    for pattern, new in _NAMES:
        name = re.sub(pattern, new, name)
    return name
