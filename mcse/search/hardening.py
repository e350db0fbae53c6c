"""What every page and service of ours has around it: whom it answers, how long it waits, how much it reads."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import AsyncGenerator

import uvicorn
from fastapi import Request
from fastapi.responses import PlainTextResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS, BODY_SECONDS = 15.0, 60.0
"""For a whole question, or until an answer is taken, before a connection is closed; and for a whole body."""

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

_STOP_SECONDS = 30
"""For what is being answered when the process is told to stop."""

_DROPPED = 4
"""Times what is read of a body, to be dropped before it is refused; a larger one finds the connection closed."""

_MAX_CONNECTIONS = 512
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PORT = re.compile(r":\d+\Z")


class TooLargeError(Exception):
    """A body that is larger than what is read."""


def listen(app: ASGIApp, *, host: str, port: int) -> None:
    """Answers until the process is stopped; what is being answered then is answered to its end."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        http=ImpatientProtocol,
        ws="none",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )


def names_of(host: str) -> frozenset[str] | None:
    """The names under which a service on an address answers: those of this machine, or ``None`` for any."""
    return LOCAL_NAMES | {in_address(host)} if is_loopback(host) else None


def in_address(host: str) -> str:
    """A host as written in an address."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def limited(request: Request, *, most_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body in pieces.

    Raises:
        TooLargeError: It is larger, as it says itself or as it turns out.
    """
    announced = request.headers.get("content-length", "0")
    total = int(announced) if announced.isdecimal() else 0
    if total > _DROPPED * most_bytes:
        raise TooLargeError
    is_large, total = total > most_bytes, 0
    async for chunk in request.stream():
        total += len(chunk)
        is_large = is_large or total > most_bytes
        if total > _DROPPED * most_bytes:
            break
        if not is_large:
            yield chunk
    if is_large:
        # Read to its end, as most clients do not look for an answer before they have sent all.
        raise TooLargeError


class ImpatientProtocol(H11Protocol):
    """Closes a connection on which no whole question arrives in time; uvicorn waits for the first one for ever."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts to wait."""
        super().connection_made(transport)
        self._wait()

    def handle_events(self) -> None:
        """Waits no more once the head of a question is whole."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.cycle.response_complete:
            self._wait_no_more()

    def on_response_complete(self) -> None:
        """Waits for the answer to be taken, and for the next question."""
        self._wait()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._wait_no_more()
        self._waiting = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class Guard:
    """Refuses requests under other names and of other sites, and says to browsers how to treat the answers."""

    def __init__(self, app: ASGIApp, *, names: frozenset[str] | None) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, or a refusal."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = _refusal(Request(scope), names=self._names)
        answer = PlainTextResponse(refused, status_code=403) if refused else self._app
        await answer(scope, receive, send_with_headers)


def _refusal(request: Request, *, names: frozenset[str] | None) -> str:
    """Why a request is not answered; empty where it is."""
    host = request.headers.get("host", "")
    name = _PORT.sub("", host)
    if names is not None and name.lower() not in names:
        return f"This page answers under {', '.join(sorted(names))} alone."
    # Browsers say where a request comes from; another site has no business here.
    if request.method != "GET" and request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return "Forms of other sites are not answered."
    origin = request.headers.get("origin")
    if request.method != "GET" and origin is not None and origin.partition("://")[2].lower() != host.lower():
        return "Forms of other sites are not answered."
    return ""
