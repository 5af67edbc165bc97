"""Jobs that tell a test where they are done, or end who does them: workers of a cluster import them from here."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from pillow_clric.convert.plan import Job

LOST = "lost"  # file that says that a node is gone


@dataclass(frozen=True)
class TellingJob(Job):
    """Leaves a file that is called like the node, and ends with the source's name, in `$TOLD`; waits for `LOST`."""

    def read(self) -> bytes:
        import ray

        node = ray.get_runtime_context().get_node_id()
        told, end = Path(os.environ["TOLD"]), time.monotonic() + 120
        (told / f"{node}-{self.source.name}").touch()
        while not (told / LOST).exists() and time.monotonic() < end:
            time.sleep(0.05)
        return super().read()


@dataclass(frozen=True)
class DeadlyJob(Job):
    """Ends the process that reads a photo whose name begins with "deadly"."""

    def read(self) -> bytes:
        if self.source.name.startswith("deadly"):
            os._exit(1)
        return super().read()
