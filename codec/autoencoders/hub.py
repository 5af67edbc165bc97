"""Models from Hugging Face's hub, in diffusers' layout. Needs the extra `diffusers`."""

from __future__ import annotations

import re
from pathlib import Path

from codec.autoencoders.errors import ModelError

_ADDRESS = re.compile(r"([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)@([\w.-]+)")


def download(address: str, folder: Path) -> tuple[Path, str]:
    """Get the configuration and weights at OWNER/REPOSITORY[/FOLDER]@REVISION.

    Returns:
        The folder they are in, and the repository's name.

    Raises:
        ModelError: the address is wrong, or they cannot be got.
        ImportError: the extra is not installed.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise ModelError(f"{address!r} is no address of the hub: write OWNER/REPOSITORY[/FOLDER]@REVISION")
    repository, inner, revision = match[1], match[2].strip("/"), match[3]
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError("fetching from the hub needs an extra: pip install 'pillow-clric[diffusers]'") from error
    place = f"{inner}/" if inner else ""
    wanted = [f"{place}config.json", f"{place}*.safetensors"]
    try:
        snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=wanted)
    except (OSError, ValueError) as error:  # the hub's errors are of both kinds
        raise ModelError(f"{address} could not be got ({error}): check the network and the address") from error
    return folder / inner, repository.partition("/")[2]
