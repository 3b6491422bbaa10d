"""API keys on /v1: `Authorization: Bearer K` or `x-api-key: K`."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import Unauthorized


def matches(given: str, keys: Iterable[str]) -> bool:
    """Whether it is one of the keys, in a time that does not tell how nearly it was one."""
    encoded = given.encode("latin-1", "replace")  # Starlette reads the bytes of a header as latin-1
    found = False
    for key in keys:
        found |= secrets.compare_digest(encoded, key.encode())
    return found


def key_of(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip(" \t")  # no more: what ends a key may look like a space when read so
    if scheme.lower() == "bearer" and token:
        return token
    return headers.get("x-api-key")


def check(headers: Headers, keys: Sequence[str]) -> None:
    """Raise Unauthorized for who has none of `keys`; where there are none, everyone passes."""
    if not keys:
        return
    given = key_of(headers)
    if given is None:
        raise Unauthorized(
            "an API key is needed: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
        )
    if not matches(given, keys):
        raise Unauthorized("this API key is not one of the server's")


class Keyed:
    """Turns away from /v1 who has no key, before any of the body is read."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and f"{scope['path']}/".startswith("/v1/"):
            check(Headers(scope=scope), self.keys)
        await self.app(scope, receive, send)


def require_key(keys: Sequence[str]) -> Callable[[Request], Awaitable[None]]:
    """The same as a dependency: of every route of /v1, whatever path has led to it."""

    async def checked(request: Request) -> None:
        check(request.headers, keys)

    return checked
