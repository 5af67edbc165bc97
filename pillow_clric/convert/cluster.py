"""Conversion on a cluster: Ray Data shares the files among workers, each of which holds one model.

Workers read, convert and write; here only their records arrive. What a lost node had is done again elsewhere, which is
harmless: outputs are written whole, and one that is there already with the same contents is as good as written.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from typing import Any, cast

import click
import ray
import ray.data
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pillow_clric.convert.order import Order
from pillow_clric.convert.plan import Job
from pillow_clric.convert.report import Record
from pillow_clric.convert.run import results_of

__all__ = ["records_of"]

_AT_ONCE = 16  # files that a worker is given at once: as many are done again, at most, when it is lost
_ATTEMPTS = 2  # at files whose workers are lost; then, as one may have killed them, as many at each alone


def records_of(jobs: list[Job], order: Order, workers: int | None) -> Generator[Record]:
    """Convert files on a cluster; yield the outcome of each.

    The cluster is the one that the environment variable RAY_ADDRESS names, or else this machine.

    Args:
        jobs: the files to convert, all of which workers can read and write under the names given here.
        order: how.
        workers: their greatest number. None: one for each GPU or, without any or with the device "cpu", for each core.
    """
    if not jobs:
        return
    with _cluster() as resources:
        on_gpu = order.settings.device != "cpu" and resources.get("GPU", 0) > 0
        needs = "GPU" if on_gpu else "CPU"
        count = workers or max(1, int(resources.get(needs, 1)))
        most = 1 if any(job.is_shard for job in jobs) else _AT_ONCE
        size = max(1, min(most, len(jobs) // (4 * count)))
        batches = [jobs[i : i + size] for i in range(0, len(jobs), size)]
        lost = yield from _shared(batches, order, count, needs)
        lost = yield from _shared([[job] for batch in lost for job in batch], order, count, needs)
    for job in itertools.chain(*lost):
        yield Record.of(job, "failed", error="its worker was killed again and again: is there enough memory?")


@contextmanager
def _cluster() -> Iterator[dict[str, float]]:
    """Resources of the cluster, to which this process is connected meanwhile."""
    connect = not ray.is_initialized()
    if connect:
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise click.UsageError(f"no Ray cluster can be reached: {error}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # those whose node was lost while it asked something; they are tried again, too
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with redirect_stdout(sys.stderr):  # where Ray would print, and at its end, too, that nodes are lost
        try:
            yield ray.cluster_resources()
        finally:
            if connect:
                ray.shutdown()


def _shared(batches: list[list[Job]], order: Order, count: int, needs: str) -> Generator[Record, None, list[list[Job]]]:
    """Convert batches, yield the outcome of each file, and return those batches whose workers were lost too often.

    Args:
        count: the greatest number of workers.
        needs: "GPU" or "CPU", of which each worker takes one.
    """
    waiting = dict(enumerate(batches))
    if batches:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        attempts = ray.remote(_Attempts).options(num_cpus=0, scheduling_strategy=here).remote()
        rows = [{"id": i, "jobs": pickle.dumps(batch)} for i, batch in waiting.items()]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            cast(Callable[[dict[str, Any]], dict[str, Any]], _Worker),
            fn_constructor_args=(order, attempts, os.getcwd()),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=count),
            num_cpus=1 if needs == "CPU" else None,
            num_gpus=1 if needs == "GPU" else None,
        )
        try:
            for row in done.iter_rows():
                if row["records"] and waiting.pop(row["id"], None):
                    yield from pickle.loads(row["records"])
        except RayError as error:
            raise click.ClickException(f"the cluster fails: {str(error).splitlines()[-1]}") from error
    return list(waiting.values())


class _Attempts:
    """Counts how often each batch was begun, as Ray would begin one that kills its workers again for ever."""

    def __init__(self) -> None:
        self._count = Counter[int]()

    def begin(self, batch: int) -> int:
        """Return how often the batch was begun."""
        self._count[batch] += 1
        return self._count[batch]


class _Worker:
    """Converts batches of files, with models that are loaded once."""

    def __init__(self, order: Order, attempts: Any, folder: str) -> None:
        """Take orders.

        Args:
            order: how to convert.
            attempts: `_Attempts` of all workers.
            folder: the current directory where the files were named, if that is here, too.
        """
        with suppress(OSError):
            os.chdir(folder)
        self._order, self._attempts = order, attempts

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if ray.get(self._attempts.begin.remote(row["id"])) > _ATTEMPTS:
            return {"id": row["id"], "records": b""}
        records = self._order.carried_out(pickle.loads(row["jobs"]), partial(results_of, workers=0, begin=_silent))
        return {"id": row["id"], "records": pickle.dumps(list(records))}


def _silent(_: str) -> Any:
    return lambda done, total: None
