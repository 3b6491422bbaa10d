"""The page by itself, for a service that runs elsewhere: what `steerdeck ui --url …` serves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from .assets import CONTENT_SECURITY_POLICY
from .page import add_page, build_page

HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class PageHeaders:
    """Plain ASGI: adds HEADERS to every response and never touches a body, so streams flow."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def build_app(api_url: str, root: str = "") -> FastAPI:
    """The page at `/`, and nothing else. Call it inside a running event loop.

    root: as `page.add_page` takes it.

    Its server must set the `stop_event` of the Gradio app it finds mounted when it is told to end,
    or it waits for ever for the stream that every open tab holds.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(PageHeaders)
    add_page(app, build_page(api_url), root)
    return app
