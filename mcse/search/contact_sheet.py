"""A contact sheet: images in a grid, each with its rank, score and name below, as one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

_CELL = 224
_GAP = 16
_TEXT = 40  # two lines below each image
_TITLE_LINE = 30
_PAPER, _INK, _FAINT, _EMPTY = (251, 251, 249), (29, 33, 38), (93, 102, 112), (223, 226, 229)


@dataclass(frozen=True, slots=True)
class SheetCell:
    """An image in RGB, or ``None`` where it cannot be read, and two lines of text."""

    image: Image.Image | None
    heading: str
    text: str


def contact_sheet(cells: Sequence[SheetCell], *, title: str, columns: int = 4) -> Image.Image:
    """The cells row by row, each image fitted into a square without being cut; a text too long begins with "…".

    Raises:
        ValueError: No cells, or ``columns`` below 1.
    """
    if not cells:
        raise ValueError("a contact sheet needs at least one image")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, len(cells))
    font, large = ImageFont.load_default(size=14), ImageFont.load_default(size=18)
    width = max(columns * (_CELL + _GAP) + _GAP, 360)
    lines = _wrapped(title, large, width=width - 2 * _GAP)
    top = _GAP + len(lines) * _TITLE_LINE
    rows = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (width, top + rows * (_CELL + _TEXT + _GAP) + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((_GAP, _GAP + number * _TITLE_LINE), line, fill=_INK, font=large)
    for number, cell in enumerate(cells):
        x = _GAP + (number % columns) * (_CELL + _GAP)
        y = top + (number // columns) * (_CELL + _TEXT + _GAP)
        if cell.image is None:
            pen.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), outline=_EMPTY, width=2)
            pen.text((x + _CELL / 2, y + _CELL / 2), "cannot be read", fill=_FAINT, font=font, anchor="mm")
        else:
            small = ImageOps.contain(cell.image.convert("RGB"), (_CELL, _CELL))
            sheet.paste(small, (x + (_CELL - small.width) // 2, y + (_CELL - small.height) // 2))
        pen.text((x, y + _CELL + 4), _cut(cell.heading, font), fill=_INK, font=font)
        pen.text((x, y + _CELL + 21), _cut(cell.text, font), fill=_FAINT, font=font)
    return sheet


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of the text's end as fits below an image: names differ there."""
    if font.getlength(text) <= _CELL:
        return text
    while text and font.getlength("…" + text) > _CELL:
        text = text[1:]
    return "…" + text


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, *, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
