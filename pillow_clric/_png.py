"""What PNG files say of their samples and Pillow forgets: put into `info` as they are opened."""

from __future__ import annotations

from PIL import ImageFile, PngImagePlugin

__all__ = ["register_png_chunks"]


class _Stream(PngImagePlugin.PngStream):
    """Reads the chunks of a PNG file, each by a method of its name."""

    def chunk_IHDR(self, pos: int, length: int) -> bytes:  # noqa: N802
        """Keep that samples have 16 bits, which nothing tells once they are loaded: "bit_depth", as of pillow_heif."""
        data = super().chunk_IHDR(pos, length)
        if ";16" in (self.im_rawmode or ""):
            self.im_info["bit_depth"] = 16
        return data

    def chunk_cICP(self, pos: int, length: int) -> bytes:  # noqa: N802
        """Keep primaries, transfer function, matrix and range by their codes in ITU-T H.273: "cicp"."""
        assert self.fp is not None
        data = ImageFile._safe_read(self.fp, length)
        if length == 4:
            self.im_info["cicp"] = tuple(data)
        return data


def register_png_chunks() -> None:
    """Let Pillow read these chunks, too."""
    PngImagePlugin.PngStream = _Stream  # type: ignore[misc]
