"""A proxy of the environment: what is for another machine goes through it, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.mount import NoPage, page_alone
from server.settings import Settings
from ui import page
from ui.client import Api
from ui.errors import ApiError

READY = json.dumps({"ready": True}).encode()


@pytest.fixture
async def passed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """What went through the proxy: `GET http://gpu-box/readyz`. It answers for every host."""
    passed: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        passed.append(head.decode().partition(" HTTP/")[0])
        length = str(len(READY)).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n" + READY)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, address)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "excepted.invalid")
        yield passed


def asking(monkeypatch: pytest.MonkeyPatch, url: str, **how: bool) -> Api:
    """As the page for that service asks it."""
    apis: list[Api] = []

    class Handlers(page.Handlers):
        def __init__(self, api: Api, *rest: Any) -> None:
            apis.append(api)
            super().__init__(api, *rest)

    monkeypatch.setattr(page, "Handlers", Handlers)
    page.build_page(url, **how)
    return apis[0]


async def test_a_service_elsewhere_is_asked_by_the_proxy(passed, monkeypatch) -> None:
    api = asking(monkeypatch, "http://gpu-box.invalid:8000")
    assert (await api.ready()).ready
    assert passed == ["GET http://gpu-box.invalid:8000/readyz"]


@pytest.mark.parametrize(
    ("url", "beside"),
    [
        ("http://127.0.0.1:9", False),
        ("http://127.0.0.2:9", False),
        ("http://localhost:9", False),
        ("http://[::1]:9", False),
        ("http://excepted.invalid", False),
        ("http://192.0.2.7.invalid:9", True),  # its own server's, whatever it listens on
    ],
)
async def test_what_is_near_or_excepted_never_is(passed, monkeypatch, url, beside) -> None:
    api = asking(monkeypatch, url, beside=beside)
    with pytest.raises(ApiError, match="No server answers"):
        await api.ready()
    assert not passed


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "ftp://127.0.0.1", "http://[::1"])
async def test_a_proxy_that_cannot_be_used_is_a_sentence(monkeypatch, proxy) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    page_alone("http://127.0.0.1:8000", Settings())
    with pytest.raises(NoPage, match="a proxy of the environment cannot be used"):
        page_alone("http://gpu-box.invalid:8000", Settings())
