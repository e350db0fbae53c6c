"""``mcse serve``: embeddings, similarities and search over HTTP, in the shape of OpenAI's API where it has one.

One thread runs the model. What comes while it works is put into its next batch; where too much waits, the answer is
429. A request whose client has left is forgotten. Nothing is read from the disk on a request's word.

N texts, D width.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from mcse.encoders.loading import AnyEncoder
from mcse.errors import in_words
from mcse.search.embedding_index import Hit
from mcse.search.engine import MAX_TOP
from mcse.search.hardening import LOCAL_NAMES, Guard, TooLargeError
from mcse.search.requests import (
    LARGE,
    MAX_BODY_MB,
    MAX_IMAGES,
    Fields,
    RequestError,
    check_number,
    image_of,
    items_of,
    joint_text,
    listed,
    read_fields,
    texts_of,
    whole_number,
)
from mcse.search.served_index import ServedIndex
from mcse.search.server import add_page
from mcse.search.together import MOST_WAITING, BusyError, Together
from mcse.stored_rows import unit
from mcse.types import FloatArray, ImageTextEncoder

logger = logging.getLogger(__name__)

_TEXTS_AT_ONCE, _IMAGES_AT_ONCE = 64, 8
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_OPEN = frozenset({"/health"})
_ROUTES = ("/v1/embeddings", "/v1/models", "/similarity", "/search", "/health", "/metrics")


class _GoneError(Exception):
    """The client has left."""


class _Row(NamedTuple):
    """An embedding, and how many tokens the model read for it."""

    row_D: FloatArray
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """Of a service.

    Args:
        name: What the model is called in answers.
        also: Other names that requests may use.
        token: What requests must bring; ``None`` for nothing.
        names: Hosts that requests may ask for; ``None`` for any.
        most_waiting: Texts that may wait; beyond that the answer is 429.
    """

    name: str
    also: frozenset[str] = frozenset()
    token: str | None = None
    names: frozenset[str] | None = LOCAL_NAMES
    most_waiting: int = MOST_WAITING


def build_service(encoder: AnyEncoder, options: ServiceOptions, *, index: ServedIndex | None = None) -> FastAPI:
    """The application; with an index of images its page, too."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    service = _Service(encoder, options, index)
    for path, methods, work in (
        ("/v1/embeddings", ["POST"], service.embeddings),
        ("/v1/models", ["GET"], service.models),
        ("/similarity", ["POST"], service.similarity),
        ("/search", ["POST"], service.search),
        ("/health", ["GET"], service.health),
        ("/metrics", ["GET"], service.show_metrics),
    ):
        app.add_api_route(path, service.answering(path, work), methods=methods)
    page = add_page(app, index.images) if index is not None and index.images is not None else None

    async def missing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if page is not None and request.url.path not in _ROUTES and not request.url.path.startswith("/v1"):
            return await page(request, error)
        return _refusal(RequestError(error.status_code, f"{request.url.path[:100]}: {error.detail}"))

    app.add_exception_handler(HTTPException, missing)
    if options.token is not None:
        app.add_middleware(_Token, token=options.token)
    app.add_middleware(Guard, names=options.names)
    return app


class _Token:
    """Refuses requests without the token; browsers are asked for it as a password."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, or a refusal."""
        if scope["type"] != "http" or scope["path"] in _OPEN or self._is_right(Request(scope)):
            await self._app(scope, receive, send)
            return
        answer = _refusal(RequestError(401, "send the token as Authorization: Bearer …", code="invalid_api_key"))
        answer.headers["WWW-Authenticate"] = 'Basic realm="mcse", charset="UTF-8"'
        await answer(scope, receive, send)

    def _is_right(self, request: Request) -> bool:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        found = given.strip().encode()
        if kind.lower() == "basic":
            try:
                found = base64.b64decode(found, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif kind.lower() != "bearer":
            return False
        return secrets.compare_digest(found, self._token)


class _Metrics:
    """What Prometheus reads."""

    def __init__(self, waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("mcse_requests", "Requests by route and status", ["route", "status"], **kept)
        self.seconds = Histogram("mcse_request_seconds", "Time of requests", ["route"], buckets=_BUCKETS, **kept)
        self.texts = Counter("mcse_texts", "Texts encoded", **kept)
        self.tokens = Counter("mcse_tokens", "Tokens of these", **kept)
        self.images = Counter("mcse_images", "Images encoded", **kept)
        self.batches = Histogram("mcse_batch_texts", "Texts of a batch", buckets=_BATCHES, **kept)
        Gauge("mcse_waiting_texts", "Texts that wait", **kept).set_function(waiting)
        ProcessCollector(**kept)


class _Service:
    """The routes, and what they share."""

    def __init__(self, encoder: AnyEncoder, options: ServiceOptions, index: ServedIndex | None) -> None:
        self._encoder, self._options, self._index = encoder, options, index
        images = None if index is None else index.images
        thread = images.thread if images is not None else ThreadPoolExecutor(1, thread_name_prefix="model")
        most = options.most_waiting
        self._texts = Together(self._encode, thread, at_once=_TEXTS_AT_ONCE, most_waiting=most)
        self._captions = Together(self._encode_captions, thread, at_once=_TEXTS_AT_ONCE, most_waiting=most)
        self._images = Together(self._encode_images, thread, at_once=_IMAGES_AT_ONCE, most_waiting=MAX_IMAGES * 4)
        searcher = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._found = Together(self._find, searcher, at_once=_TEXTS_AT_ONCE, most_waiting=most)
        self._decoder = ThreadPoolExecutor(2, thread_name_prefix="decoder")
        self._metrics = _Metrics(self._waiting)

    # What the routes do.

    async def embeddings(self, request: Request) -> Response:
        """Embeddings of texts; of texts and images in the space that they share, where an image is among them."""
        given = await read_fields(request, ("input", "model", "encoding_format", "dimensions", "user"))
        self._check_model(given)
        form = given.get("encoding_format") or "float"
        if form not in ("float", "base64"):
            raise RequestError(
                400, f"encoding_format must be float or base64, got {form!r:.40}", field="encoding_format"
            )
        items = items_of(given)
        if any(isinstance(item, dict) for item in items):
            row_ND, tokens = await self._joint_rows(request, items)
        else:
            row_ND, tokens = await self._text_rows(request, texts_of(items, "input"), self._texts)
        row_ND = _cut(row_ND, given)

        def answer() -> Response:
            rows = row_ND.tolist() if form == "float" else [_base64(row_D) for row_D in row_ND]
            data = [{"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(rows)]
            return JSONResponse({"object": "list", "data": data, "model": self._options.name, "usage": _usage(tokens)})

        return answer() if row_ND.size < LARGE else await asyncio.to_thread(answer)

    async def similarity(self, request: Request) -> Response:
        """Cosines of each of the first texts with each of the second ones; of all with all without second ones."""
        given = await read_fields(request, ("first", "second", "model"))
        self._check_model(given)
        first = texts_of(listed(given, "first"), "first")
        second = texts_of(listed(given, "second"), "second") if given.get("second") is not None else []
        check_number(len(first) + len(second), "first, second")
        row_ND, tokens = await self._text_rows(request, [*first, *second], self._texts)

        def answer() -> Response:
            cosine_NM = row_ND[: len(first)] @ row_ND[len(first) if second else 0 :].T
            content = {"similarity": cosine_NM.tolist(), "model": self._options.name, "usage": _usage(tokens)}
            return JSONResponse(content)

        return await asyncio.to_thread(answer) if len(row_ND) > 64 else answer()

    async def search(self, request: Request) -> Response:
        """The nearest of the index, for each query."""
        given = await read_fields(request, ("query", "image", "top_k", "model"))
        self._check_model(given)
        if self._index is None:
            raise RequestError(404, "this service has no index: mcse serve MODEL --index INDEX")
        top = whole_number(given, "top_k", default=10, most=MAX_TOP)
        if (given.get("query") is None) == (given.get("image") is None):
            raise RequestError(400, "give query or image", field="query")
        is_joint = self._index.images is not None
        if given.get("image") is not None:
            if not is_joint:
                raise RequestError(
                    400, "the index is one of sentences, which images are not compared with", field="image"
                )
            row_ND, _ = await self._joint_rows(request, [{"image": given["image"]}], field="image")
        else:
            texts = texts_of(listed(given, "query"), "query")
            row_ND, _ = await self._text_rows(request, texts, self._captions if is_joint else self._texts)
        hits = await self._waited(request, self._found.submit([(row_D, top) for row_D in row_ND]))
        results = [[_shown(hit) for hit in found] for found in hits]
        return JSONResponse({"results": results, "model": self._options.name})

    async def models(self, request: Request) -> Response:
        """The one model, as OpenAI lists several."""
        del request
        model = {"id": self._options.name, "object": "model", "created": 0, "owned_by": "mcse"}
        return JSONResponse({"object": "list", "data": [model]})

    async def health(self, request: Request) -> Response:
        """That it answers, and what it serves."""
        del request
        size = 0 if self._index is None else len(self._index.index)
        facts = {"model": self._options.name, "dimension": self._encoder.dimension, "index": size}
        return JSONResponse({"status": "ok", **facts, "waiting": self._waiting()})

    def _waiting(self) -> int:
        return self._texts.waiting + self._captions.waiting

    async def show_metrics(self, request: Request) -> Response:
        """In Prometheus' text format."""
        del request
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def answering(
        self, route: str, work: Callable[[Request], Awaitable[Response]]
    ) -> Callable[..., Awaitable[Response]]:
        """A route, with its errors as answers and its time as a number."""

        async def answer(request: Request) -> Response:
            started = time.perf_counter()
            response = await self._guarded(request, work)
            self._metrics.requests.labels(route, str(response.status_code)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
            return response

        return answer

    async def _guarded(self, request: Request, work: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            return await work(request)
        except RequestError as error:
            return _refusal(error)
        except TooLargeError:
            return _refusal(RequestError(413, f"the body is larger than {MAX_BODY_MB} MB"))
        except BusyError:
            answer = _refusal(
                RequestError(429, "too many texts wait; try again in a moment", code="rate_limit_exceeded")
            )
            answer.headers["Retry-After"] = "1"
            return answer
        except TimeoutError:
            return _refusal(RequestError(408, "the body did not arrive in time"))
        except (_GoneError, ClientDisconnect):
            return Response(status_code=499)  # the client is gone; it is only counted
        except Exception as error:
            logger.error("%s: %s", request.url.path, in_words(error))
            return _refusal(RequestError(500, "the model failed on this request; the service's log says why"))

    # The model's and the index's threads.

    def _encode(self, texts: Sequence[str]) -> list[_Row]:
        self._metrics.batches.observe(len(texts))
        return self._counted(texts, self._encoder.encode(texts))

    def _encode_captions(self, texts: Sequence[str]) -> list[_Row]:
        assert isinstance(self._encoder, ImageTextEncoder)
        self._metrics.batches.observe(len(texts))
        return self._counted(texts, self._encoder.encode_captions(texts))

    def _counted(self, texts: Sequence[str], row_ND: FloatArray) -> list[_Row]:
        counts = self._encoder.count_tokens(texts)
        self._metrics.texts.inc(len(texts))
        self._metrics.tokens.inc(sum(counts))
        return [_Row(row_D, count) for row_D, count in zip(row_ND, counts, strict=True)]

    def _encode_images(self, images: Sequence[Image.Image]) -> list[_Row]:
        assert isinstance(self._encoder, ImageTextEncoder)
        try:
            row_ND = self._encoder.encode_images(list(images))
        except ValueError as error:  # such as of an image encoder that is not available
            logger.error("images: %s", in_words(error))
            raise RequestError(400, f"{self._options.name} takes no images here; the service's log says why") from None
        self._metrics.images.inc(len(images))
        return [_Row(row_D, 0) for row_D in row_ND]

    def _find(self, asked: Sequence[tuple[FloatArray, int]]) -> list[list[Hit]]:
        assert self._index is not None
        found = self._index.search(np.stack([row_D for row_D, _ in asked]), top_k=max(top for _, top in asked))
        return [hits[:top] for hits, (_, top) in zip(found, asked, strict=True)]

    # What the routes share.

    def _check_model(self, given: Fields) -> None:
        name = given.get("model")
        known = {self._options.name, *self._options.also}
        if name is not None and name not in known:
            raise RequestError(
                404,
                f"the model here is {self._options.name!r}, not {name!r:.80}",
                field="model",
                code="model_not_found",
            )

    async def _text_rows(
        self, request: Request, texts: Sequence[str], together: Together[str, list[_Row]]
    ) -> tuple[FloatArray, int]:
        return _stacked(await self._waited(request, together.submit(*_parts(texts))))

    async def _joint_rows(
        self, request: Request, items: Sequence[Any], *, field: str = "input"
    ) -> tuple[FloatArray, int]:
        """Texts and images, in their order, in the space that they share."""
        if not isinstance(self._encoder, ImageTextEncoder) or not getattr(self._encoder, "has_image_heads", True):
            raise RequestError(400, f"{self._options.name} takes no images", field=field)
        places: dict[bool, list[int]] = {True: [], False: []}
        for place, item in enumerate(items):
            places[isinstance(item, dict) and "image" in item].append(place)
        if len(places[True]) > MAX_IMAGES:
            raise RequestError(400, f"{len(places[True])} images, at most {MAX_IMAGES} are taken", field=field)
        named = {
            place: f"{field}[{place}]" if len(items) > 1 or field == "input" else field for place in range(len(items))
        }
        texts = [joint_text(items[place], named[place]) for place in places[False]]
        loop = asyncio.get_running_loop()
        images = [
            await loop.run_in_executor(self._decoder, image_of, items[place]["image"], named[place])
            for place in places[True]
        ]
        futures = self._captions.submit(*_parts(texts))
        try:
            futures += self._images.submit(images) if images else []
        except BusyError:
            for future in futures:
                future.cancel()
            raise
        found = await self._waited(request, futures)
        order = np.argsort([*places[False], *places[True]])
        return _stacked([found[place] for place in order])

    async def _waited(self, request: Request, futures: Sequence[Future[list[Any]]]) -> list[Any]:
        """The results of all, one after another; forgets them where the client leaves meanwhile."""
        gone: asyncio.Future[Any] = asyncio.ensure_future(_leaves(request))
        found: asyncio.Future[list[Any]] = asyncio.gather(*map(asyncio.wrap_future, futures))
        try:
            await asyncio.wait([gone, found], return_when=asyncio.FIRST_COMPLETED)
            if not found.done():
                raise _GoneError
            return [result for part in await found for result in part]
        finally:
            gone.cancel()
            found.cancel()


async def _leaves(request: Request) -> None:
    """Ends when the client has closed the connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _cut(row_ND: FloatArray, given: Fields) -> FloatArray:
    """The first ``dimensions`` numbers of unit rows, of unit norm again."""
    width = whole_number(given, "dimensions", default=row_ND.shape[1], most=row_ND.shape[1])
    return row_ND if width == row_ND.shape[1] else unit(row_ND[:, :width])


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Batches of a request's texts, between which others' come."""
    return (texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE))


def _stacked(rows: Sequence[_Row]) -> tuple[FloatArray, int]:
    row_ND = np.stack([row.row_D for row in rows])
    if not np.isfinite(row_ND).all():
        raise RequestError(500, "the model's embedding of a text is not finite")
    return row_ND, sum(row.tokens for row in rows)


def _base64(row_D: FloatArray) -> str:
    return base64.b64encode(row_D.astype("<f4").tobytes()).decode()


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _shown(hit: Hit) -> dict[str, Any]:
    return {"id": hit.id, **({"text": hit.text} if hit.text else {}), "score": hit.score}


def _refusal(error: RequestError) -> Response:
    """An error in OpenAI's shape."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    content = {"message": str(error), "type": kind, "param": error.field, "code": error.code}
    return JSONResponse({"error": content}, status_code=error.status)
