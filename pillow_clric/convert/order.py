"""An order to convert files, and how it is carried out by whatever engine: converted, written, recorded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass

from pillow_clric import LossWarning
from pillow_clric.convert import outputs, shards
from pillow_clric.convert.one_file import Result, Settings
from pillow_clric.convert.plan import Job
from pillow_clric.convert.report import Record, message

__all__ = ["Order"]

Convert = Callable[[list[Job], Settings], Generator[Result]]


@dataclass(frozen=True)
class Order:
    """Order to convert files and write them.

    Attributes:
        settings: of the conversion.
        overwrite: whether outputs may replace files.
        preserve: whether they get the times and permissions of their sources.
        column: of Parquet files, the name of that with the photos; None if it is found by its type.
    """

    settings: Settings
    overwrite: bool
    preserve: bool
    column: str | None

    def carried_out(self, jobs: Iterable[Job], convert: Convert) -> Generator[Record]:
        """Convert files and write them; yield the outcome of each, and of shards that of each photo in them."""
        jobs = list(jobs)
        files = [job for job in jobs if not job.is_shard]
        with warnings.catch_warnings(), closing(convert(files, self.settings)) as results:
            warnings.simplefilter("ignore", LossWarning)  # results hold what they say
            for result in results:
                yield _record(result, result.error or self._write(result.job, result.data))
            for job in jobs:
                if job.is_shard:
                    yield from self._of_shard(job, convert)

    def _of_shard(self, job: Job, convert: Convert) -> Generator[Record]:
        """Convert a shard's photos, write it with what they became, and yield the outcome of each."""
        records = list[Record]()

        def replaced(photos: list[Job]) -> dict[Job, bytes]:
            results = list(convert(photos, self.settings))
            if lost := next((result for result in results if result.elsewhere), None):
                why = f"{lost.job.source.name} might be converted another time: {lost.error}"
                raise RuntimeError(f"nothing is written, as {why}")
            records.extend(_record(result, result.error) for result in results)
            return {result.job: result.data for result in results if not result.error}

        try:
            data = shards.rewritten(job, self.column, replaced)
        except Exception as error:
            why = message(error, job.source)
        else:
            if not records or any(record.status == "converted" for record in records):
                why = self._write(job, data)
            else:
                yield from records
                why = "nothing in it could be converted"
        yield from [Record.of(job, "failed", error=why)] if why else records

    def _write(self, job: Job, data: bytes) -> str:
        """Write what a job gave; return why that failed, or ""."""
        like = job.source if self.preserve and job.data is None else None
        try:
            outputs.write(job.target, data, overwrite=self.overwrite, like=like)
        except OSError as error:
            return message(error, job.source)
        return ""


def _record(result: Result, error: str) -> Record:
    job = result.job
    if error:
        return Record.of(job, "failed", seconds=result.seconds, error=error)
    width, height = result.size
    bytes_out = len(result.data)
    return Record.of(
        job,
        "converted",
        bytes_in=result.bytes_in,
        bytes_out=bytes_out,
        width=width,
        height=height,
        bpp=8 * (bytes_out if job.encoding else result.bytes_in) / (width * height),
        seconds=result.seconds,
        warnings=result.warnings,
    )
