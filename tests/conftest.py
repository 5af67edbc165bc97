"""Fixtures for tests of the plugin and the command line."""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fast_profile import FastProfile
from hypothesis import HealthCheck, settings
from PIL import Image, ImageFile

import codec.profiles
import pillow_clric

# Pictures in tests are tiny, and threads that wait for each other on a busy machine take 20 times as long. Before torch
# is imported, and for programs that tests start, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # tests' own servers

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

EXIF = Image.Exif()
EXIF[0x010F] = "Maker"
EXIF[0x0112] = 6  # orientation
EXIF.get_ifd(0x8769)[0x829A] = 0.5  # exposure time
METADATA: dict[str, Any] = {"exif": EXIF.tobytes(), "icc_profile": b"a colour profile", "xmp": b"<x:xmpmeta/>"}


def opened(data: bytes) -> ImageFile.ImageFile:
    return Image.open(BytesIO(data))


def saved(image: Image.Image, **options: Any) -> ImageFile.ImageFile:
    buffer = BytesIO()
    image.save(buffer, "CLRIC", **options)
    return opened(buffer.getvalue())


def same(image: Image.Image, other: Image.Image) -> bool:
    return image.mode == other.mode and image.size == other.size and image.tobytes() == other.tobytes()


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def run(*arguments: str | Path) -> Result:
    """Run `clric-convert` in this process."""
    from pillow_clric import cli  # its options are those of the profiles that there are by then

    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def icc_profile(colours: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2: a header, a table of tags, and these."""
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    illuminant = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    head = struct.pack(">I4xI4s4s4s12x4s28x", start + len(body), 0x2400000, kind, colours, b"XYZ ", b"acsp")
    return head.replace(b"XYZ ", b"Lab " if colours == b"CMYK" else b"XYZ ") + illuminant + bytes(48) + table + body


def display_p3() -> bytes:
    """A profile of RGB with wider primaries than sRGB's."""
    columns = {b"r": (0.5151, 0.2412, -0.0011), b"g": (0.2920, 0.6922, 0.0419), b"b": (0.1571, 0.0666, 0.7841)}
    white = b"XYZ " + struct.pack(">4x3i", 0xF6D6, 0x10000, 0xD32D)
    tags = {b"wtpt": white, **{c + b"TRC": b"curv" + struct.pack(">4xIH", 1, 0x233) for c in columns}}
    for name, column in columns.items():
        tags[name + b"XYZ"] = b"XYZ " + struct.pack(">4x3i", *(round(65536 * v) for v in column))
    return icc_profile(b"RGB ", b"mntr", tags)


def cmyk_profile() -> bytes:
    """A profile of CMYK in which all inks are grey."""
    identity, levels = bytes(range(256)), range(16)
    colours = b"".join(bytes([255 - 60 * level.bit_count(), 128, 128]) for level in levels)
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4 + colours + identity * 3
    return icc_profile(b"CMYK", b"prtr", {b"A2B0": table})


@contextmanager
def no_space(count: int) -> Iterator[None]:
    """Files cannot become larger than this, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def hostile_folder(parent: Path) -> Path:
    """A folder with modules that leave a file `executed` there, called like some that are imported."""
    folder = parent / "hostile"
    folder.mkdir()
    names = "codec pillow_clric random pickle socket multiprocessing subprocess numpy torch"
    for name in names.split():
        (folder / f"{name}.py").write_text(f"open({str(folder / 'executed')!r}, 'w').write({name!r})")
    return folder


@pytest.fixture
def fast_profile(monkeypatch: pytest.MonkeyPatch) -> FastProfile:
    """Makes a lossless profile that takes no time the only one there is."""
    profile = FastProfile()
    monkeypatch.setattr(codec.profiles, "profiles", lambda: (profile,))
    return profile


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets files be converted one by one in this process, the only one that knows the fast profile."""
    monkeypatch.setattr("pillow_clric.convert.run.cores", lambda: 1)
    monkeypatch.setattr("pillow_clric.convert.run.on_gpu", lambda device: False)


@pytest.fixture
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits compute in float32 on any processor: for tests of their mathematics."""
    monkeypatch.setattr("codec.device._cpu_has_bfloat16", lambda: False)


@pytest.fixture
def few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of profile coolchic take as few as use all operations, where it does not matter how good they are."""
    from codec.overfit.soap import EVERY
    from codec.profiles.coolchic import encoder

    monkeypatch.setitem(encoder.ITERATIONS, 1, (EVERY + 2, 2))


@pytest.fixture
def photo() -> Image.Image:
    """A smooth RGB picture of 48 x 32 with some noise."""
    y, x = np.mgrid[:32, :48]
    noise = np.random.default_rng(0).integers(0, 8, (32, 48))
    return Image.fromarray(np.stack([5 * x, 7 * y, 2 * (x + y) + noise], axis=-1).astype(np.uint8))


@pytest.fixture
def clric(fast_profile: FastProfile, photo: Image.Image) -> bytes:
    """`photo` as a file of the fast profile."""
    return pillow_clric.encode(photo)


@pytest.fixture
def clric_path(clric: bytes, tmp_path: Path) -> Path:
    """`clric` on disk."""
    path = tmp_path / "photo.clric"
    path.write_bytes(clric)
    return path


@pytest.fixture(scope="session", autouse=True)
def no_models_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models that the user of this machine has added are not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLRIC_MODELS", str(tmp_path_factory.mktemp("models")))
        yield


@pytest.fixture
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models, which programs that are started find too."""
    folder = tmp_path_factory.mktemp("store")
    monkeypatch.setenv("CLRIC_MODELS", str(folder))
    return folder


@pytest.fixture(scope="module")
def golden_models() -> Iterator[None]:
    """The models of golden files are in the store, for programs that are started, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLRIC_MODELS", str(Path(__file__).parent / "golden"))
        yield


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment variables of programs for which a server on this machine is S3."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "name",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path_factory.mktemp("aws") / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server.stop()
