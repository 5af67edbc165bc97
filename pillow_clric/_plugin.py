"""The format as Pillow knows it: open, load, verify and save."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom, BufferedWriter, FileIO, RawIOBase
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from PIL import Image, ImageFile

import codec
from codec import colour
from codec.container import MAGIC, Header, Section, TruncatedError, UnsupportedError, read_header
from pillow_clric import options as plugin_options
from pillow_clric._api import encode
from pillow_clric._metadata import EXIF_PREFIX
from pillow_clric._opened import register_openers
from pillow_clric._option_docs import options

if TYPE_CHECKING:
    from PIL._imaging import PixelAccess

__all__ = ["ClricImageFile", "register_clric_opener"]

_BLOCK = 2**20


class ClricImageFile(ImageFile.ImageFile):
    """A `.clric` file: its header and metadata are read at open, all else when pixels are needed.

    `info` has "exif" (as from JPEG, with the prefix `EXIF_PREFIX`), "icc_profile" and "xmp" as bytes where the file
    has them. With `ImageFile.LOAD_TRUNCATED_IMAGES` set, what there is of a truncated file is decoded.

    Raises:
        FormatError: the file is truncated, damaged, too new or too large; an `OSError` that says which.
    """

    format = "CLRIC"
    format_description = "clric learned compression"
    n_frames = 1
    is_animated = False

    def _open(self) -> None:
        assert self.fp is not None
        start = self.fp.tell()
        if not _accept(self.fp.read(len(MAGIC))):
            raise SyntaxError("not a CLRIC file")
        self.fp.seek(start)
        header = read_header(cast(BinaryIO, self.fp))

        self._lock = threading.RLock()
        self._size = header.width, header.height
        self._mode = header.mode
        self._read_metadata(header, start)
        self.tile = [ImageFile._Tile("clric", (0, 0, *self.size), start, (header.file_size, 1))]

    def _read_metadata(self, header: Header, start: int) -> None:
        assert self.fp is not None
        for section in (Section.ICC, Section.COLOUR, Section.EXIF, Section.XMP):  # colour counts more than a profile
            if section not in header.spans:
                continue
            offset, length = header.spans[section]
            self.fp.seek(start + offset)
            body = _read(self.fp, length)
            if len(body) == length:
                self._add_metadata(section, body, grey=header.channels == 1)
            elif not ImageFile.LOAD_TRUNCATED_IMAGES:
                raise TruncatedError(f"file is truncated: it ends in its {section.name} section; get the whole file")

    def _add_metadata(self, section: Section, body: bytes, *, grey: bool) -> None:
        if section == Section.EXIF:
            self.info["exif"] = EXIF_PREFIX + body
        elif section == Section.XMP:
            self.info["xmp"] = body
        elif section == Section.ICC:
            self.info["icc_profile"] = body
        else:
            try:
                self.info["icc_profile"] = colour.profile(body, grey=grey)
            except UnsupportedError as error:  # of a section that may be skipped
                if "icc_profile" not in self.info:
                    warnings.warn(f"{error}; its colours are shown as if they were sRGB", stacklevel=2)

    def draft(
        self, mode: str | None, size: tuple[int, int] | None
    ) -> tuple[str, tuple[int, int, float, float]] | None:  # fmt: skip
        """Make the image 2, 4 or 8 times smaller, but no smaller than `size`, before it is loaded; keep its mode.

        Large ones of profile `clric` are decoded much faster so, with a little less precision. `Image.thumbnail` makes
        use of it.

        Returns:
            Mode, and the part of the smaller image that the full-size one takes; None if nothing was changed.
        """
        if size is None or len(self.tile) != 1:
            return None
        tile = self.tile[0]
        file_size, before = _arguments(tile)
        width, height = self.size
        scale = max((s for s in codec.SCALES if s * size[0] <= width and s * size[1] <= height), default=1)
        if scale == 1 or before > 1:
            return None
        self._size = -(-width // scale), -(-height // scale)
        self.tile = [tile._replace(extents=(0, 0, *self.size), args=(file_size, scale))]
        return self.mode, (0, 0, width / scale, height / scale)

    def load(self) -> PixelAccess | None:
        if not self.tile:  # loaded, or unpickled
            return super().load()
        with self._lock:  # Pillow's own load() cannot be shared by threads
            if self.tile and self.fp is None:
                raise ValueError("a file that was verified or closed cannot be loaded: open it again")
            return super().load()

    def load_seek(self, pos: int) -> None:
        """Go to where the file starts. That this exists tells `ImageFile.Parser` to wait for the complete file."""
        assert self.fp is not None
        self.fp.seek(pos)

    def verify(self) -> None:
        """Check the file's checksums and structure, without computing the picture; directly after opening it."""
        if self.fp is None or not self.tile:
            raise RuntimeError("verify must be called directly after open")
        tile = self.tile[0]
        try:
            self.fp.seek(tile.offset)
            codec.verify(_read(self.fp, _arguments(tile)[0]))
        finally:
            super().verify()


class ClricDecoder(ImageFile.PyDecoder):
    """Decodes the one tile of a file. Its arguments: the file's size, a scale and, of `decode`, device and tune."""

    _pulls_fd = True

    def decode(self, buffer: Image.DecoderInput) -> tuple[int, int]:
        assert self.fd is not None
        file_size, scale, *told = self.args
        device, tune = told or (plugin_options.DEVICE, plugin_options.TUNE)
        pixels = codec.decode(
            _read(self.fd, file_size),
            device=device,
            allow_truncated=ImageFile.LOAD_TRUNCATED_IMAGES,
            scale=scale,
            tune=tune,
        )
        self.set_as_raw(pixels.tobytes())
        return -1, 0


def register_clric_opener() -> None:
    """Make Pillow know the format; importing the package has done so already. Calling it again changes nothing.

    Pillow also keeps what files say of their samples, which it forgets otherwise.
    """
    register_openers()
    Image.register_open(ClricImageFile.format, ClricImageFile, _accept)
    Image.register_decoder("clric", ClricDecoder)
    Image.register_save(ClricImageFile.format, _save)
    Image.register_save_all(ClricImageFile.format, _save_all)
    Image.register_extension(ClricImageFile.format, ".clric")
    Image.register_mime(ClricImageFile.format, "image/x-clric")


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def _arguments(tile: ImageFile._Tile) -> tuple[Any, ...]:
    assert isinstance(tile.args, tuple)
    return tile.args


def _read(fp: IO[bytes], count: int) -> bytes:
    """Up to `count` bytes: fewer at the file's end, and without allocating what a file merely claims to hold."""
    pieces = []
    while count and (piece := fp.read(min(count, _BLOCK))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """Write `im` with the arguments of `encode`; others are ignored, as Pillow's own plugins do.

    Pillow has emptied an existing target before this is called, and on an error removes only a target that it has
    created: another one is left empty, never with a part of a file. Where that matters, write the result of `encode`
    to another file that then takes the place of the first, as `clric-convert` does.
    """
    if im.encoderinfo.get("lossless"):
        raise ValueError("lossless=True is not supported: .clric files are lossy; use quality=100 for the best quality")
    info = im.encoderinfo
    names = {option.name for option in options()} | (encode.__kwdefaults__ or {}).keys()
    data = encode(im, **{name: value for name, value in info.items() if name in names})
    _write(fp, data)


def _save_all(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    if getattr(im, "n_frames", 1) > 1 or im.encoderinfo.get("append_images"):
        raise ValueError("a .clric file holds one image: save each on its own, without save_all=True and append_images")
    _save(im, fp, filename)


def _write(fp: IO[bytes], data: bytes) -> None:
    """Write all of `data`, to whatever takes how much of it at once; at the end of a file on disk all or nothing.

    Past a buffer: what that holds when a disk is full would fail again as Pillow closes the file, before it removes it.
    """
    if isinstance(fp, (BufferedRandom, BufferedWriter)):
        fp.flush()
        _write(cast(IO[bytes], fp.raw), data)
        if fp.seekable():
            fp.seek(fp.raw.tell())
        return
    with _taken_back(fp):
        left = memoryview(data)
        count: int | None = fp.write(data)  # nothing is said by writers that take all, and by those that would block
        while count != len(left) and (count is not None or isinstance(fp, RawIOBase)):
            if not count:
                raise BlockingIOError("the file takes no more bytes: what was written of it is not complete")
            left = left[count:]
            count = fp.write(left)


@contextmanager
def _taken_back(fp: IO[bytes]) -> Iterator[None]:
    """On an error, cut off what was added to a file; of one that is written over in its middle, nothing."""
    start = None
    if isinstance(fp, FileIO) and fp.seekable():
        start, end = fp.tell(), fp.seek(0, os.SEEK_END)
        fp.seek(start)
        start = start if start == end else None
    try:
        yield
    except BaseException:
        if start is not None:
            with suppress(OSError):  # it is a device
                fp.truncate(start)
                fp.seek(start)
        raise
