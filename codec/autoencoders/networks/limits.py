"""Bounds on what a model's configuration may ask for, as it comes from a file that may be damaged or hostile."""

from __future__ import annotations

MAX_CHANNELS, MAX_WIDTH, MAX_BLOCKS = 256, 4096, 64


def whole(name: str, value: object, low: int, high: int) -> int:
    """Check that a value is an integer from `low` to `high`, and return it.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    return value
