"""Files that are written completely or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from codec.files import replacing, write


def test_files_are_replaced_and_folders_made(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where" / "file"
    for data in (b"first", b"second"):
        write(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_of_two_at_once_the_last_one_counts(tmp_path: Path) -> None:
    """In one process, too, as of two threads."""
    path = tmp_path / "file"
    with replacing(path) as first:
        first.write_bytes(b"first")
        write(path, b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_leaves_what_there_was(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    write(path, b"before")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
