"""Options of all profiles as users meet them: in docstrings and tables, and on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from textwrap import fill
from typing import Any, TypeVar

from codec.profiles import profiles
from codec.profiles.options import Declared

Documented = TypeVar("Documented", bound=Callable[..., Any])


def options() -> Iterator[Declared]:
    """Options of all profiles, each once; if not all profiles have it as it is, its help says which do.

    The default is that of the first profile that has it.
    """
    found: dict[Declared, dict[Any, list[str]]] = {}
    for profile in profiles():
        for declared in profile.options.declared():
            owners = found.setdefault(replace(declared, default=None), {})
            owners.setdefault(declared.default, []).append(profile.name)
    for declared, owners in found.items():
        (default, first), *others = owners.items()
        notes = [f" {value!r} by default in profile {' and '.join(names)}." for value, names in others]
        if sum(map(len, owners.values())) < len(profiles()):
            notes.append(f" Only of profile {' and '.join(first)}.")
        yield replace(declared, default=default, help=declared.help + "".join(notes))


def table() -> str:
    """All options as rows of a table in Markdown."""
    return "\n".join(f"| `{option.name}={option.default!r}` | {option} |" for option in options())


def documented(function: Documented) -> Documented:
    """The function with all options in its docstring, in place of "{options}"."""
    if function.__doc__:  # there is none under python -OO
        lines = [f"{option.name}={option.default!r}: {option}" for option in options()]
        wrapped = [fill(line, 120, initial_indent=" " * 12, subsequent_indent=" " * 16) for line in lines]
        function.__doc__ = function.__doc__.replace("{options}", "\n".join(["of the profile:", *wrapped]))
    return function
