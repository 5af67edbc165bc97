"""Errors of models."""


class ModelError(OSError):
    """A model cannot be used; the message says why and what to do."""


class ModelFileError(ModelError):
    """A file is no model, or a damaged one."""


class MissingModelError(ModelError):
    """There is no such model here."""
