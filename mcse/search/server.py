"""The web page of ``mcse search serve``: one page without scripts, for this machine alone unless told otherwise.

An image is named by its number in the index, never by a path, and is sent as a JPEG that is made here: no byte of a
file leaves as it is, and nothing that lies outside the indexed folder is opened.
"""

from __future__ import annotations

import asyncio
import functools
import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from PIL import Image, ImageOps
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from mcse.cpu import return_freed_memory
from mcse.files import sha256_bytes
from mcse.images import decode_image, load_image
from mcse.search.engine import ImageSearch, Question
from mcse.search.hardening import BODY_SECONDS, LOCAL_NAMES, Guard, TooLargeError, limited, listen, names_of
from mcse.search.page import TOPS, PageImage, PageState, SearchPage, render_search_page
from mcse.types import FloatArray

MAX_UPLOAD_MB = 10
MAX_UPLOAD_PIXELS = 50_000_000
"""A small file can hold an image that fills the memory."""

_RETURNED = 2**24
"""Bytes from which memory goes back at once: that of large images. A batch of sentences needs its own again."""

_THUMBNAIL = 320
_PAGE = 48
_MAX_UPLOADS = 32
_MAX_THUMBNAILS = 4096  # of some 15 kB
_DECODED_AT_ONCE = 2
"""A decoded image of ``MAX_UPLOAD_PIXELS`` takes hundreds of megabytes."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Upload:
    """What is kept of an uploaded image."""

    name: str
    row_D: FloatArray
    sha256: str
    thumbnail: bytes


class _Uploads:
    """The last few uploaded images, by marks that cannot be guessed."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Upload] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, upload: _Upload) -> str:
        mark = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[mark] = upload
            while len(self._kept) > _MAX_UPLOADS:
                self._kept.popitem(last=False)
        return mark

    def get(self, mark: str) -> _Upload:
        with self._lock:
            if mark not in self._kept:
                raise ValueError("the uploaded image is not kept any more; upload it again")
            return self._kept[mark]


def serve(search: ImageSearch, *, host: str, port: int) -> None:
    """Serves the page until the process is stopped."""
    return_freed_memory(_RETURNED)
    listen(build_app(search, names=names_of(host)), host=host, port=port)


def build_app(search: ImageSearch, *, names: frozenset[str] | None = LOCAL_NAMES) -> FastAPI:
    """The application.

    Args:
        search: Index and encoder.
        names: Hosts that requests may ask for, ``None`` for any. By default those of this machine: a page elsewhere
            whose name is made to point here would read the images.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(HTTPException, add_page(app, search))
    app.add_middleware(Guard, names=names)
    return app


def add_page(app: FastAPI, search: ImageSearch) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Adds the page and its images to an application; gives what answers for addresses that there are none of."""
    site = _Site(search)
    app.add_api_route("/", site.show, methods=["GET"])
    app.add_api_route("/image/{place}", site.image, methods=["GET"])
    app.add_api_route("/upload/{mark}", site.uploaded, methods=["GET"])
    app.add_api_route("/upload", site.upload, methods=["POST"])
    return site.missing


class _Site:
    """The routes, and what they share."""

    def __init__(self, search: ImageSearch) -> None:
        self._search = search
        self._uploads = _Uploads()
        # Of their own, so that questions do not wait for images.
        self._decoders = ThreadPoolExecutor(_DECODED_AT_ONCE, thread_name_prefix="decoder")

    def show(self, request: Request) -> Response:
        """The page: an answer, or images to leaf through."""
        state = _state(request.query_params)
        try:
            state = _numbered(state, request.query_params)
            return HTMLResponse(self._answered(state))
        except ValueError as error:
            return self._refused(state, str(error), status=400)

    async def image(self, place: str) -> Response:
        """A small copy of an image of the index."""
        try:
            file = self._search.image_file(self._place(place))
            return _jpeg(await self._decoding(lambda: _thumbnail_of(file, file.stat().st_mtime_ns)))
        except (ValueError, OSError) as error:
            return PlainTextResponse(str(error), status_code=404)

    def uploaded(self, mark: str) -> Response:
        """A small copy of an uploaded image."""
        try:
            return _jpeg(self._uploads.get(mark).thumbnail)
        except ValueError as error:
            return PlainTextResponse(str(error), status_code=404)

    async def upload(self, request: Request) -> Response:
        """Takes an image, and leads to the answer."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                form = await _form(request)
            try:
                name, file = _file_of(form)
                mark = self._uploads.keep(await self._decoding(lambda: self._read(name, file)))
            finally:
                await form.close()
        except TooLargeError:
            return self._refused(PageState(), f"The file is larger than {MAX_UPLOAD_MB} MB.", status=413)
        except TimeoutError:
            return self._refused(PageState(), "The file did not arrive in time.", status=408)
        except ValueError as error:
            return self._refused(PageState(), str(error), status=400)
        return RedirectResponse(f"/?upload={mark}", status_code=303)

    async def missing(self, request: Request, error: Exception) -> Response:
        """The page for an address that there is none of."""
        assert isinstance(error, HTTPException)
        return self._refused(PageState(), f"{request.url.path[:100]}: {error.detail}", status=error.status_code)

    async def _decoding(self, work: Callable[[], _T]) -> _T:
        """What ``work`` gives, done when one of the few that decode images is free."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    def _read(self, name: str, file: BinaryIO) -> _Upload:
        content = file.read()
        image = decode_image(io.BytesIO(content), name=name, max_pixels=MAX_UPLOAD_PIXELS)
        return _Upload(name, self._search.encode_image(image), sha256_bytes(content), _thumbnail(image))

    def _answered(self, state: PageState) -> str:
        """The page for a question, or for leafing through where nothing is asked."""
        minus, plus = _words(state.minus), _words(state.plus)
        if not state.text and not state.has_image:
            if minus or plus:
                raise ValueError("Words are added to a sentence or an image: write one, or choose one below.")
            return self._leafed(state)
        upload = self._uploads.get(state.upload) if state.upload else None
        question = Question(
            text=None if state.has_image else state.text,
            place=self._place(state.image) if state.image else None,
            embedding=upload.row_D if upload else None,
            image_sha256=upload.sha256 if upload else None,
            minus=minus,
            plus=plus,
            top=state.top,
        )
        answer = self._search.ask(question)
        name = self._query_name(state)
        asked = " ".join([name or f"“{state.text}”", *(f"− {word}" for word in minus), *(f"+ {word}" for word in plus)])
        found = [PageImage(place=int(hit.id), name=hit.text, score=hit.score) for hit in answer.hits]
        return render_search_page(replace(self._page(state, found), asked=asked, query_name=name, notes=answer.notes))

    def _refused(self, state: PageState, error: str, *, status: int) -> Response:
        """The page with what went wrong, and what was asked."""
        try:
            name = self._query_name(state)
        except ValueError:  # it is what went wrong
            name = ""
        return HTMLResponse(self._leafed(state, error=error, query_name=name), status_code=status)

    def _leafed(self, state: PageState, *, error: str = "", query_name: str = "") -> str:
        """The page without an answer: images to leaf through."""
        index = self._search.index
        pages = -(-len(index) // _PAGE)
        start = (min(state.page, pages) - 1) * _PAGE
        shown = index.images[start : start + (12 if error else _PAGE)]
        images = [PageImage(place=start + number, name=image.path) for number, image in enumerate(shown)]
        return render_search_page(replace(self._page(state, images), pages=pages, error=error, query_name=query_name))

    def _page(self, state: PageState, images: list[PageImage]) -> SearchPage:
        search = self._search
        return SearchPage(
            state=state,
            images=images,
            folder=search.folder.name,
            model="/".join(search.index.origin.model.rstrip("/").split("/")[-2:]),
            count=len(search.index),
            takes_uploads=search.takes_images,
            max_upload_mb=MAX_UPLOAD_MB,
        )

    def _query_name(self, state: PageState) -> str:
        """Name of the image that is asked by; empty where none is."""
        if state.upload:
            return self._uploads.get(state.upload).name
        return self._search.index.images[self._place(state.image)].path if state.image else ""

    def _place(self, text: str) -> int:
        return _number(text, "image", most=len(self._search.index) - 1)


def _state(parameters: Mapping[str, str]) -> PageState:
    """What the address asks, without its numbers."""
    return PageState(
        text=parameters.get("text", "").strip(),
        image=parameters.get("image", "").strip(),
        upload=parameters.get("upload", "").strip(),
        minus=parameters.get("minus", "").strip(),
        plus=parameters.get("plus", "").strip(),
    )


def _numbered(state: PageState, parameters: Mapping[str, str]) -> PageState:
    """With its numbers.

    Raises:
        ValueError: One of them is none.
    """
    top = _number(parameters.get("top", str(state.top)), "images", least=1, most=max(TOPS))
    return replace(state, top=top, page=_number(parameters.get("page", "1"), "page", least=1, most=10**6))


def _number(text: str, name: str, *, least: int = 0, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most):
        raise ValueError(f"{name} must be a number from {least} to {most}, got {text[:40]!r}")
    return int(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


async def _form(request: Request) -> FormData:
    """The form, of which no more than ``MAX_UPLOAD_MB`` are read; what is large of it lies on the disk."""
    body = limited(request, most_bytes=MAX_UPLOAD_MB * 2**20)
    try:
        return await MultiPartParser(request.headers, body, max_files=1, max_fields=4).parse()
    except (MultiPartException, KeyError) as error:
        raise ValueError("The form holds no file.") from error


def _file_of(form: FormData) -> tuple[str, BinaryIO]:
    file = form.get("image")
    if not isinstance(file, UploadFile) or not file.size:
        raise ValueError("Choose a file first.")
    return (file.filename or "image")[:80], file.file


@functools.lru_cache(_MAX_THUMBNAILS)
def _thumbnail_of(file: Path, changed: int) -> bytes:
    """Kept as long as the file does not change."""
    del changed
    return _thumbnail(load_image(file))


def _thumbnail(image: Image.Image) -> bytes:
    small = ImageOps.contain(image, (_THUMBNAIL, _THUMBNAIL)) if max(image.size) > _THUMBNAIL else image
    target = io.BytesIO()
    small.save(target, format="JPEG", quality=88)
    return target.getvalue()


def _jpeg(content: bytes) -> Response:
    return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=60"})
