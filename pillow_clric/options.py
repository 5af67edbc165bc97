"""Settings of the plugin, for what Pillow's own functions have no argument for.

from pillow_clric import options

options.DEVICE = "cpu"
"""

import os

__all__ = ["DEVICE", "TUNE"]

DEVICE = os.environ.get("CLRIC_DEVICE") or "auto"
"""Device on which `Image.open(...).load()` decodes: "auto", "cpu", "cuda", "cuda:1" or "mps".

At first it is what the environment variable `CLRIC_DEVICE` says, unless that is empty.
"""

TUNE: str | None = None
"""Tune for which it shows files, "fidelity" or "looks"; None for that which they ask for."""
