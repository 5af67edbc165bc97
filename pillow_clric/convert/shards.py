"""Shards of data sets: many photos in one file, as a column of a Parquet file or as members of a tar (WebDataset)."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from io import BytesIO
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from codec.container import MAGIC
from pillow_clric.convert.inputs import photo_suffixes
from pillow_clric.convert.places import place
from pillow_clric.convert.plan import Job

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["rewritten"]

Replaced = Callable[[list[Job]], dict[Job, bytes]]


def rewritten(shard: Job, column: str | None, replaced: Replaced) -> bytes:
    """Return a shard with what its photos, or `.clric` files, are converted to; all else in it is kept.

    Args:
        shard: its job.
        column: of a Parquet file, the name of that with the photos, if it is not the only one of bytes.
        replaced: converts some photos, and returns what they became. Of those that it leaves out, as they cannot be
            converted, there is null in a Parquet file, and nothing in a tar.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or there are no photos in it.
    """
    of_kind = _parquet if shard.source.suffix.lower() == ".parquet" else _tar
    return of_kind(shard, column, replaced)


def _photo(shard: Job, row: str, converted: str, data: bytes) -> Job:
    """Job of a photo in a shard, given its row or name there, and that of what it is converted to."""
    source, target = place(f"{shard.source}#{row}"), place(f"{shard.target}#{converted}")
    return Job(source, target, _encoding(data), data, shard.importance)


def _converted(stem: str, data: bytes) -> str:
    """Name of what a photo or `.clric` file is converted to, given the beginning of it."""
    return f"{stem}.clric" if _encoding(data) else f"{stem}.png"


def _encoding(data: bytes) -> bool:
    return not data.startswith(MAGIC)


# Parquet


def _parquet(shard: Job, column: str | None, replaced: Replaced) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("Parquet files need an extra: pip install 'pillow-clric[ray]'") from error

    source = pq.ParquetFile(pa.BufferReader(shard.read()))
    index = _column(source.schema_arrow, column)
    field, sink, first = source.schema_arrow.field(index), BytesIO(), 0
    with pq.ParquetWriter(sink, source.schema_arrow) as writer:
        for group in range(source.num_row_groups):
            table = source.read_row_group(group)
            values = _replaced_values(table.column(index).to_pylist(), first, shard, replaced)
            writer.write_table(table.set_column(index, field, pa.array(values, type=field.type)))
            first += len(values)
    return sink.getvalue()


def _replaced_values(values: list[Any], first: int, shard: Job, replaced: Replaced) -> list[Any]:
    """The values of a column with other bytes.

    Args:
        values: bytes, or objects whose "bytes" they are, or None.
        first: the number of the first row.
        shard: the job of which they are a part.
        replaced: as in `rewritten`.
    """
    found = [value["bytes"] if isinstance(value, dict) else value for value in values]
    jobs = {
        i: _photo(shard, row, _converted(row, data), data)
        for i, data in enumerate(found) if data for row in [str(first + i)]
    }  # fmt: skip
    results = replaced(list(jobs.values()))
    new = [results.get(jobs[i]) if i in jobs else data for i, data in enumerate(found)]
    return [
        {**value, "bytes": data} if isinstance(value, dict) else data for value, data in zip(values, new, strict=True)
    ]


def _column(schema: pa.Schema, name: str | None) -> int:
    """Index of the column with the photos: bytes, or as in sets of Hugging Face objects that have them as "bytes"."""
    import pyarrow as pa

    def holds_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))

    columns = [field.name for field in schema if holds_bytes(field.type)]
    if name is None and len(columns) == 1:
        name = columns[0]
    if name not in columns:
        what = f"no column of bytes is called {name}" if name else "it is not clear which column holds the photos"
        raise ValueError(f"{what}: --column takes one of {', '.join(columns)}" if columns else "no column holds bytes")
    return int(schema.get_field_index(name))


# WebDataset


Member = tuple[tarfile.TarInfo, bytes]


def _tar(shard: Job, _: str | None, replaced: Replaced) -> bytes:
    try:
        with tarfile.open(fileobj=BytesIO(shard.read()), mode="r:") as source:
            members = [_read(source, member) for member in source.getmembers()]
    except tarfile.TarError as error:
        raise ValueError(f"it is no tar that can be read: {error}") from error
    names = _converted_names(members)
    if not names:
        raise ValueError("none of its members is a photo")
    jobs = {i: _photo(shard, members[i][0].name, name, members[i][1]) for i, name in names.items()}
    results, sink = replaced(list(jobs.values())), BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as target:
        for i, (member, data) in enumerate(members):
            if i not in jobs:
                target.addfile(member, BytesIO(data))
            elif new := results.get(jobs[i]):
                target.addfile(_changed(member, names[i], len(new)), BytesIO(new))
    return sink.getvalue()


def _changed(member: tarfile.TarInfo, name: str, size: int) -> tarfile.TarInfo:
    """A member as a file with another name and size, which its PAX headers contradict no more."""
    changed = copy(member)
    changed.name, changed.size, changed.type, changed.linkname = name, size, tarfile.REGTYPE, ""
    changed.pax_headers = {
        key: text for key, text in member.pax_headers.items() if key not in ("path", "size", "linkpath")
    }
    return changed


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Member:
    """A member and its contents. A link to another one becomes a file of its own: that will have another name."""
    file = None
    linked = member.islnk() or member.issym()
    with suppress(KeyError, RecursionError):  # it is a link to somewhere else, or to itself
        file = tar.extractfile(member) if linked or member.isreg() else None
    data = file.read() if file else b""
    return (_changed(member, member.name, len(data)) if file and linked else member), data


def _converted_names(members: list[Member]) -> dict[int, str]:
    """New names of those members that are called like photos or `.clric` files, by their places.

    Names are text, of which only the end changes: what else of a sample there is, is found by their beginnings.
    """
    known, stems = photo_suffixes() | {".clric"}, dict[int, str]()
    for i, (member, data) in enumerate(members):
        suffix = PurePosixPath(member.name).suffix
        if data and suffix.lower() in known:
            stems[i] = member.name.removesuffix(suffix)
    count = Counter(stems.values())  # of a.jpg and a.png come a.jpg.clric and a.png.clric
    return {i: _converted(stem if count[stem] == 1 else members[i][0].name, members[i][1]) for i, stem in stems.items()}
