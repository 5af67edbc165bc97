"""Many pictures, as many in one fit as there is memory for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from codec.container import MAX_SECTION, Header, Section, header_size, pack
from codec.profiles.base import Budget, Encoder, Goal, Progress, Quality
from codec.profiles.options import Options
from codec.workers import cores, sharing

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from codec.importance import Importance

USUAL = {Section.WEIGHTS: 1000}  # bytes of what is never large: it takes no long entry in the directory
FULL = 0.8  # least mean area of the pictures in a batch, as a part of their common shape


@dataclass(frozen=True)
class Item:
    """A picture to be coded.

    Attributes:
        header: without directory and checksum, which follow from the sections.
        metadata: sections that it brings along.
        importance: of its pixels; None if all of them count alike.
    """

    pixels: NDArray[np.uint8]
    header: Header
    metadata: Mapping[Section, bytes]
    importance: Importance | None = None

    def overhead(self, size: int, coded: Sequence[Section]) -> int:
        """Bytes of a file of so many, at most, that are not the bodies of what is coded."""
        most = min(size, self.pixels.size * 4, MAX_SECTION)
        metadata = {section: len(body) for section, body in self.metadata.items()}
        lengths = {section: USUAL.get(section, most) for section in coded}
        return header_size(self.header, metadata | lengths) + sum(metadata.values())


def encode(items: Sequence[Item], encoder: Encoder, options: Options, device: torch.device) -> list[bytes | ValueError]:
    """Files of pictures, in their order; of those that cannot be coded in as few bytes as are asked for, errors.

    Args:
        options: of several pictures, its `progress` is told in pictures.
    """
    from codec.device import pixels_at_once

    capacity = pixels_at_once(device, encoder.bytes_per_pixel) if encoder.bytes_per_pixel else 0
    shapes = [(item.header.mode, item.header.height, item.header.width) for item in items]
    files: dict[int, bytes | ValueError] = {}
    together, several = buckets(shapes, capacity), options.progress if len(items) > 1 else None
    with sharing(_helpers(max(map(len, together), default=0), device)):
        for bucket in together:
            told = _in_pictures(several, len(files), len(bucket), len(items)) if several else options.progress
            for part, coded in _fitted(bucket, items, encoder, options, told):
                files |= zip(part, coded, strict=True)
            if several:
                several(len(files), len(items))  # what is coded without iterations has told nothing
    return [files[i] for i in range(len(items))]


def _helpers(count: int, device: torch.device) -> int:
    """Processes that share what is done picture by picture, which a GPU would wait for; fits on CPUs need all cores."""
    return 0 if count < 2 or device.type == "cpu" else min(count, cores())


def _in_pictures(told: Progress, before: int, count: int, total: int) -> Progress:
    """Progress in pictures, for a fit of some of all pictures, of which so many are done before."""
    return lambda i, iterations: told(before + count * i // iterations, total)


def buckets(shapes: Sequence[tuple[str, int, int]], capacity: int) -> list[list[int]]:
    """Buckets of pictures to fit together, by their places: of one mode and similar size, largest first.

    Args:
        shapes: mode, height and width of each.
        capacity: pixels of a batch, in which all pictures are as high as the highest and as wide as the widest; a
            single picture may have more.
    """
    found: list[_Bucket] = []
    unfilled: dict[str, list[_Bucket]] = {}
    for i in sorted(range(len(shapes)), key=lambda i: (-shapes[i][1] * shapes[i][2], shapes[i], i)):
        mode, height, width = shapes[i]
        area = height * width
        # All to come are no larger: a bucket that would be too empty with this one, even if it fitted in, stays so.
        near = [b for b in unfilled.get(mode, []) if b.suits(b.height, b.width, area, capacity)]
        suiting = (b for b in near if b.suits(max(b.height, height), max(b.width, width), area, capacity))
        bucket = next(suiting, None)
        if bucket is None:
            bucket = _Bucket()
            found.append(bucket)
            near.append(bucket)
        bucket.add(i, height, width)
        unfilled[mode] = near
    return [bucket.places for bucket in found]


@dataclass
class _Bucket:
    """Pictures to fit together: their places, their common shape, and the sum of their areas."""

    places: list[int] = field(default_factory=list)
    height: int = 0
    width: int = 0
    area: int = 0

    def add(self, place: int, height: int, width: int) -> None:
        self.places.append(place)
        self.height, self.width = max(self.height, height), max(self.width, width)
        self.area += height * width

    def suits(self, height: int, width: int, area: int, capacity: int) -> bool:
        """Whether another picture of this area may be added, if the common shape is of these sides then."""
        common = (len(self.places) + 1) * height * width
        return common <= capacity and FULL * common <= self.area + area


def _fitted(
    bucket: list[int], items: Sequence[Item], encoder: Encoder, options: Options, progress: Progress | None
) -> Iterator[tuple[list[int], list[bytes | ValueError]]]:
    """Files of a bucket, together if memory suffices: else half of them at a time, and so on."""
    from codec.device import is_out_of_memory

    try:
        yield bucket, _coded([items[i] for i in bucket], encoder, options, progress)
        return
    except Exception as error:
        if len(bucket) == 1 or not is_out_of_memory(error):
            raise
    middle = len(bucket) // 2
    for half in (bucket[:middle], bucket[middle:]):
        yield from _fitted(half, items, encoder, options, progress)


def _coded(
    items: list[Item], encoder: Encoder, options: Options, progress: Progress | None
) -> list[bytes | ValueError]:
    """Files of pictures that are fitted together, or errors for those that are too large."""
    sizes = [options.budget(item.header.width, item.header.height) or 0 for item in items]
    overheads = [item.overhead(size, encoder.sections) for item, size in zip(items, sizes, strict=True)]
    goal: Goal = Quality(options.quality)
    if options.sized:
        goal = Budget(tuple(max(1, size - used) for size, used in zip(sizes, overheads, strict=True)))
    pictures, importance = [item.pixels for item in items], [item.importance for item in items]
    coded = encoder.encode(pictures, importance, goal, progress)
    files: list[bytes | ValueError] = []
    for item, sections, size, overhead in zip(items, coded, sizes, overheads, strict=True):
        data = pack(item.header, {**item.metadata, **sections})
        files.append(_too_large(item, len(data), size, overhead) if options.sized and len(data) > size else data)
    return files


def _too_large(item: Item, least: int, size: int, overhead: int) -> ValueError:
    return ValueError(
        f"a picture of {item.header.width} x {item.header.height} cannot be coded in {size} bytes: "
        f"the smallest file possible has {least}, of which {overhead} are header and metadata"
    )
