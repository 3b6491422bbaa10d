"""API keys on /v1: `Authorization: Bearer K` or `x-api-key: K`."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable

from fastapi import Request

from .errors import Unauthorized


def matches(given: str, keys: Iterable[str]) -> bool:
    """Whether it is one of the keys, in a time that does not tell how nearly it was one."""
    encoded = given.encode("latin-1", "replace")  # Starlette reads the bytes of a header as latin-1
    found = False
    for key in keys:
        found |= secrets.compare_digest(encoded, key.encode())
    return found


def key_of(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip(" \t")  # no more: what ends a key may look like a space when read so
    if scheme.lower() == "bearer" and token:
        return token
    return request.headers.get("x-api-key")


def require_key(keys: tuple[str, ...]) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets pass who has one of `keys`, and everyone if there are none."""

    async def check(request: Request) -> None:
        if not keys:
            return
        given = key_of(request)
        if given is None:
            raise Unauthorized(
                "an API key is needed: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
            )
        if not matches(given, keys):
            raise Unauthorized("this API key is not one of the server's")

    return check
