"""Served under a path, behind a proxy: /steer/v1/models is /v1/models."""

from __future__ import annotations

import re

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_PART = re.compile(r"[\w~@-][\w.~@-]*", re.ASCII)


class Under:
    """Takes `root` off every path that begins with it. What does not is taken as it is, for many
    proxies take it off themselves.
    """

    def __init__(self, app: ASGIApp, root: str) -> None:
        self.app, self.root = app, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            if scope["path"] == self.root and scope["type"] == "http":
                # The page names its files from where it stands: without the slash, beside it.
                onward = RedirectResponse(_asked(f"{self.root}/", scope))
                return await onward(scope, receive, send)
            if scope["path"].startswith(f"{self.root}/"):
                scope = {**scope, "path": scope["path"][len(self.root) :]}
                scope.pop("raw_path", None)
        await self.app(scope, receive, send)


def _asked(path: str, scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def normal(path: str) -> str:
    """`steer/` -> `/steer`; "" and `/` -> "". Raises ValueError for what no path is made of."""
    parts = [part for part in path.split("/") if part]
    if not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(f"{path!r} is no path such as /steer: letters, digits and -_.~@ alone")
    if parts[:1] == ["v1"]:
        raise ValueError("the API itself is at /v1: serve it under another path")
    return "".join(f"/{part}" for part in parts)
