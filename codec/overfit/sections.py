"""Sections of files that hold overfitted functions. Needs neither NumPy nor constriction."""

from __future__ import annotations

from codec.container import Container, CorruptError, Section, TruncatedError


def function_sections(container: Container) -> tuple[bytes, bytes]:
    """Weights and grids of a file.

    Raises:
        CorruptError: there are none.
        TruncatedError: the file ends before the end of its weights.
    """
    header = container.header
    if not header.spans.keys() >= {Section.WEIGHTS, Section.GRIDS}:
        raise CorruptError("file has no weights or no grids: it is no picture of this profile")
    weights, grids = container.sections[Section.WEIGHTS], container.sections[Section.GRIDS]
    if container.cut(Section.WEIGHTS):
        raise TruncatedError("file is truncated before the end of its weights: get the whole file again")
    return weights, grids
