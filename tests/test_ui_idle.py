"""The page's connections to the service do not outlive the service's end of them."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from server.mount import make_server
from ui import client
from ui.client import IDLE, Api, http_client

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


async def test_a_connection_that_its_server_hangs_up_on_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that is about to close an idle one: the next request on it gets no answer."""
    monkeypatch.setattr(client, "IDLE", 0.05)

    served: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_ANSWER)
        await reader.read(1)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        api = Api(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", http=http_client())
        assert await api.get("/first") == {}
        await asyncio.sleep(0.2)
        assert await api.get("/second") == {}
        await api.close()
        await asyncio.gather(*filter(None, served))


def test_the_service_keeps_a_connection_longer_than_the_page_uses_it() -> None:
    assert make_server(FastAPI()).config.timeout_keep_alive > IDLE
