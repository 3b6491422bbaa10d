"""Pure ASGI middleware: under BaseHTTPMiddleware a stream that breaks looks like one that ended."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import BadRequest, BodyTooLarge, SteerdeckError
from .handlers import error_response

if TYPE_CHECKING:
    from .metrics import Metrics

log = logging.getLogger("steerdeck.http")
request_id: ContextVar[str] = ContextVar("request_id", default="-")

_GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# The page runs what it ships and nothing from elsewhere; a reply with an image in it fetches none.
CSP = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "frame-ancestors 'self'"
)
# Lists, objects and fields of a body, which take long to read, some of them while every stream
# waits. The longest timeline that is allowed has fewer; the page sends a rack and some settings.
VALUES, PAGE_VALUES = 2**17, 2**12
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Told:
    """Gives every request an id, counts and times it, and logs one line without its content."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if _GIVEN_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        token = request_id.set(name)
        started, status = time.monotonic(), 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = name
                for header, value in HEADERS.items():
                    headers.setdefault(header, value)
            await send(message)

        try:
            await self.app(scope, receive, tell)
        finally:
            seconds = time.monotonic() - started
            self._note(scope, status, seconds)
            request_id.reset(token)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.http.labels(method, route, status).observe(seconds)
        level = logging.INFO if route.startswith("/v1") else logging.DEBUG
        log.log(level, "%s %s %s %.3f s", method, route, status or "cut", seconds)


def _route(scope: Scope) -> str:
    """Its template: paths hold ids, and the page's files are many."""
    found: str = getattr(scope.get("route"), "path", "")
    if scope["path"].startswith("/v1/"):
        return found if found.startswith("/v1") else f"/v1{found}"
    return found or "page"


class Answered:
    """Answers the refusals of the middleware below, and exceptions that nobody foresaw: inside of
    what adds the headers that let a web page read the answer.

    Once the reply has begun they go on to the server, which breaks the connection, so that no one
    takes the half for the whole. metrics: where refusals are counted, if anywhere.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics | None = None) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun = False

        async def begin(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, begin)
        except Exception as exc:
            if begun:
                raise
            await self._refused(exc, scope)(scope, receive, send)

    def _refused(self, exc: Exception, scope: Scope) -> JSONResponse:
        if not isinstance(exc, SteerdeckError):
            log.error("%s %s failed", scope["method"], scope["path"], exc_info=exc)
            exc = SteerdeckError("the server failed on this request; its log says why")
        if self.metrics is not None:
            self.metrics.refused.labels(exc.code).inc()
        return error_response(exc)


class Heads:
    """Answers HEAD as GET without the body: FastAPI's routes know no HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)

        async def head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})  # now: the page has endless streams

        # A copy: the HTTP server looks into its own to know that no body comes.
        inner = {**scope, "method": "GET"}
        try:
            await self.app(inner, receive, head)
        finally:
            scope["route"] = inner.get("route")


class BodyLimit:
    """Reads every body, and lets it through whole. 413 for one of more than `limit` bytes, be they
    announced or not, and for one with more in it than is read as JSON here.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced[:20]) > self.limit:
            raise self._too_large(announced)
        body = await self._whole(receive)
        if body is None:
            return
        most = VALUES if scope["path"].startswith("/v1/") else PAGE_VALUES
        if (values := weight(body, most)) > most:
            raise BodyTooLarge(
                f"the body has {values} lists, objects and fields; {most} are read here at most: "
                "send fewer"
            )
        coming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def read() -> Message:
            return coming.pop() if coming else await receive()

        await self.app(scope, read, send)

    async def _whole(self, receive: Receive) -> bytes | None:
        """None where the caller hangs up before its end."""
        came, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            came += message.get("body", b"")
            if len(came) > self.limit:
                raise self._too_large(f"more than {self.limit}")
            more = message.get("more_body", False)
        return bytes(came)

    def _too_large(self, came: str) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body has {came} bytes; this server reads {self.limit} at most: "
            "send fewer or shorter messages"
        )


def weight(body: bytes, most: int) -> int:
    """How many lists, objects and fields a body has as JSON: exact above `most` if it is UTF-8, and
    else a bound.
    """
    told = sum(map(body.count, b"[{:"))
    if told <= most or b"\0" in body:  # UTF-16 or 32: there a quote may be half a character
        return told  # its texts' own brackets and colons among them
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]
    return sum(map(b"".join(bare).count, b"[{:"))


class Hosts:
    """Refuses requests by another Host name: a web page elsewhere cannot rebind its name to us."""

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        self.app, self.allowed = app, frozenset(name.lower() for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and "*" not in self.allowed:
            name = host_name(Headers(scope=scope).get("host", ""))
            if name not in self.allowed:
                raise BadRequest(
                    f"this server does not answer to Host {name[:100]!r}: use its address, or "
                    "start it with STEERDECK_ALLOWED_HOSTS set to that name"
                )
        await self.app(scope, receive, send)


def host_name(host: str) -> str:
    """`[::1]:8000` -> `::1`, `localhost:8000` -> `localhost`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
