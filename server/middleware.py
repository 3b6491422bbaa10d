"""Pure ASGI middleware: under BaseHTTPMiddleware a stream that breaks looks like one that ended."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterable
from contextvars import ContextVar

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import BadRequest, SteerdeckError
from .handlers import BodyTooLarge, error_response
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
    takes the half for the whole.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
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
        self.metrics.refused.labels(exc.code).inc()
        return error_response(exc)


class BodyLimit:
    """413 for a body of more than `limit` bytes, announced or not, before it is read whole."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1"):
            return await self.app(scope, receive, send)
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced[:20]) > self.limit:
            raise self._too_large(announced)
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limit:
                raise self._too_large(f"more than {self.limit}")
            return message

        await self.app(scope, limited, send)

    def _too_large(self, came: str) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body has {came} bytes; this server reads {self.limit} at most: "
            "send fewer or shorter messages"
        )


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
