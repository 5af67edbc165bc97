"""Files of models that trainings start from, and that they make."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from codec.autoencoders import model_file
from codec.autoencoders.errors import ModelFileError
from codec.autoencoders.model_file import Model


def read(path: Path, kind: str) -> Model:
    """The model of a kind that a training starts from.

    Raises:
        ModelFileError: its file is damaged, or of another kind.
    """
    model = model_file.read(path)
    if model.architecture != kind:
        raise ModelFileError(
            f"{path} is of kind {model.architecture!r}: trainings like this start from models of kind {kind!r}"
        )
    return model


def write(model: Model, path: Path) -> None:
    """Write a model that was trained, its configuration as it will be read.

    Raises:
        ModelFileError: it has numbers that no model may have.
    """
    model = replace(model, config=json.loads(json.dumps(model.config)))
    model_file.check(model, "the trained model")
    model_file.write(model, path)


def fingerprint(path: Path) -> str:
    """SHA-256 of a file that a training builds on, which its checkpoints name."""
    return sha256(path.read_bytes()).hexdigest()
