"""Pictures that are no photos, to train with: text, windows, charts, shapes, patterns, gradients, noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Generator = np.random.Generator
Colour = tuple[int, int, int]

LETTERS = "etaoin shrdlu cmfwyp vbgkqjxz ETAOIN 0123456789 .,;:!?-+()/%"


def draw(side: int, generator: Generator) -> NDArray[np.uint8]:
    """A random one, (side, side, 3)."""
    picture = Image.new("RGB", (side, side), _background(generator))
    kinds = (_page, _window, _chart, _shapes, _pattern, _gradient, _flat)
    kinds[generator.integers(len(kinds))](picture, generator)
    return np.asarray(picture)


def _colour(generator: Generator) -> Colour:
    red, green, blue = generator.integers(256, size=3).tolist()
    return red, green, blue


def _background(generator: Generator) -> Colour:
    """White, black, grey, or any colour."""
    grey = int(generator.integers(256))
    choices: tuple[Colour, ...] = ((255,) * 3, (0,) * 3, (grey,) * 3, _colour(generator))
    return choices[generator.integers(4)]


def _ink(background: Colour, generator: Generator) -> Colour:
    """Black or white, whichever stands out, or any colour."""
    return ((0,) * 3 if sum(background) > 384 else (255,) * 3) if generator.random() < 0.7 else _colour(generator)


def _words(count: int, generator: Generator) -> str:
    return "".join(LETTERS[i] for i in generator.integers(len(LETTERS), size=count))


def _write(
    picture: Image.Image, box: tuple[int, int, int, int], size: float, ink: Colour, generator: Generator
) -> None:
    """Fill a box (left, top, right, bottom) with lines of text."""
    font, pen = ImageFont.load_default(size), ImageDraw.Draw(picture)
    left, top, right, bottom = box
    for y in range(top, max(top + 1, bottom - round(size)), max(1, round(1.3 * size))):
        letters = int(generator.uniform(0.3, 1) * (right - left) / (0.55 * size)) + 1
        pen.text((left, y), _words(letters, generator), ink, font)


def _page(picture: Image.Image, generator: Generator) -> None:
    """Text of one size, as on a page or in an editor."""
    side, background = picture.width, picture.getpixel((0, 0))
    assert isinstance(background, tuple)
    margin = int(generator.integers(side // 8 + 1))
    size = float(np.exp(generator.uniform(np.log(8), np.log(48))))
    _write(picture, (margin, margin, side, side), size, _ink(_rgb(background), generator), generator)


def _rgb(colour: tuple[float, ...]) -> Colour:
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def _window(picture: Image.Image, generator: Generator) -> None:
    """Overlapping panels with bars, buttons and text, as on a screen."""
    side, pen = picture.width, ImageDraw.Draw(picture)
    for _ in range(generator.integers(2, 6)):
        left, top = generator.integers(-side // 4, side, size=2).tolist()
        width, height = generator.integers(side // 6, side, size=2).tolist()
        panel = _background(generator)
        corner, line = int(generator.integers(12)), int(generator.integers(1, 3))
        pen.rounded_rectangle((left, top, left + width, top + height), corner, panel, _colour(generator), line)
        pen.rectangle((left, top, left + width, top + int(generator.integers(8, 28))), _colour(generator))
        size = float(generator.uniform(8, 18))
        box = (left + 6, top + 30, min(side, left + width - 6), top + height)
        if box[2] > box[0]:
            _write(picture, box, size, _ink(panel, generator), generator)


def _chart(picture: Image.Image, generator: Generator) -> None:
    """Axes with bars or lines, some of them a pixel wide."""
    side, pen = picture.width, ImageDraw.Draw(picture)
    count, width = int(generator.integers(4, 24)), int(generator.integers(1, 4))
    heights = generator.integers(side, size=count).tolist()
    places = np.linspace(side * 0.08, side * 0.95, count).round().astype(int).tolist()
    for y in range(int(generator.integers(side // 8 + 1)), side, int(generator.integers(8, side // 4 + 9))):
        pen.line((0, y, side, y), _colour(generator))
    if generator.random() < 0.5:
        bar, colour = max(1, side // (2 * count)), _colour(generator)
        for x, height in zip(places, heights, strict=True):
            pen.rectangle((x, side - height, x + bar, side), colour)
    else:
        for _ in range(generator.integers(1, 4)):
            points = list(zip(places, generator.permutation(heights).tolist(), strict=True))
            pen.line(points, _colour(generator), width)


def _shapes(picture: Image.Image, generator: Generator) -> None:
    """Flat shapes with hard borders, as in a logo or a drawing."""
    side, pen = picture.width, ImageDraw.Draw(picture)
    draws: tuple[Callable[..., None], ...] = (pen.ellipse, pen.rectangle)
    for _ in range(generator.integers(3, 20)):
        x, y = generator.integers(-side // 4, side, size=2).tolist()
        width, height = np.exp(generator.uniform(0, np.log(side), size=2)).astype(int).tolist()
        outline = _colour(generator) if generator.random() < 0.3 else None
        if generator.random() < 0.7:
            draws[generator.integers(2)]((x, y, x + width, y + height), _colour(generator), outline)
        else:
            pen.line(
                (x, y, *generator.integers(side, size=2).tolist()), _colour(generator), int(generator.integers(1, 5))
            )


def _pattern(picture: Image.Image, generator: Generator) -> None:
    """Lines, checkers or dots of one to four pixels, over all of it or a part, as in a table, a mesh or a dither."""
    side, ink = picture.width, _ink(_rgb(picture.getpixel((0, 0))), generator)  # type: ignore[arg-type]
    rows, columns = np.mgrid[:side, :side] // int(generator.integers(1, 5))
    period = int(generator.integers(2, 6))
    there = (rows * generator.integers(2) + columns * generator.integers(-1, 2)) % period == 0
    if generator.random() < 0.3:
        there &= rows % period == 0
    top, left = generator.integers(-side, side // 2, size=2).clip(0).tolist()
    mask = np.zeros((side, side), bool)
    mask[top:, left : left + int(generator.integers(side // 4, side + 1))] = True
    picture.paste(ink, mask=Image.fromarray(there & mask))


def _gradient(picture: Image.Image, generator: Generator) -> None:
    """A smooth gradient between two colours, as a sky or a banner has it."""
    side = picture.width
    angle = generator.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:side, :side] / side
    position = np.clip((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) + 0.5, 0, 1)[..., None]
    first, second = (np.array(_colour(generator), dtype=float) for _ in range(2))
    picture.paste(Image.fromarray((first + (second - first) * position).round().astype(np.uint8)))
    if generator.random() < 0.5:
        size = float(generator.uniform(12, 60))
        _write(picture, (side // 8, side // 3, side, side // 2 + round(size)), size, _colour(generator), generator)


def _flat(picture: Image.Image, generator: Generator) -> None:
    """One colour, with noise on half of them."""
    if generator.random() < 0.5:
        deviation = float(np.exp(generator.uniform(np.log(1), np.log(60))))
        channels = int(generator.choice((1, 3)))
        noise = generator.normal(0, deviation, (picture.height, picture.width, channels))
        picture.paste(Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).round().astype(np.uint8)))
