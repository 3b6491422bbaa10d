"""The page builds, keeps to itself and checks what it is sent."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI

import ui
from ui import assets, settings
from ui.assets import CONTENT_SECURITY_POLICY, mount_options
from ui.client import CONNECTIONS
from ui.errors import SettingsError
from ui.page import HERE, add_page, build_page
from ui.session import Session
from ui.settings import Settings

ROOM = Path(ui.__file__).parent


async def test_the_page_builds_and_no_template_holds_data() -> None:
    page = build_page("http://127.0.0.1:1")
    widgets = [block for block in page.blocks.values() if isinstance(block, gr.HTML)]
    assert {"thread", "rack", "search", "card", "gallery", "export", "settings", "top"} <= {
        widget.elem_id for widget in widgets
    }
    for widget in widgets:
        static = widget.html_template != "${value}"
        assert static or widget.js_on_load is None, widget.elem_id
        if static:
            assert not re.search(r"\$\{|\{\{", widget.html_template), widget.elem_id
    assert not page.analytics_enabled


@pytest.mark.parametrize(
    ("beside", "address"), [(False, "http://gpu-box:8000/v1"), (True, f"'{HERE}/v1")]
)
async def test_exported_code_names_the_service_or_beside_it_where_the_page_is(
    beside: bool, address: str
) -> None:
    page = build_page("http://gpu-box:8000/", beside=beside)
    export = next(fn.fn for fn in page.fns.values() if fn.name == "export")
    update = await export(Session(), [], Settings().model_dump(), "")
    (code,) = [value for value in update.values() if "curl" in value]
    assert f"curl {address}/chat/completions" in code["curl"]
    assert code["docs"] == f"{address.strip(chr(39)).removesuffix('/v1')}/docs"
    assert f"base_url='{address.strip(chr(39))}'" in code["python"]
    assert f'"{HERE}"' in assets.text("static/export.js")


async def test_code_is_exported_where_someone_looks_and_not_at_every_step_of_a_slider() -> None:
    """It holds the whole conversation."""
    page = build_page("http://127.0.0.1:1")
    asked = {name: fn.targets for fn in page.fns.values() for name in [fn.name]}
    assert [event for _, event in asked["export"]] == ["wanted"]
    assert [event for _, event in asked["link"]] == ["change", "change"]


async def test_gradio_lets_in_as_many_replies_as_there_are_connections_for() -> None:
    """A reply beyond its own limit would wait without a word, while the engine has rows."""
    app = FastAPI()
    page = build_page("http://127.0.0.1:1")
    add_page(app, page)
    async with app.router.lifespan_context(app):
        assert page._queue.active_jobs == [None] * CONNECTIONS


async def test_no_handler_is_public_api() -> None:
    page = build_page("http://127.0.0.1:1")
    assert {fn.api_visibility for fn in page.fns.values()} == {"private"}


def test_nothing_the_page_ships_names_another_host() -> None:
    shipped = [*ROOM.glob("static/*.*"), ROOM / "style.css"]
    texts = {path.name: path.read_text() for path in shipped if path.suffix != ".png"}
    assert len(texts) > 10
    for name, text in texts.items():
        hosts = set(re.findall(r"(?:https?:)?//[a-z][a-z0-9.-]+\.[a-z]+", text))
        assert hosts <= {"http://www.w3.org"}, name
        assert "@import" not in text, name


def test_mount_options_are_what_gradio_takes_and_keep_it_quiet() -> None:
    options = mount_options()
    assert options["run_history"] is False
    assert options["footer_links"] == []
    assert options["ssr_mode"] is False
    assert Path(options["favicon_path"]).read_bytes().startswith(b"\x89PNG")
    theme = options["theme"]
    assert theme._stylesheets == []
    assert theme._font_css == []
    assert "default-src 'self'" in CONTENT_SECURITY_POLICY


def test_every_file_a_widget_names_is_shipped() -> None:
    code = "".join(path.read_text() for path in ROOM.glob("*.py"))
    shipped = {path.name for path in ROOM.glob("static/*.js")}
    assert shipped == set(re.findall(r'"(\w+\.js)"', code)) | {"page.js"}


def test_the_settings_a_widget_shows_come_back_as_the_same_settings() -> None:
    for chosen in (Settings(), Settings(system="Be brief.", temperature=0.5, seed=3, norm=True)):
        assert settings.parse(json.loads(json.dumps(chosen.model_dump()))) == chosen
    assert settings.parse(None) == Settings()


@pytest.mark.parametrize(
    ("posted", "told"),
    [
        ({"temperature": 9}, "Temperature"),
        ({"temperature": "hot"}, "Temperature"),
        ({"max_tokens": 0}, "Longest reply"),
        ({"max_tokens": 1.5}, "Longest reply"),
        ({"seed": -1}, "Seed"),
        ({"system": ["x"]}, "System prompt"),
        ("<script>", "Settings"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_by_name(posted: Any, told: str) -> None:
    with pytest.raises(SettingsError, match=f"^{told}: .*\\.$"):
        settings.parse(posted)


def test_empty_settings_leave_sampling_to_the_model() -> None:
    assert Settings(max_tokens=None).sampling() == {}
    assert Settings(temperature=0.0).sampling() == {"temperature": 0, "max_completion_tokens": 256}
