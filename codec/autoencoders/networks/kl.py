"""diffusers' `AutoencoderKL`: Stable Diffusion's autoencoders, and others. Needs the extra `diffusers`."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from codec.autoencoders.networks.interface import Networks
from codec.autoencoders.networks.limits import MAX_BLOCKS, MAX_CHANNELS, MAX_WIDTH, whole

# Fields of diffusers' configuration that shape the networks; the rest is about training or other pipelines.
FIELDS = (
    "latent_channels", "block_out_channels", "layers_per_block", "norm_num_groups", "act_fn",
    "mid_block_add_attention", "use_quant_conv", "use_post_quant_conv",
)  # fmt: skip


def diffusers() -> ModuleType:
    """The library.

    Raises:
        ImportError: it is not installed; the message says how to.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("this model needs diffusers: pip install 'pillow-clric[diffusers]'") from error
    return diffusers


def build(config: Mapping[str, Any]) -> Networks:
    """Networks of a configuration with `FIELDS`."""
    if set(config) != set(FIELDS):
        raise ValueError(f"it needs {', '.join(FIELDS)}")
    check(config)
    return Kl(config)


def check(config: Mapping[str, Any]) -> None:
    """Refuse a configuration, with fields left out perhaps, that asks for too much or makes no sense.

    Raises:
        TypeError, ValueError: says what is wrong.
    """
    for name, most in (("latent_channels", MAX_CHANNELS), ("layers_per_block", MAX_BLOCKS)):
        whole(name, config.get(name, 1), 1, most)
    whole("norm_num_groups", config.get("norm_num_groups", 1), 1, MAX_WIDTH)
    if not isinstance(config.get("act_fn", ""), str):
        raise TypeError(f"act_fn must be a name, not {config['act_fn']!r}")
    widths = config.get("block_out_channels", (1,))
    whole("number of block_out_channels", len(widths), 1, 6)
    for width in widths:
        whole("block_out_channels", width, 1, MAX_WIDTH)


class Kl(Networks):
    """Both networks, for pictures in 0..1; a latent is the mean of the distribution that the encoder gives."""

    quick = False

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        levels = len(config["block_out_channels"])
        types = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
        both = diffusers().AutoencoderKL(**types, **config)
        self.encoder, self.decoder = both.encoder, both.decoder
        self.quant_conv, self.post_quant_conv = both.quant_conv, both.post_quant_conv
        self.channels = self.features = config["latent_channels"]
        self.downscale = 2 ** (levels - 1)

    def encode_tile(self, pictures: Tensor) -> Tensor:
        moments: Tensor = self.encoder(2 * pictures - 1)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        return moments[:, : self.channels]

    def decode_tile(self, features: Tensor) -> Tensor:
        if self.post_quant_conv is not None:
            features = self.post_quant_conv(features)
        pictures: Tensor = self.decoder(features)
        return pictures / 2 + 0.5
