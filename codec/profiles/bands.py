"""Bands of rows in which grids are coded, which bound the memory that is needed."""

from __future__ import annotations

from collections.abc import Iterator

BAND = 1 << 13  # cells of a band, if they are of one row or more


def bands(rows: int, columns: int) -> Iterator[slice]:
    """Rows of cells that are coded together, of a grid with one column at least."""
    step = max(1, BAND // columns)
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))
