"""Options of profiles on the command line."""

from __future__ import annotations

import math
import re
from typing import Any

import click

from codec.profiles.options import LARGEST, Amount, Choice, Declared, Function, Kind, Number, Range, Text, Whole
from pillow_clric._option_docs import Documented, options

_SHORT = {"quality": "-q", "effort": "-e"}
_NOTES = {
    "quality": " 95 by default for what a .clric file is converted to.",
    "tune": " Of .clric files that are converted, that of the file by default.",
    "target_size": " Units are known: 50000, 200kB, 64KiB.",
}
_UNITS = {"": 1, "k": 10**3, "ki": 2**10, "m": 10**6, "mi": 2**20}


def names() -> list[str]:
    """Names of the options that a command line can give."""
    return list(dict.fromkeys(option.name for option in options() if not isinstance(option.kind, Function)))


def with_options(command: Documented) -> Documented:
    """The command with these options; those that are not given are None."""
    for name in reversed(names()):
        same = [option for option in options() if option.name == name]  # profiles may differ in what it means
        flags = [*filter(None, [_SHORT.get(name)]), f"--{name.replace('_', '-')}"]
        kind, text = same[0].kind, " ".join(map(_help, same))
        command = click.option(*flags, type=_type(kind), metavar=_metavar(kind), help=text)(command)
    return command


def _help(option: Declared) -> str:
    text = str(option) if isinstance(option.kind, (Choice, Text)) else option.help  # of others, click says the range
    text += _NOTES.get(option.name, "")
    return text if option.default is None else f"{text}  [default: {option.default}]"


class _Size(click.ParamType[int]):
    """Numbers of bytes, with or without a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([km]i?|)b?", str(value).lower())
        count = int(min(float(found[1]) * _UNITS[found[2]], LARGEST)) if found else 0
        if count < 1:
            self.fail(f"{value!r} is no size such as 50000, 200kB, 1.5MB or 64KiB", param, ctx)
        return count


class _Choice(click.Choice[str]):
    """One of some values; those of digits become integers."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        chosen = super().convert(value, param, ctx)
        return int(chosen) if str(chosen).isdigit() else chosen


class _Number(click.FloatRange):
    """Finite numbers of a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number", param, ctx)
        return number


def _type(kind: Kind) -> click.ParamType[Any]:
    if isinstance(kind, Amount):
        return _Size() if kind.whole else _Number(0, min_open=True)
    if isinstance(kind, Number):
        return _Number(kind.low, kind.high)
    if isinstance(kind, Whole):
        return click.IntRange(kind.low, kind.high)
    return _Choice([str(value) for value in kind.values]) if isinstance(kind, Choice) else click.STRING


def _metavar(kind: Kind) -> str:
    if isinstance(kind, Amount):
        return "SIZE" if kind.whole else "BPP"
    numbers = isinstance(kind, Range) or (isinstance(kind, Choice) and any(isinstance(v, int) for v in kind.values))
    return "N" if numbers else "NAME"
