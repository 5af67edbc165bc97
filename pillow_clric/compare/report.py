"""Progress of a comparison, on stderr."""

from __future__ import annotations

from pillow_clric._terminal import bars
from pillow_clric.compare.codecs import Progress
from pillow_clric.convert.report import shown


class Reporter:
    """Lines on stderr, and on a terminal a bar with the time that is left.

    Attributes:
        failures: their number.
    """

    def __init__(self, cost: float) -> None:
        from rich.progress import TaskProgressColumn

        self.failures = 0
        self._bars = bars(TaskProgressColumn(), period=3600)  # steps take from milliseconds to minutes
        self._task = self._bars.add_task("compare", total=cost)
        self._begun = 0.0  # cost of all steps so far, with the one at work

    def __enter__(self) -> Reporter:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def begin(self, cost: float) -> Progress:
        """Start a step; what is returned takes how many of its iterations are done, and of how many."""
        before, self._begun = self._begun, self._begun + cost
        return lambda done, total: self._bars.update(self._task, completed=before + cost * done / total)

    def done(self, line: str) -> None:
        """End a step, and say how it went."""
        self._bars.update(self._task, completed=self._begun)
        self._bars.console.print(shown(line))

    def failed(self, line: str) -> None:
        """Count a failure, and say what it is."""
        self.failures += 1
        self.done(f"failed: {line}")
