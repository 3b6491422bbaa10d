"""The page in a browser, served alone as `steerdeck ui` does, and the service it talks to."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from background import Background
from ui_stub import Script, build


class Stub:
    """The scripted service on a port of its own, started again for each test that wants it."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = int(listening.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: Background | None = None

    def start(self, **script: Any) -> None:
        self.stop()
        app = build(Script(**script))
        config = uvicorn.Config(app, log_config=None, log_level="warning", lifespan="off")
        self._server = Background(lambda: uvicorn.Server(config), self.port)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(force=True)
            self._server = None


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Stub, str]]:
    from server import mount

    stub = Stub()
    page = Background(lambda: mount.make_server(mount.page_alone(stub.url)))
    page.start()
    yield stub, f"{page.url}/"
    page.stop()
    stub.stop()


@pytest.fixture
def stub(served: tuple[Stub, str]) -> Stub:
    return served[0]


@pytest.fixture
def open_page(served: tuple[Stub, str], visit: Callable[..., Any]) -> Callable[..., Any]:
    return lambda query="", **options: visit(served[1] + query, **options)


@pytest.fixture
def expect() -> Any:
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)
    return expect


def ask(page: Any, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")
