"""Fuzz a part of the reader with libFuzzer, through atheris (`pip install atheris`, for Python up to 3.13).

    python tests/fuzz/fuzz_clric.py TARGET CORPUS... [LIBFUZZER'S OPTIONS]

TARGET is one of `harness.TARGETS`, such as container, latent or plugin. Findings are exceptions that the reader does
not promise, and inputs that take more than 5 s or, Python and torch included, more than 900 MB. (atheris itself takes
some more memory with each input: after half an hour or so, start it again.) The corpus in this folder was made so, and
made small by `-merge=1`; `test_fuzz.py` reads it again.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["codec", "pillow_clric"]):
    from harness import TARGETS, edited

    from codec.container import FormatError

    # What is imported with the first picture is instrumented too, and its time is nobody's.
    golden = Path(__file__).parents[1] / "golden"
    os.environ["CLRIC_MODELS"] = str(golden)
    for path in golden.glob("*.clric"):
        for target, _ in TARGETS.values():
            target(path.read_bytes())

LIMITS = ["-timeout=5", "-rss_limit_mb=900"]


def main() -> None:
    program, name, *options = sys.argv
    target, parts = TARGETS[name]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        """One part changed and the checksums repaired; now and then, or where there are no parts, any bytes changed."""
        random = Random(seed)
        try:
            if random.random() < 0.9:
                return edited(data, random.choice(parts), lambda part: atheris.Mutate(part, max_size))[:max_size]
        except (FormatError, KeyError):
            pass
        return bytes(atheris.Mutate(data, max_size))

    command = shlex.join([sys.executable, program, name])  # for the shell of libFuzzer, which may start it again
    atheris.Setup([command, *LIMITS, *options], target, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
