"""The page as others reach it, who have no key: beside the API and alone it is only the page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2
import pytest
from fastapi import FastAPI
from gradio.routes import App
from starlette.routing import Match
from typer.testing import CliRunner

from server.app import create_app
from server.cli import app as command
from server.middleware import PAGE_VALUES
from server.mount import build_page, page_alone
from server.service import Service
from server.settings import Settings
from ui.doors import GETS, POSTS
from ui.page import TABS
from ui.session import Session

HERE = "http://127.0.0.1:1"
JOIN = "/gradio_api/queue/join"


def beside(settings: Settings) -> FastAPI:
    return create_app(Service("x", lambda report: None), settings, page=build_page(HERE))


def alone(settings: Settings) -> FastAPI:
    return page_alone(HERE, settings)


@pytest.fixture(params=[beside, alone])
def served(request: pytest.FixtureRequest) -> Callable[..., httpx2.AsyncClient]:
    def client(**settings: object) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(request.param(Settings(**settings)), client=("", 1))
        return httpx2.AsyncClient(transport=transport, base_url="http://localhost")

    return client


def gradio(app: FastAPI) -> App:
    (found,) = [route.app for route in app.routes if isinstance(getattr(route, "app", None), App)]
    return found


def state_of(app: App) -> int:
    """The number under which a tab's Session is kept."""
    blocks = app.get_blocks().blocks.items()
    (key,) = [key for key, block in blocks if isinstance(getattr(block, "value", None), Session)]
    return key


async def test_what_the_page_does_not_use_is_not_there(served) -> None:
    closed = {
        "GET": ("/pwa_icon/5000", "/pwa_icon", "/config", "/gradio_api/file=/etc/passwd", "/nope"),
        "POST": ("/gradio_api/upload", "/gradio_api/component_server", "/gradio_api/vibe-edit"),
    }
    async with served(api_keys="k") as client:
        for method, paths in closed.items():
            for path in paths:
                answer = await client.request(method, path)
                assert answer.status_code == 404, path
                assert answer.json()["error"]["message"] == f"the page has no {method} {path}"
        manifest = (await client.get("/manifest.json")).json()
        used = ["/", "/theme.css", "/favicon.ico", *(icon["src"] for icon in manifest["icons"])]
        assert len(used) == 5
        for path in used:
            assert (await client.get(path)).status_code == 200, path


async def test_every_open_door_leads_to_a_route_of_gradio() -> None:
    routes = gradio(alone(Settings())).routes
    for method, doors in (("GET", GETS), ("POST", POSTS)):
        for door in doors:
            path = door.replace("[^/]+", "x").replace(".+", "x").replace("(192|512)", "192")
            asked = {"type": "http", "method": method, "path": path}
            assert any(route.matches(asked)[0] is Match.FULL for route in routes), door


async def test_an_event_of_the_page_has_bounds_as_any_request(served) -> None:
    async with served(max_body=2**16) as client:
        large = await client.post(JOIN, content=b"[" + b" " * 2**16 + b"]")
        crowded = await client.post(JOIN, content=b"[" + b"[]," * PAGE_VALUES + b"1]")
        wordy = await client.post(JOIN, content=b'["' + b'\\"[{: ' * PAGE_VALUES + b'"]')
    assert [large.status_code, crowded.status_code, wordy.status_code] == [413, 413, 422]
    assert "65536 at most" in large.json()["error"]["message"]
    assert f"{PAGE_VALUES + 1} lists, objects and fields" in crowded.json()["error"]["message"]


async def test_no_page_elsewhere_reaches_it_by_a_name_of_its_own(served) -> None:
    async with served(allowed_hosts="deck.example") as client:
        for host, status in (("evil.example", 400), ("deck.example", 200), ("localhost:7860", 200)):
            assert (await client.get("/", headers={"host": host})).status_code == status


def test_the_page_alone_is_shown_to_other_machines_only_if_that_is_said() -> None:
    said = CliRunner().invoke(command, ["ui", "--host", "0.0.0.0", "--port", "0"])
    assert said.exit_code == 1
    assert "0.0.0.0 is reachable from other machines" in said.stderr
    assert "--allow-open" in said.stderr


async def test_a_conversation_outlives_any_number_of_tabs_in_which_nothing_was_said() -> None:
    app = gradio(alone(Settings()))
    holder = app.state_holder
    assert holder is app.get_blocks().state_holder
    key = state_of(app)
    for tab in ("talks", "silent"):
        holder[tab][key].transcript.turns.extend(["a turn"] * (tab == "talks"))
    for number in range(TABS + 100):
        assert holder[f"flood {number}"][key].transcript.turns == []
    assert "talks" in holder
    assert "silent" not in holder
    assert len(holder.session_data) == len(holder.time_last_used) == TABS


async def test_where_all_tabs_talk_the_one_used_longest_ago_is_forgotten() -> None:
    app = gradio(alone(Settings()))
    holder = app.state_holder
    holder.capacity = 3
    key = state_of(app)
    for number in range(4):
        holder[str(number)][key].live = asyncio.Event()
    assert list(holder.session_data) == ["1", "2", "3"]
