"""The format in Pillow: open, load, verify, save, and the functions `encode`, `decode` and `info`."""

from __future__ import annotations

import copy
import io
import itertools
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import METADATA, no_space, opened, same, saved
from fast_profile import FastProfile
from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

import codec
import pillow_clric
from codec.container import Header, Section, pack, unpack
from codec.profiles import DEFAULT
from pillow_clric import ClricImageFile, FormatError, UnsupportedError, options

GOLDEN = Path(__file__).parent / "golden"
SAMPLE = Path(__file__).parents[1] / "samples" / "coffee.clric"


# Open


def test_registered() -> None:
    before = list(Image.ID)
    pillow_clric.register_clric_opener()
    assert before == Image.ID
    assert Image.registered_extensions()[".clric"] == "CLRIC"
    assert Image.MIME["CLRIC"] == "image/x-clric"


def test_public_names() -> None:
    for name in pillow_clric.__all__:
        assert getattr(pillow_clric, name) is not None


def test_open(clric_path: Path, photo: Image.Image) -> None:
    with Image.open(clric_path) as image:
        assert isinstance(image, ClricImageFile)
        assert image.format == "CLRIC"
        assert image.get_format_mimetype() == "image/x-clric"
        assert (image.size, image.mode, image.info) == (photo.size, "RGB", {})
        assert not image.is_animated
        assert image.n_frames == 1
        image.seek(0)
        with pytest.raises(EOFError):
            image.seek(1)
        assert same(image, photo)


def test_open_imports_nothing_heavy(clric_path: Path) -> None:
    script = f"""
import sys
import pillow_clric
from PIL import Image
Image.init()
with Image.open({str(clric_path)!r}) as image:
    pass
heavy = {{"torch", "numpy", "constriction", "rich", "click"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_open_decodes_nothing(clric: bytes, fast_profile: FastProfile) -> None:
    image = opened(clric)
    assert fast_profile.devices == []
    image.load()
    image.load()
    assert fast_profile.devices == ["cpu"]


def test_wrong_magic_is_left_to_others() -> None:
    with pytest.raises(SyntaxError, match="not a CLRIC file"):
        ClricImageFile(BytesIO(b"not this format at all"))
    with pytest.raises(UnidentifiedImageError):
        opened(b"not this format at all")


def test_newer_version_is_named(clric: bytes) -> None:
    newer = bytearray(clric)
    newer[3] += 0x10
    with pytest.raises(FormatError, match=r"version 2.*update"):
        opened(bytes(newer))


def test_decompression_bomb() -> None:
    bomb = pack(Header(2**14, 2**14, "RGB", 15), {Section.GRIDS: b"tiny"})
    with pytest.raises(Image.DecompressionBombError):
        opened(bomb)
    with pytest.raises(Image.DecompressionBombError):
        pillow_clric.decode(bomb)


def test_metadata_beyond_the_end_allocates_nothing() -> None:
    data = pack(Header(4, 4, "RGB", 15), {Section.ICC: bytes(2**24)})
    with pytest.raises(FormatError, match="ICC section"):
        opened(data[:100])


# Load


def test_file_objects_stay_open(clric: bytes, photo: Image.Image) -> None:
    fp = BytesIO(clric)
    with Image.open(fp) as image:
        assert same(image, photo)
    assert not fp.closed


def test_file_within_a_stream(clric: bytes, photo: Image.Image) -> None:
    fp = BytesIO(b"before" + clric + b"after")
    fp.seek(6)
    image = ClricImageFile(fp)
    assert same(image, photo)
    assert fp.read() == b"after"
    described = pillow_clric.encode(photo, **METADATA)
    for data in (described, described[:-1] + bytes([described[-1] ^ 1])):
        fp = BytesIO(b"before" + data + b"after")
        fp.seek(6)
        image = ClricImageFile(fp)
        assert image.info == METADATA
        if data == described:
            image.verify()
        else:
            with pytest.raises(FormatError, match="checksum"):
                image.verify()


def test_not_seekable(clric: bytes, photo: Image.Image) -> None:
    class Pipe:
        read = BytesIO(clric).read

    assert same(Image.open(Pipe()), photo)  # type: ignore[arg-type]


def test_closed_after_load(clric_path: Path) -> None:
    image = Image.open(clric_path)
    fp = image.fp
    assert fp is not None
    image.load()
    assert fp.closed
    image.close()


def test_overwriting_the_opened_file(clric_path: Path, photo: Image.Image) -> None:
    with Image.open(clric_path) as image:
        image.save(clric_path)
    with Image.open(clric_path) as image:
        assert same(image, photo)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda image: pickle.loads(pickle.dumps(image))])
def test_pickle_and_copy(how: Any, loaded: bool, clric_path: Path, photo: Image.Image) -> None:
    with Image.open(clric_path) as image:
        if loaded:
            image.load()
        twin = how(image)
    assert same(twin, photo)
    assert same(how(twin), photo)
    assert twin.info == image.info
    twin.load()
    twin.close()


@pytest.mark.parametrize("step", [1, 7, 100, 10**6])
def test_parser(step: int, photo: Image.Image, fast_profile: FastProfile) -> None:
    data = pillow_clric.encode(photo, **METADATA)
    with ImageFile.Parser() as parser:
        for start in range(0, len(data), step):
            parser.feed(data[start : start + step])
        image = parser.close()
    assert same(image, photo)
    assert image.info == METADATA


def test_parser_needs_the_whole_file(clric: bytes) -> None:
    parser = ImageFile.Parser()
    parser.feed(clric[:-1])
    with pytest.raises(OSError, match="truncated"):
        parser.close()


def test_thumbnail(clric: bytes) -> None:
    image = opened(clric)
    image.thumbnail((12, 12))
    assert image.size == (12, 8)


# Damage


def test_every_truncation_is_an_error(clric: bytes) -> None:
    for length in range(len(clric)):
        with pytest.raises(OSError, match=r"."):
            opened(clric[:length]).load()
        with pytest.raises(FormatError, match=r"."):
            pillow_clric.decode(clric[:length])


def test_truncated_images_load_if_asked(
    photo: Image.Image, fast_profile: FastProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pillow_clric.encode(photo, **METADATA)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    header = unpack(data).header
    first_grid_byte = header.spans[Section.GRIDS][0]
    for length in range(header.size, len(data)):
        image = opened(data[:length])  # with the metadata that are whole
        assert image.info.items() <= METADATA.items()
        if length < first_grid_byte:
            with pytest.raises(FormatError, match="weights"):
                image.load()
        else:
            image.load()
            assert image.size == photo.size
    assert image.tobytes()[:1000] == photo.tobytes()[:1000]


def test_every_damaged_byte_is_an_error(clric: bytes) -> None:
    for position in range(len(clric)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(clric)
            damaged[position] ^= flip
            with pytest.raises(OSError, match=r"."):
                opened(bytes(damaged)).load()


def test_a_failed_load_fails_again(clric: bytes) -> None:
    image = opened(clric[:-1] + bytes([clric[-1] ^ 1]))
    for _ in range(2):
        with pytest.raises(FormatError, match="checksum"):
            image.load()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.clric")), ids=lambda path: path.stem)
def test_verify_passes_good_files(path: Path) -> None:
    with Image.open(path) as image:
        image.verify()


def test_verify_needs_no_torch() -> None:
    script = f"""
import sys
from pathlib import Path
from PIL import Image
import pillow_clric
for path in Path({str(GOLDEN)!r}).glob("*.clric"):
    with Image.open(path) as image:
        image.verify()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("profile", "name"), [("clric", "clric-rgb"), ("coolchic", "rgb"), ("msp", "msp-photo"), ("vq", "vq-photo")]
)
def test_verify_checks_the_structure(profile: str, name: str) -> None:
    """Structures that are wrong are found although the checksums are right."""
    found = unpack((GOLDEN / f"{name}.clric").read_bytes())
    wrong = [replace(found.header, profile=15)]
    wrong += [replace(found.header, model=b"")] if profile != "coolchic" else []
    missing = [{section: body} for section, body in found.sections.items()]  # the other one
    bodies = missing if len(missing) > 1 else [{Section.GRIDS: body} for body in (b"", b"\x00\x00", b"\xff" * 9)]
    if profile == "coolchic":
        weights = found.sections[Section.WEIGHTS]
        bodies += [{**found.sections, Section.WEIGHTS: body} for body in (b"\xff" * 40, weights + b"much more")]
    for header, sections in [(header, found.sections) for header in wrong] + [(found.header, body) for body in bodies]:
        with pytest.raises(FormatError, match=r"\w{3}"):
            opened(pack(header, sections)).verify()


def test_verify(clric: bytes, clric_path: Path, fast_profile: FastProfile) -> None:
    with Image.open(clric_path) as image:
        fp = image.fp
        image.verify()
        assert fp is not None
        assert fp.closed
        with pytest.raises(RuntimeError, match="directly after open"):
            image.verify()
    clric_path.write_bytes(clric[:-1] + b"?")
    with Image.open(clric_path) as image:
        fp = image.fp
        with pytest.raises(FormatError, match="checksum"):
            image.verify()
        assert fp is not None
        assert fp.closed
    with pytest.raises(FormatError, match="truncated"):
        opened(clric[:-1]).verify()
    assert fast_profile.devices == []


# Save


@pytest.mark.parametrize("end", ["verify", "close"])
def test_load_after_the_end(end: str, clric: bytes, clric_path: Path) -> None:
    for source in (clric_path, BytesIO(clric)):
        image = Image.open(source)
        getattr(image, end)()
        with pytest.raises(ValueError, match="open it again"):
            image.load()


def test_options_arrive(photo: Image.Image, fast_profile: FastProfile) -> None:
    calls: list[tuple[int, int]] = []
    options: dict[str, Any] = {"quality": 12.5, "effort": 3, "device": "cpu", "seed": 7}
    saved(photo, **options, progress=lambda done, total: calls.append((done, total)))
    settings = fast_profile.used[-1]
    assert {name: getattr(settings, name) for name in options} == options
    assert calls == [(1, 3), (2, 3), (3, 3)]

    saved(photo, quality=0)
    saved(photo, quality=100)
    assert [settings.quality for settings in fast_profile.used[-2:]] == [0, 100]


def test_lossless_is_refused(photo: Image.Image, fast_profile: FastProfile) -> None:
    with pytest.raises(ValueError, match="lossy"):
        saved(photo, lossless=True)
    assert same(saved(photo, lossless=False), photo)


@pytest.mark.parametrize("how", [{"save_all": True}, {}])
def test_animations_are_refused(how: dict[str, Any], photo: Image.Image, fast_profile: FastProfile) -> None:
    with pytest.raises(ValueError, match=r"one image.* append_images"):
        saved(photo, append_images=[photo], **how)
    assert same(saved(photo, save_all=True), photo)


def test_errors_leave_no_new_file(photo: Image.Image, fast_profile: FastProfile, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quality"):
        photo.save(tmp_path / "new.clric", quality=101)
    assert not any(tmp_path.iterdir())


def test_one_write(photo: Image.Image, fast_profile: FastProfile) -> None:
    class File(BytesIO):
        writes = 0

        def write(self, data: Any) -> int:
            self.writes += 1
            return super().write(data)

    fp = File()
    photo.save(fp, "CLRIC")
    assert fp.writes == 1
    assert fp.getvalue() == pillow_clric.encode(photo)
    assert not fp.closed


class Trickle(io.RawIOBase):
    """Takes 100 bytes at a time, and in all at most `room`."""

    def __init__(self, room: int = 10**6) -> None:
        self.taken, self.room = b"", room

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        count = min(100, len(data), self.room - len(self.taken))
        self.taken += bytes(data[:count])
        return count or None


@pytest.mark.parametrize("buffered", [False, True])
def test_writers_that_take_a_part(buffered: bool, photo: Image.Image, fast_profile: FastProfile) -> None:
    raw = Trickle()
    fp: Any = io.BufferedWriter(raw) if buffered else raw
    photo.save(fp, "CLRIC")
    assert raw.taken == pillow_clric.encode(photo)


def test_writers_that_would_block(photo: Image.Image, fast_profile: FastProfile) -> None:
    for room in (0, 250):
        fp: Any = Trickle(room)
        with pytest.raises(BlockingIOError, match="not complete"):
            photo.save(fp, "CLRIC")


@pytest.mark.parametrize("mode", ["wb", "r+b"])
def test_file_in_the_middle_of_another(mode: str, photo: Image.Image, clric: bytes, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(b"overwritten" + bytes(len(clric)) + b"more")
    with path.open(mode) as fp:
        fp.write(b"before")
        photo.save(fp, "CLRIC")
        fp.write(b"after")
    assert path.read_bytes().startswith(b"before" + clric + b"after")


def test_full_disk_leaves_no_new_file(photo: Image.Image, fast_profile: FastProfile, tmp_path: Path) -> None:
    with no_space(100), pytest.raises(OSError, match="too large"):
        photo.save(tmp_path / "new.clric")
    assert not any(tmp_path.iterdir())


def test_full_disk_leaves_no_part_of_a_file(
    photo: Image.Image, clric: bytes, fast_profile: FastProfile, tmp_path: Path
) -> None:
    """Pillow empties what is written over; what was there before the end of an open file stays."""
    path = tmp_path / "there.clric"
    path.write_bytes(clric)
    with no_space(100), pytest.raises(OSError, match="too large"):
        photo.save(path)
    assert path.read_bytes() == b""
    for buffering in (0, -1):
        with path.open("ab", buffering) as fp:
            fp.write(b"before")
            with no_space(100), pytest.raises(OSError, match="too large"):
                photo.save(fp, "CLRIC")
            fp.write(b"after")
        assert path.read_bytes() == b"beforeafter"
        path.write_bytes(b"")
    path.write_bytes(clric)
    with path.open("r+b") as fp:
        fp.seek(50)
        with no_space(100), pytest.raises(OSError, match="too large"):
            photo.save(fp, "CLRIC")
    assert len(path.read_bytes()) == len(clric)


def test_full_device(photo: Image.Image, fast_profile: FastProfile) -> None:
    with pytest.raises(OSError, match="No space left"):
        photo.save("/dev/full", "CLRIC")


# Functions


def test_decode(photo: Image.Image, fast_profile: FastProfile) -> None:
    image = pillow_clric.decode(pillow_clric.encode(photo, **METADATA), device="cpu")
    assert same(image, photo)
    assert image.info == METADATA
    assert fast_profile.devices == ["cpu"]
    with pytest.raises(FormatError, match=r"not a \.clric file"):
        pillow_clric.decode(b"GIF89a")


def test_info_of_a_file(clric: bytes, clric_path: Path) -> None:
    info = pillow_clric.info(clric_path)
    assert info == pillow_clric.info(str(clric_path)) == pillow_clric.info(clric) == pillow_clric.info(BytesIO(clric))
    assert (info.width, info.height, info.mode, info.profile) == (48, 32, "RGB", DEFAULT)
    assert (info.model, info.version) == ("", (1, 0))
    assert list(info.sections) == ["header", "weights", "grids"]
    assert info.file_size == len(clric)
    assert info.bpp == 8 * len(clric) / (48 * 32)
    with pytest.raises(FormatError):
        pillow_clric.info(b"GIF89a")


def with_gaps(data: bytes) -> memoryview:
    return memoryview(b"".join(bytes([value, 0]) for value in data))[::2]


@pytest.mark.parametrize("kind", [bytearray, memoryview, with_gaps])
def test_other_objects_of_bytes(kind: Any, clric: bytes, photo: Image.Image) -> None:
    assert pillow_clric.info(kind(clric)) == pillow_clric.info(clric)
    assert same(pillow_clric.decode(kind(clric)), photo)
    pillow_clric.verify(kind(clric))
    with pytest.raises(UnsupportedError, match="not in packets"):
        pillow_clric.repair(kind(clric))


def test_what_holds_no_bytes() -> None:
    functions: list[Any] = [pillow_clric.info, pillow_clric.decode, pillow_clric.verify, pillow_clric.repair]
    for function, wrong in itertools.product(functions, (5, ["photo.clric"])):
        with pytest.raises(TypeError, match=f"as bytes, not as {type(wrong).__name__}"):
            function(wrong)
    for wrong in (None, "photo.clric"):
        for function in functions[1:]:
            with pytest.raises(TypeError, match=f"as bytes, not as {type(wrong).__name__}"):
                function(wrong)


def test_openers_of_other_plugins_stay(monkeypatch: pytest.MonkeyPatch, photo: Image.Image) -> None:
    """What registers for a format of Pillow's is asked as before, whatever is imported first."""

    class Other(PngImagePlugin.PngImageFile):
        pass

    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN})
    Image.register_open("PNG", Other, lambda prefix: prefix.startswith(b"\x89PNG"))
    for _ in range(2):
        pillow_clric.register_clric_opener()
    opener = Image.OPEN["PNG"][0]
    pillow_clric.register_clric_opener()
    assert Image.OPEN["PNG"][0] is opener
    buffer = BytesIO()
    photo.save(buffer, "PNG")
    assert type(opened(buffer.getvalue())) is Other


def test_info_of_a_file_imports_nothing_heavy(clric_path: Path) -> None:
    script = f"""
import sys, pillow_clric
pillow_clric.info({str(clric_path)!r})
assert not {{"torch", "numpy", "constriction"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_info_of_an_unknown_profile(fast_profile: FastProfile) -> None:
    assert pillow_clric.info(pack(Header(4, 4, "L", 14), {Section.GRIDS: b"?"})).profile == "unknown (14)"


def test_info_of_the_installation(fast_profile: FastProfile) -> None:
    info = pillow_clric.info()
    assert info["pillow-clric"] == pillow_clric.__version__
    assert info["profiles"] == [DEFAULT]
    assert "cpu" in info["devices"]


# The real profile, through the public interface


@pytest.fixture(scope="module")
def real() -> tuple[Image.Image, bytes]:
    """A small picture and its file."""
    y, x = np.mgrid[:24, :32]
    picture = Image.fromarray(np.stack([8 * x, 10 * y, 4 * (x + y)], axis=-1).astype(np.uint8))
    return picture, pillow_clric.encode(picture, effort=1, device="cpu", **METADATA)


def test_real_roundtrip(real: tuple[Image.Image, bytes]) -> None:
    picture, data = real
    image = opened(data)
    assert image.info == METADATA
    assert (image.mode, image.size) == (picture.mode, picture.size)
    error = np.asarray(image).astype(float) - np.asarray(picture)
    assert np.sqrt(np.mean(error**2)) < 5
    assert np.array_equal(codec.decode(data), np.asarray(image))


def test_real_damage(real: tuple[Image.Image, bytes]) -> None:
    _, data = real
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        with pytest.raises(OSError, match=r"."):
            opened(bytes(damaged)).load()


def test_real_truncation(real: tuple[Image.Image, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    picture, data = real
    header = unpack(data).header
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    start = header.spans[Section.GRIDS][0] + 3  # behind the head
    for length in (start, (start + len(data)) // 2, len(data) - 1):
        image = opened(data[:length])
        image.load()
        assert image.size == picture.size
    with pytest.raises(FormatError):
        opened(data[: start - 1]).load()


def test_device_of_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "DEVICE", "cuda:99")
    with pytest.raises(RuntimeError, match="cuda:99"):
        Image.open(SAMPLE).load()
    assert pillow_clric.decode(SAMPLE.read_bytes(), device="cpu").size == Image.open(SAMPLE).size
    monkeypatch.setattr(options, "DEVICE", "cpu")
    Image.open(SAMPLE).load()


def test_device_of_load_by_environment() -> None:
    program = "from pillow_clric import options; print(options.DEVICE)"
    for told in ({}, {"CLRIC_DEVICE": ""}, {"CLRIC_DEVICE": "cuda:1"}):
        environment = {name: value for name, value in os.environ.items() if name != "CLRIC_DEVICE"} | told
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == (told.get("CLRIC_DEVICE") or "auto")
