"""What a request to ``mcse serve`` holds, checked: its fields, texts, images and numbers; a refusal names the field."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from fastapi import Request
from PIL import Image

from mcse.images import decode_image
from mcse.reading import parse_json
from mcse.search.hardening import BODY_SECONDS, limited
from mcse.search.server import MAX_UPLOAD_PIXELS

MAX_TEXTS = 2048
"""Of one request, as OpenAI has it."""

MAX_CHARACTERS = 65536
"""Of one text; the model reads fewer tokens than that."""

MAX_BODY_MB = 16
MAX_IMAGES = 16

LARGE = 2**16
"""Bytes, or numbers, from which on other requests do not wait for JSON."""

Fields: TypeAlias = Mapping[str, Any]


class RequestError(Exception):
    """A request that is refused: HTTP status, words, and the field that is wrong."""

    def __init__(self, status: int, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.field, self.code = status, field, code


async def read_fields(request: Request, known: Sequence[str]) -> Fields:
    """The body's fields.

    Raises:
        RequestError: It is no JSON object, or has a field that is not ``known``. All below raise it, too.
        TooLargeError: It is larger than what is read.
        TimeoutError: It does not arrive in time.
    """
    async with asyncio.timeout(BODY_SECONDS):
        body = b"".join([piece async for piece in limited(request, most_bytes=MAX_BODY_MB * 2**20)])

    def read() -> Fields:
        try:
            return parse_json(body, dict[str, Any], where="the body")
        except ValueError as error:
            raise RequestError(400, str(error)) from None

    given = read() if len(body) < LARGE else await asyncio.to_thread(read)
    for key in given:
        if key not in known:
            raise RequestError(400, f"unknown field {key!r:.60}; there are {', '.join(known)}", field=key[:60])
    return given


def listed(given: Fields, field: str) -> list[Any]:
    """The items of a field; one alone is a list of one."""
    value = given.get(field)
    if value is None:
        raise RequestError(400, f"{field} is missing", field=field)
    return value if isinstance(value, list) else [value]


def items_of(given: Fields) -> list[Any]:
    """What is to be encoded: texts, or objects of a text or an image."""
    items = listed(given, "input")
    check_number(len(items), "input")
    if any(type(item) is int or (isinstance(item, list) and all(type(part) is int for part in item)) for item in items):
        raise RequestError(
            400, "input holds token ids; send texts, which the model's own tokenizer reads", field="input"
        )
    return items


def check_number(number: int, field: str) -> None:
    """Refuses no texts, and too many."""
    if not 1 <= number <= MAX_TEXTS:
        raise RequestError(400, f"{field}: 1 to {MAX_TEXTS} texts are taken at once, got {number}", field=field)


def texts_of(items: Sequence[Any], field: str) -> list[str]:
    """Items that are all texts, neither empty nor too long."""
    check_number(len(items), field)
    return [_text(item, f"{field}[{place}]" if len(items) > 1 else field) for place, item in enumerate(items)]


def _text(item: Any, field: str) -> str:
    if not isinstance(item, str):
        raise RequestError(400, f"{field} must be text, got {json.dumps(item)[:60]}", field=field)
    if not item.strip():
        raise RequestError(400, f"{field} is empty", field=field)
    if len(item) > MAX_CHARACTERS:
        raise RequestError(
            400, f"{field} has {len(item):,} characters, at most {MAX_CHARACTERS:,} are taken", field=field
        )
    return item


def joint_text(item: Any, field: str) -> str:
    """The text of an item that is none of an image."""
    if isinstance(item, dict):
        if list(item) != ["text"]:
            raise RequestError(400, f'{field} must be {{"text": …}} or {{"image": …}}', field=field)
        item = item["text"]
    return _text(item, field)


def image_of(value: Any, field: str) -> Image.Image:
    """The image of a data URL, or of base64 alone; no other address is opened."""
    if not isinstance(value, str):
        raise RequestError(400, f"{field}: image must be base64, or a data: URL of it", field=field)
    rest = value.partition(",")[2] if value.startswith("data:") else value
    try:
        content = base64.b64decode(rest, validate=True)
    except ValueError:
        raise RequestError(
            400, f"{field}: image must be base64, or a data: URL of it; addresses are not opened", field=field
        ) from None
    try:
        return decode_image(io.BytesIO(content), name=field, max_pixels=MAX_UPLOAD_PIXELS)
    except ValueError as error:
        raise RequestError(400, str(error), field=field) from None


def whole_number(given: Fields, field: str, *, default: int, most: int) -> int:
    """A field from 1 to ``most``; ``default`` where it is absent."""
    value = given.get(field)
    value = default if value is None else value
    if type(value) is not int or not 1 <= value <= most:
        raise RequestError(400, f"{field} must be a whole number from 1 to {most}, got {value!r:.40}", field=field)
    return int(value)
