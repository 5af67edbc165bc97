"""The command `clric-convert compare`: photos in several formats at equal sizes, side by side in one HTML page."""

from __future__ import annotations

from pillow_clric.compare.command import compare

__all__ = ["compare"]
