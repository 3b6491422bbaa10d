"""The page by itself, for a service that runs elsewhere: `steerdeck ui --url … --port …`."""

from __future__ import annotations

import logging
from types import FrameType
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.routing import Mount

from .page import CONTENT_SECURITY_POLICY, build_page, mount_options

log = logging.getLogger("steerdeck.ui")
GRACE = 5  # seconds for open requests when the server is told to end

HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
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


class PageServer(uvicorn.Server):
    """A server that ends with a browser tab open: the tab's heartbeat stream must be told to."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        stop_pages(self.config.app)
        super().handle_exit(sig, frame)


def stop_pages(app: Any) -> None:
    """Tell every Gradio app mounted on `app` to end its open streams; call it from handle_exit."""
    for route in getattr(app, "routes", ()):
        stop = getattr(getattr(route, "app", None), "stop_event", None)
        if isinstance(route, Mount) and stop is not None:
            stop.set()


def build_app(api_url: str) -> FastAPI:
    """The page at `/`, and nothing else. Call it inside a running event loop."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(PageHeaders)
    gr.mount_gradio_app(app, build_page(api_url), path="/", **mount_options())
    return app


async def serve(api_url: str, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until the process is told to end."""
    config = uvicorn.Config(
        build_app(api_url),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=GRACE,
    )
    log.info("page for %s on http://%s:%d", api_url, host, port)
    await PageServer(config).serve()
