"""The page beside the API. The only file that knows `ui` and Gradio, and it imports them late."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from starlette.routing import Mount

from .errors import SteerdeckError

if TYPE_CHECKING:
    from .service import Service
    from .settings import Settings

GRACE_SECONDS = (
    5  # after a signal: for replies to end in their error event, then connections are cut
)


class NoPage(SteerdeckError):
    """The page's packages are not installed, or it cannot reach its server."""


def build_page(api_url: str) -> Any:
    """The Gradio Blocks of the page, to be served beside the API that is at `api_url`.

    Takes seconds to import, and wants a running event loop.
    """
    with _installed(", or serve the API alone with --no-ui"):
        from ui.page import build_page as build

    return build(api_url, beside=True)


def page_alone(api_url: str, settings: Settings) -> FastAPI:
    """An app with nothing but the page, for a server elsewhere. Wants a running event loop.

    settings: of the address that it is served at.
    """
    with _installed():
        from ui.alone import build_app
        from ui.errors import Told
    from .middleware import Answered, BodyLimit, Hosts
    from .root_path import Under

    try:
        app: FastAPI = build_app(api_url, settings.root_path)
    except Told as exc:
        raise NoPage(str(exc)) from exc
    app.add_middleware(BodyLimit, limit=settings.max_body)
    app.add_middleware(Hosts, allowed=settings.hosts)
    app.add_middleware(Answered)
    if settings.root_path:
        app.add_middleware(Under, root=settings.root_path)
    return app


@contextmanager
def _installed(otherwise: str = "") -> Iterator[None]:
    """Gradio asks for no one's attention, and its absence is a sentence.

    otherwise: how it ends, where one can do without the page.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        yield
    except ModuleNotFoundError as exc:
        raise NoPage(
            f"the page needs the package {exc.name}: pip install '.[ui]' in a clone{otherwise}"
        ) from exc


def add_page(app: FastAPI, page: Any, root: str = "") -> None:
    """Serve the page at `/`, after every route that is there already. root: the path before it,
    that the reader's browser knows.
    """
    from ui.page import add_page

    add_page(app, page, root)


class Server(uvicorn.Server):
    """uvicorn that can stop while browsers are looking.

    Gradio keeps a stream open to every tab and ends it only when told; replies that are being made
    end in an error event, not in silence.
    """

    def __init__(self, config: uvicorn.Config, service: Service | None = None) -> None:
        super().__init__(config)
        self.service = service
        self.failed = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.end_streams()
        super().handle_exit(sig, frame)  # sse-starlette wraps this method: keep calling it

    def end_streams(self) -> None:
        """From the event loop's thread."""
        for route in getattr(self.config.app, "routes", ()):
            stop = getattr(route.app, "stop_event", None) if isinstance(route, Mount) else None
            if stop is not None:
                stop.set()
        if self.service is not None:
            loop = asyncio.get_event_loop()
            closing = self.service.close
            loop.call_soon_threadsafe(lambda: loop.create_task(closing()))

    def give_up(self) -> None:
        """Loading failed: end the process with an error."""
        self.failed = True
        self.should_exit = True


def make_server(app: FastAPI, service: Service | None = None) -> Server:
    """Ready to `serve(sockets=[…])`. Our own middleware logs requests; prompts are in no log."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    return Server(config, service)
