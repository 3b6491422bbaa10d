"""Served under a path, by a proxy that takes it off and by one that leaves it."""

from __future__ import annotations

from typing import Any

import pytest
import ui_browser
from api_talk import asgi
from background import Background
from pydantic import ValidationError
from ui_browser import Stub, ask

from server.app import create_app
from server.mount import make_server, page_alone
from server.service import Service
from server.settings import Settings

expect = ui_browser.expect  # fixture
UNDER = Settings(root_path="/steer", api_keys="first-key")


async def test_with_and_without_its_path_the_api_is_the_same() -> None:
    """Its keys, too."""
    async with asgi(create_app(Service("x", lambda report: None), UNDER)) as client:
        for path in ("/healthz", "/v1/models"):
            inside, under = await client.get(path), await client.get(f"/steer{path}")
            assert (inside.status_code, inside.text) == (under.status_code, under.text)
        assert under.status_code == 401
        assert (await client.get("/steering/healthz")).status_code == 404
        assert (await client.get("/steer/steer/healthz")).status_code == 404


async def test_the_documents_name_what_the_browser_knows() -> None:
    async with asgi(create_app(Service("x", lambda report: None), UNDER)) as client:
        page = (await client.get("/steer/docs")).text
        assert "'/steer/openapi.json'" in page
        assert page.count("/docs/static/") == page.count("/steer/docs/static/") == 3
        told = (await client.get("/steer/openapi.json")).json()
        assert told["servers"] == [{"url": "/steer"}]
        assert "/v1/models" in told["paths"]


async def test_the_page_is_below_its_path_not_beside_it() -> None:
    async with asgi(page_alone("http://127.0.0.1:1", UNDER)) as client:
        beside = await client.get("/steer?steer=a/1:c:2")
        assert (beside.status_code, beside.headers["location"]) == (307, "/steer/?steer=a/1:c:2")
        for path in ("/", "/steer/"):
            page = await client.get(path)
            assert '"root":"http://localhost/steer"' in page.text
        told = {"x-forwarded-host": "deck.example:8443", "x-forwarded-proto": "https"}
        page = await client.get("/steer/", headers=told)
        assert '"root":"https://deck.example:8443/steer"' in page.text


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("", ""),
        ("/", ""),
        ("steer", "/steer"),
        ("/user/a@b.c/proxy/8000/", "/user/a@b.c/proxy/8000"),
    ],
)
def test_a_path_is_written_with_or_without_its_slashes(written: str, path: str) -> None:
    assert Settings(root_path=written).root_path == path


@pytest.mark.parametrize("written", ["/a/../b", "/a?b", "http://a/b", "/a b", "/v1/", "/é"])
def test_what_is_no_path_is_refused(written: str) -> None:
    with pytest.raises(ValidationError, match=r"is no path such as /steer|is at /v1"):
        Settings(root_path=written)


@pytest.mark.e2e
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("seen", ["/", "/steer/"], ids=["taken off", "left"])
def test_the_page_talks_under_its_path(seen: str, visit: Any, expect: Any) -> None:
    stub = Stub()
    stub.start()
    served = Background(lambda: make_server(page_alone(stub.url, Settings(root_path="/steer"))))
    served.start()
    try:
        page = visit(f"{served.url}{seen}?steer=foghorn/0:c:3")
        expect(page.locator("#rack .sd-name")).to_be_visible()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        ask(page, "Hello")
        expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(1)
        assert asked
        assert all(url.startswith(f"{served.url}/steer/") for url in asked)
    finally:
        served.stop()
        stub.stop()
