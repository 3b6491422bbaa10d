"""Which of Gradio's routes are open: those that the page uses."""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import JSONResponse

GETS = (
    "/",
    "/assets/.+",
    "/favicon.ico",
    "/gradio_api/app_id",
    "/gradio_api/heartbeat/[^/]+",
    "/gradio_api/queue/data",
    "/manifest.json",
    "/pwa_icon/(192|512)",  # the sizes that manifest.json names; any other would be drawn as well
    "/robots.txt",
    "/static/.+",
    "/theme.css",
)
POSTS = (
    "/gradio_api/cancel",
    "/gradio_api/queue/join",
    "/gradio_api/reset",
    "/gradio_api/run/predict",
)
OPEN = {method: re.compile("|".join(paths)) for method, paths in (("GET", GETS), ("POST", POSTS))}


class Doors:
    """Plain ASGI around Gradio's app: 404 for the rest of what it can do, such as taking uploads.

    The page is served to who has no key, and to what other web pages make a browser send.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or _open(scope["method"], scope["path"]):
            await self.app(scope, receive, send)
            return
        said = f"the page has no {scope['method']} {scope['path']}"
        told = {"type": "invalid_request_error", "param": None, "code": "not_found"}
        await JSONResponse({"error": {"message": said, **told}}, 404)(scope, receive, send)


def _open(method: str, path: str) -> bool:
    pattern = OPEN.get("GET" if method == "HEAD" else method)
    return pattern is not None and pattern.fullmatch(path) is not None
