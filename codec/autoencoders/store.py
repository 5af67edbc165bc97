"""Store of models: those that ship with the package, and a folder of the user's.

Each model is one file in that folder, named after the model and its hash, so that listing them reads none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import platformdirs

from codec.autoencoders import hub
from codec.autoencoders.errors import MissingModelError, ModelError, ModelFileError
from codec.autoencoders.zoo import CATALOGUE, Progress, download
from codec.container import MODEL_BYTES

if TYPE_CHECKING:
    from codec.autoencoders.model_file import Model

VARIABLE = "CLRIC_MODELS"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_FILE = re.compile(rf"({_NAME})@([0-9a-f]{{{2 * MODEL_BYTES}}})\.safetensors")


@dataclass(frozen=True)
class Entry:
    """A model that is there; `prefix` is the part of its identity that `.clric` files hold, in hex."""

    name: str
    prefix: str
    path: Path

    def load(self) -> Model:
        """The model; those of the last calls are kept.

        Raises:
            ModelFileError: its file is damaged.
        """
        try:
            state = self.path.stat()
        except OSError as error:
            raise ModelFileError(f"{self.path} cannot be read ({error.strerror})") from error
        return _read(self, state.st_mtime_ns, state.st_size)


# Those that ship with the package, whose files are too long to be hashed whenever models are listed.
_SHIPPED = {
    "base": "84dfc013dc5fec56",
    "patch": "20c51505a0d377e6",
    "transform": "6f3bb21803109598",
    "vq": "4b8834661da607f6",
}
EMBEDDED = {name: Entry(name, _SHIPPED[name], Path(__file__).with_name(f"{name}.safetensors")) for name in _SHIPPED}


@lru_cache(maxsize=4)
def _read(entry: Entry, modified: int, size: int) -> Model:
    """An entry's model, read again when its file has changed."""
    from codec.autoencoders import model_file

    return replace(model_file.read_known(entry.path, entry.prefix), name=entry.name)


def folder() -> Path:
    """The folder of the user's models, which need not exist; the environment variable `VARIABLE` names another."""
    told = os.environ.get(VARIABLE)
    return Path(told) if told else platformdirs.user_data_path("clric", appauthor=False) / "models"


def entries() -> list[Entry]:
    """All models that are there, the embedded ones first.

    Raises:
        ModelError: the folder of the others is there, but cannot be read.
    """
    return list(_entries())


def _entries() -> Iterator[Entry]:
    """The same one by one: who needs one that is embedded need not be allowed to look into the folder."""
    yield from EMBEDDED.values()
    place = folder()
    try:
        names = sorted(os.listdir(place))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ModelError(f"the models in {place} cannot be read: {error.strerror}") from error
    yield from (Entry(match[1], match[2], place / name) for name in names if (match := _FILE.fullmatch(name)))


def _named(name: str | Path) -> Entry | None:
    """The model of this name or hash."""
    return next((entry for entry in _entries() if name in (entry.name, entry.prefix)), None)


def find(prefix: bytes) -> Model:
    """The model that a `.clric` file names.

    Raises:
        MissingModelError: it is not there; the message says how to get it.
        ModelFileError: it is damaged.
    """
    wanted = prefix.hex()
    for entry in _entries():
        if entry.prefix == wanted:
            return entry.load()
    name = next((name for name, known in CATALOGUE.items() if known.prefix == wanted), None)
    if name is None:
        raise MissingModelError(
            f"the model with the hash {wanted} is not here: get it from where the file comes from, and run "
            "`clric-convert models add FILE`"
        )
    raise MissingModelError(f"the model {name} ({wanted}) is not here: run `clric-convert models fetch {name}`")


def load(name: str | Path) -> Model:
    """A model by its name or hash in the store, or from a file or folder anywhere.

    Raises:
        MissingModelError: there is none.
        ModelFileError: it is damaged, or no model.
        ImportError: it needs an extra that is not installed.
    """
    entry = check(name)
    if entry is not None:
        return entry.load()

    from codec.autoencoders import import_checkpoint

    return import_checkpoint.read(Path(name))


def check(name: str | Path) -> Entry | None:
    """The model of this name or hash in the store, or None for a file or folder; reads neither.

    Raises:
        MissingModelError: there is no such model.
    """
    entry = _named(name)
    if entry is None and not Path(name).exists():
        advice = f"run `clric-convert models fetch {name}`" if name in CATALOGUE else "see `clric-convert models list`"
        raise MissingModelError(f"there is no model {str(name)!r}: {advice}, or name a file or folder")
    return entry


def add(source: Path, name: str | None = None) -> Entry:
    """Copy a model into the store, completely or not at all.

    Args:
        source: a path that `import_checkpoint.read` takes.
        name: its name in the store; by default that of its file or folder.

    Raises:
        ModelError: it is no model, a damaged one, or its name is taken.
        ImportError: it needs an extra that is not installed.
        OSError: the store cannot be written.
    """
    from codec.autoencoders import import_checkpoint

    return _keep(import_checkpoint.read(source, name))


def _keep(model: Model) -> Entry:
    if not re.fullmatch(_NAME, model.name):
        raise ModelError(f"{model.name!r} is no name for a model: give one of letters, digits, and any of . _ -")
    from codec.autoencoders import model_file

    prefix = model.prefix.hex()
    for entry in entries():
        if entry.prefix == prefix:
            return entry
        if entry.name == model.name:
            raise ModelError(f"another model is called {model.name} ({entry.prefix}): give this one another name")
    path = folder() / f"{model.name}@{prefix}.safetensors"
    model_file.write(model, path)
    return Entry(model.name, prefix, path)


def remove(name: str) -> Entry:
    """Remove a model by its name or hash.

    Raises:
        MissingModelError: there is none.
        ModelError: it is part of the package.
    """
    entry = _named(name)
    if entry is None:
        raise MissingModelError(f"there is no model {name!r}: see `clric-convert models list`")
    if entry in EMBEDDED.values():
        raise ModelError(f"{name} is part of the package and cannot be removed")
    entry.path.unlink()
    return entry


def fetch(name: str, progress: Progress = lambda done, total: None) -> Entry:
    """Get a model over the network and add it.

    Args:
        name: one of `CATALOGUE`, or OWNER/REPOSITORY[/FOLDER]@REVISION of Hugging Face's hub.

    Raises:
        ModelError: it is not known, cannot be got, or is not what it must be; the store is as it was then.
        ImportError: it needs an extra that is not installed.
    """
    with TemporaryDirectory(prefix="clric-") as scratch:
        if "/" in name:
            return add(*hub.download(name, Path(scratch)))
        if name not in CATALOGUE:
            raise ModelError(f"{name!r} is not among the models that can be fetched: {', '.join(CATALOGUE)}")
        target = Path(scratch)
        download(CATALOGUE[name], target, progress)
        return add(target, name)
