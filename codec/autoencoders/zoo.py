"""Models that can be fetched, pinned by a revision in each address and by checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from codec.autoencoders.errors import ModelError

TIMEOUT = 30  # seconds without a byte
_PIECE = 1 << 18

Progress = Callable[[int, int], None]  # told how many bytes are there, and of how many


@dataclass(frozen=True)
class Download:
    """A file of a model.

    Attributes:
        url: with a revision in it, so that it always means the same.
        size: in bytes.
        sha256: of its contents, in hex.
    """

    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Known:
    """A model that can be fetched.

    Attributes:
        files: by the names that they get in a folder, which `import_checkpoint.read` takes.
        about: description in a few words.
        licence: of the weights.
        prefix: the part of its identity that `.clric` files hold, in hex, where it is known.
    """

    files: dict[str, Download]
    about: str
    licence: str
    prefix: str | None = None


def _tiny(name: str, revision: str, size: int, checksum: str, about: str) -> Known:
    file = "diffusion_pytorch_model.safetensors"
    url = f"https://huggingface.co/madebyollin/{name}/resolve/{revision}/{file}"
    return Known({f"{name}.safetensors": Download(url, size, checksum)}, about, "MIT")


def _kl(place: str, config: tuple[int, str], weights: tuple[int, str], about: str, licence: str) -> Known:
    names = "config.json", "diffusion_pytorch_model.safetensors"
    files = {
        name: Download(f"https://huggingface.co/{place}/{name}", *pinned)
        for name, pinned in zip(names, (config, weights), strict=True)
    }
    return Known(files, about, licence)


_TAESD = "https://raw.githubusercontent.com/madebyollin/taesd/5cccb12dc72074a4be35680c3b108548a7c69978/"

CATALOGUE = {
    "taesd": _tiny(
        "taesd", "614f76814bbe30edbe2e627ace1c2234c81a2c0e", 9793292,
        "db169d69145ec4ff064e49d99c95fa05d3eb04ee453de35824a6d0f325513549", "tiny, for Stable Diffusion's latent",
    ),
    "taesdxl": _tiny(
        "taesdxl", "b20258aaef75ef61e659c1e0f14f251cf0ad153e", 9793292,
        "ff4824aca94dd6111e0340fa749347fb74101060d9712cb5ef1ca8f1cf17502f", "tiny, for Stable Diffusion XL's latent",
    ),
    "taesd3": _tiny(
        "taesd3", "d58dcaccd2b36fcb7a6b9e93c1cc507acab5a778", 9848636,
        "6f79c1397cb9ce1dac363722dbe70147aee0ccca75e28338f8482fe515891399", "tiny, for Stable Diffusion 3's latent",
    ),
    "taef1": _tiny(
        "taef1", "b1b2d00e9e440cfbf3dedb34266864da86016ceb", 9848636,
        "47a6c2bff850da04b267cab70fe3553fef57255eb9a8e76852baa0a87850e54d", "tiny, for FLUX.1's latent",
    ),
    "taef2": Known(
        {
            "encoder.pth": Download(
                _TAESD + "taef2_encoder.pth", 2704692,
                "10a4e1021e89d7551eaf161352da8dbd0b1aa83872ae28b150c1df1ce2f147b6",
            ),
            "decoder.pth": Download(
                _TAESD + "taef2_decoder.pth", 2704756,
                "0a44a31e1ae59eb9dbf9359d24942fd3ef5928162c1800d97a28c61d51be0ab5",
            ),
        },
        "tiny, for FLUX.2's latent", "MIT", prefix="ac37457fafa9b836",
    ),
    "sd": _kl(
        "stable-diffusion-v1-5/stable-diffusion-v1-5/resolve/451f4fe16113bff5a5d2269ed5ad43b0592e9a14/vae",
        (547, "786a7d21647ddea6a04b9675c03d3cb45e90a2f3c6da5fbda2c54ade040036de"),
        (334643276, "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c"),
        "Stable Diffusion 1.x's own", "CreativeML OpenRAIL-M",
    ),
    "sd-vae-ft-mse": _kl(
        "stabilityai/sd-vae-ft-mse/resolve/31f26fdeee1355a5c34592e401dd41e45d25a493",
        (547, "92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e"),
        (334643276, "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815"),
        "Stable Diffusion 1.x's, its decoder trained on for fidelity", "MIT",
    ),
    "sdxl": _kl(
        "stabilityai/sdxl-vae/resolve/6f5909a7e596173e25d4e97b07fd19cdf9611c76",
        (607, "1ab8e39aeac945453e4c4bd1dd4d0953c566cb9eb9291f87cd316e75c61073cf"),
        (334643268, "1598f3d24932bcfe6634e8b618ea1e30ab1d57f5aad13a6d2de446d2199f2341"),
        "Stable Diffusion XL's own", "MIT",
    ),
}  # fmt: skip


def download(known: Known, folder: Path, progress: Progress) -> None:
    """Get a model's files into a folder, and check them.

    Raises:
        ModelError: one cannot be got, or is not what it must be; the folder may hold others by then.
    """
    total = sum(file.size for file in known.files.values())
    done = 0
    for name, file in known.files.items():
        checksum = sha256()
        try:
            with (folder / name).open("wb") as out:
                for piece in _pieces(file):
                    out.write(piece)
                    checksum.update(piece)
                    done += len(piece)
                    progress(done, total)
        except (OSError, ValueError) as error:  # urllib's errors are OSErrors
            raise ModelError(f"{file.url} could not be got ({error}): check the network and try again") from error
        if checksum.hexdigest() != file.sha256:
            raise ModelError(f"{file.url} is not what it was when it was listed, or arrived damaged: nothing was kept")


def _pieces(file: Download) -> Iterator[bytes]:
    """The contents, never more than what is expected and one piece."""
    from urllib.request import urlopen

    with urlopen(file.url, timeout=TIMEOUT) as response:
        left = file.size
        while left >= 0 and (piece := response.read(_PIECE)):
            left -= len(piece)
            yield piece
