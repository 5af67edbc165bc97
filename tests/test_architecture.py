"""Imports between modules are those that docs/ARCHITECTURE.md lists, and go one way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = "codec", "pillow_clric"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def listed() -> dict[str, set[str] | None]:
    """Imports of each row's module or folder; None stands for any."""
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    _, _, table = text.partition("| module or folder | imports |\n|---|---|\n")
    rows: dict[str, set[str] | None] = {}
    for line in table[: table.index("\n\n")].splitlines():
        names, imported = (re.sub(r"\(.*?\)", "", cell) for cell in line.strip("|").split("|"))
        for name in re.findall("`(.*?)`", names):
            rows[name] = None if imported.strip() == "all" else set(re.findall("`(.*?)`", imported))
    return rows


def row_of(module: str, rows: dict[str, set[str] | None]) -> str:
    """The row of a module: the longest that is its name, or the folder it is in."""
    name = module.removeprefix("codec.")
    fitting = [row for row in rows if name == row or name.startswith(f"{row}.")]
    assert fitting, f"docs/ARCHITECTURE.md lists no {name}"
    return max(fitting, key=len)


def imports(path: Path) -> Iterator[str]:
    """All modules of the project that a module imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has relative imports"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inner]
        else:
            continue
        yield from (name for name in names if name in MODULES)


def test_imports_are_those_of_the_table() -> None:
    rows = listed()
    found: dict[str, set[str]] = {row: set() for row in rows}
    for module, path in MODULES.items():
        row = row_of(module, rows)
        found[row] |= {row_of(name, rows) for name in imports(path)} - {row}
    for row, allowed in rows.items():
        assert allowed is None or found[row] == allowed, f"{row} imports {sorted(found[row])}: see docs/ARCHITECTURE.md"
    order = list(rows)
    for row, names in found.items():
        above = [name for name in names if order.index(name) < order.index(row)]
        assert not above, f"{row} imports {above}, above it in docs/ARCHITECTURE.md"


def test_nothing_is_taken_from_trainings() -> None:
    for module, path in MODULES.items():
        if not module.startswith("codec.training"):
            assert not [name for name in imports(path) if name.startswith("codec.training")]


def test_docstrings_begin_with_a_noun_or_a_verb() -> None:
    found = [
        f"{module}: {text.splitlines()[0]}"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if (text := ast.get_docstring(node)) and text.split(maxsplit=1)[0] in ("What", "That", "Where", "How", "Which")
    ]
    assert found == []
