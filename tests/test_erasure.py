"""The erasure code: any rows that are missing come back from as many parity rows, whichever these are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec import erasure


def test_by_hand() -> None:
    """Twice 0x8e is 0x11c, which is 1 without the polynomial 0x11d: so 0x8e is 1 / 2, and its half, 0x47, is 1 / 4."""
    rows = {0: b"\x01\x02\x04", 3: b"\x05"}
    assert erasure.parity(rows, [2]) == {2: bytes([0x8E ^ 0x05, 0x01, 0x02])}  # 2 + 0 is 2, and 2 + 3 is 1
    assert erasure.parity({0: b"\x01\x08\x00"}, [4, 1]) == {4: b"\x47\x02\x00", 1: b"\x01\x08\x00"}
    assert erasure.restored({3: b"\x05"}, {2: b"\x8b\x01\x02"}, [0]) == {0: rows[0]}
    assert erasure.restored({0: rows[0]}, {2: b"\x8b\x01\x02"}, [3]) == {3: b"\x05\0\0"}


@given(st.dictionaries(st.integers(0, 255), st.binary(max_size=20), min_size=1), st.data())
def test_any_rows_come_back_from_as_many_parity_rows(rows: dict[int, bytes], data: st.DataObject) -> None:
    free = [number for number in range(256) if number not in rows]
    missing = data.draw(st.lists(st.sampled_from(sorted(rows)), unique=True, max_size=len(free)))
    numbers = data.draw(st.lists(st.sampled_from(free), unique=True, min_size=max(1, len(missing))))
    parities, length = erasure.parity(rows, numbers), max(map(len, rows.values()))
    assert {len(row) for row in parities.values()} == {length}
    left = {number: row for number, row in rows.items() if number not in missing}
    found = erasure.restored(left, parities, missing)
    assert found == {number: rows[number].ljust(length, b"\0") for number in missing}


@pytest.mark.parametrize("count", [1, 50, 100])
def test_all_rows_may_be_missing(count: int) -> None:
    rows = {number: np.random.default_rng(number).bytes(50) for number in range(100)}
    missing = list(rows)[:count]
    parities = erasure.parity(rows, range(255, 255 - len(missing), -1))
    assert erasure.restored(dict(list(rows.items())[count:]), parities, missing) == {n: rows[n] for n in missing}


def test_a_parity_row_depends_on_its_number_only() -> None:
    rows = {number: bytes([number, 7]) for number in range(9)}
    assert erasure.parity(rows, [200])[200] == erasure.parity(rows, range(150, 256))[200]
