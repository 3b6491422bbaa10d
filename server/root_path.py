"""Served under a path, behind a proxy: /steer/v1/models is /v1/models."""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


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
