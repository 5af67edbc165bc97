"""The inputs that fuzzing found worth keeping still do no harm; and what the fuzzer edits gets past the checksums."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import TARGETS, edited, plugin
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.container import Section, unpack

pytestmark = pytest.mark.usefixtures("golden_models")

FOLDER = Path(__file__).parent
CORPUS = sorted((FOLDER / "corpus").iterdir())
GOLDEN = sorted((FOLDER.parent / "golden").glob("*.clric"))


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    target, _ = TARGETS[name]
    assert CORPUS
    for path in CORPUS:
        target(path.read_bytes())


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_edits_match_their_checksums(path: Path) -> None:
    data = path.read_bytes()
    sections = unpack(data).sections
    last = Section.PACKETS if Section.PACKETS in sections else Section.GRIDS
    changed = edited(data, last, lambda body: b"x" + body)
    assert unpack(changed).sections == {**sections, last: b"x" + sections[last]}
    wider = edited(data, None, lambda header: header[:5] + bytes([header[5] + 1]) + header[6:])
    assert unpack(wider).header.width == unpack(data).header.width + 1
    assert unpack(wider).sections == sections


@pytest.mark.filterwarnings("ignore::pillow_clric.DamageWarning")
@settings(max_examples=150)
@given(st.data())
def test_mutants(data: st.DataObject) -> None:
    """Golden files of which a part was changed and the checksums match again."""
    whole = data.draw(st.sampled_from(GOLDEN)).read_bytes()
    parts = (None, *unpack(whole).sections)

    def edit(part: bytes) -> bytes:
        at = data.draw(st.integers(0, len(part)))
        return part[:at] + data.draw(st.binary(max_size=3)) + part[at + data.draw(st.integers(0, 3)) :]

    plugin(edited(whole, data.draw(st.sampled_from(parts)), edit))
