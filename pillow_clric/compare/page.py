"""The HTML page, which holds all that it needs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from io import BytesIO
from typing import Any

from PIL import Image

from pillow_clric import info
from pillow_clric.compare.codecs import Codec

_LARGEST_WEBP = 16383  # side, in pixels
_THUMBNAIL = 160  # pixels


def page(photos: list[dict[str, Any]], codecs: list[Codec], rates: list[float]) -> str:
    """The HTML page. Its script and its style are the only ones that browsers are allowed to obey in it."""
    template = files("pillow_clric.compare").joinpath("page.html").read_text("utf-8")
    pictures: dict[str, int] = {}  # each once, though it may be the nearest to several sizes

    def numbered(found: dict[str, Any]) -> dict[str, Any]:
        number = {"picture": pictures.setdefault(found["picture"], len(pictures))} if "picture" in found else {}
        return {**found, **number}

    data = {
        "codecs": [{"name": codec.name, "settings": codec.settings} for codec in codecs],
        "rates": rates,
        "photos": [numbered(photo) | {"files": [numbered(file) for file in photo["files"]]} for photo in photos],
        "pictures": list(pictures),
        "versions": info(),
    }
    values = {
        "script": _hash_of("script", template),
        "style": _hash_of("style", template),
        "data": json.dumps(data, allow_nan=False).replace("<", r"\u003c"),  # so that no name ends the script element
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _hash_of(tag: str, template: str) -> str:
    """The source expression of the template's only element of that kind, for its Content-Security-Policy."""
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def lossless(image: Image.Image) -> str:
    """A picture as a data URL, each sample as it is."""
    buffer = BytesIO()
    if max(image.size) > _LARGEST_WEBP:
        image.save(buffer, "PNG")
        return data_url(buffer.getvalue(), "image/png")
    image.save(buffer, "WEBP", lossless=True, quality=50, method=3)
    return data_url(buffer.getvalue(), "image/webp")


def thumbnail(image: Image.Image) -> str:
    """A small picture to choose by, as a data URL."""
    small, buffer = image.copy(), BytesIO()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    small.save(buffer, "WEBP", quality=80)
    return data_url(buffer.getvalue(), "image/webp")


def data_url(data: bytes, mime: str) -> str:
    """Bytes as a URL that holds them."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
