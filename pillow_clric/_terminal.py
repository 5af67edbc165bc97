"""What commands show on stderr: lines, and on a terminal bars with the time that is left."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

__all__ = ["bars"]


def bars(amount: ProgressColumn, *, quiet: bool = False, period: float = 30) -> Progress:
    """Progress bars of tasks by their descriptions, which vanish at the end; lines go to their console.

    Args:
        amount: how to say how much is done.
        quiet: whether only lines are shown.
        period: seconds from which speed is estimated.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), amount, TimeRemainingColumn()
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    disabled = quiet or not sys.stderr.isatty()
    return Progress(  # stdout is for data
        *columns, console=console, speed_estimate_period=period, transient=True, redirect_stdout=False, disable=disabled
    )
