"""The scripted service of `ui_stub.py` on a real socket, and one conversation with it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import gradio as gr
import pytest
import ui_stub
import ui_stub_routes
import uvicorn

from ui import chat, layout
from ui.client import Api
from ui.page import Handlers
from ui.rack import Entry, Rack
from ui.session import Session
from ui.settings import Settings

BRIDGE: Rack = (Entry(feature="foghorn/0", label="Golden Gate Bridge", strength=2.5, maximum=10),)
SHORT = Settings(max_tokens=12, seed=7)


class Service:
    """A stub that is being served, and an Api that asks it."""

    def __init__(self, script: Any, port: int) -> None:
        self.script = script
        self.api = Api(f"http://127.0.0.1:{port}")
        self.session = Session(model="foghorn", exact={"foghorn": True})

    async def logs(self, text: str, held: Rack = (), *, compare: bool = False) -> list[str]:
        talk = chat.respond(self.api, self.session, text, held, SHORT, compare=compare)
        return [log async for log in talk]

    def lines(self, kind: str) -> list[dict[str, Any]]:
        told = [json.loads(line) for line in self.session.transcript.lines]
        return [line for line in told if line["k"] == kind]

    def text(self, number: int = 1) -> str:
        return "".join(line["x"] for line in self.lines("+") if line["r"] == number)


class AtOnce(uvicorn.Server):
    """Ends when it is told: uvicorn looks for that ten times a second, and waits a tenth more."""

    async def main_loop(self) -> None:
        await self.on_tick(0)
        self.told = asyncio.Event()
        await self.told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[Service]:
    """options: of ui_stub.Script."""
    script = ui_stub.Script(**options)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        ui_stub_routes.build(script), log_level="warning", ws="none", lifespan="off"
    )
    server = AtOnce(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not hasattr(server, "told"):
        await asyncio.sleep(0)
    running = Service(script, listener.getsockname()[1])
    try:
        yield running
    finally:
        await running.api.close()
        server.should_exit = True
        server.told.set()
        await task
        listener.close()


@pytest.fixture
async def service(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """As a test is parametrized: `indirect`, with options of ui_stub.Script."""
    async with served(**getattr(request, "param", {})) as running:
        yield running


async def deafened(service: Service, monkeypatch: pytest.MonkeyPatch) -> asyncio.Task[list[str]]:
    """A reply that has begun, of a service that does not answer who stops it."""

    async def deaf(self: Api, generation: str) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(Api, "stop", deaf)
    monkeypatch.setattr(chat, "GRACE", 0.05)
    reply = asyncio.create_task(service.logs("Hello"))
    while service.session.live is None:
        await asyncio.sleep(0.01)
    return reply


@cache
def parts() -> layout.Parts:
    """The page's components, once: an empty gr.Blocks takes a quarter of a second."""
    with gr.Blocks():
        return layout.build()


def handlers(api: Api) -> Handlers:
    return Handlers(api, parts(), "")
