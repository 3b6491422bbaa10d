"""The page in a browser, served alone as `steerdeck ui` does, and the service it talks to; or one
widget of it on an empty page.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import pytest
import uvicorn
from background import Background
from ui_stub import Script
from ui_stub_routes import build

from ui import assets

MOUNT = """([name, html, script, value]) => {
    const element = document.createElement("div");
    Object.assign(element, { id: name, innerHTML: html });
    document.body.append(element);
    const [sent, watching, props] = [[], [], { value }];
    const trigger = (event, data) => sent.push([event, data]);
    const watch = (_, draw) => watching.push(draw);
    new Function("element", "props", "trigger", "watch", script)(element, props, trigger, watch);
    const show = (next) => { props.value = next; watching.forEach((draw) => draw()); };
    window[name] = { sent, props, show };
}"""


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
    from server.settings import Settings

    stub = Stub()
    page = Background(lambda: mount.make_server(mount.page_alone(stub.url, Settings())))
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
def ready(stub: Stub, open_page: Callable[..., Any], expect: Any) -> Callable[..., Any]:
    """The page of a service that runs so (of `Script`), once its rack or first screen is there."""

    def ready(query: str = "", **script: Any) -> Any:
        stub.start(**script)
        page = open_page(query)
        expect(page.locator("#rack .sd-name" if query else ".sd-home h2").first).to_be_visible()
        return page

    return ready


@pytest.fixture
def expect() -> Any:
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)
    return expect


def ask(page: Any, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")


@pytest.fixture(scope="module")
def blank(desktop: Any) -> Iterator[Any]:
    page = desktop.new_page()
    yield page
    page.close()


@pytest.fixture
def mounted(blank: Any) -> Callable[..., Any]:
    """Put a widget on the empty page: what Gradio gives one is played here, its element, its value
    and who listens to it. `window.<name>` holds what it sent and can show it more.
    """
    blank.goto("about:blank")
    blank.add_style_tag(content="\n".join(assets.text(name) for name in assets.STYLES))

    def mount(widget: gr.HTML, value: Any) -> Any:
        script = widget.js_on_load
        blank.evaluate(MOUNT, [widget.elem_id, widget.html_template, script, value])
        return blank

    return mount
