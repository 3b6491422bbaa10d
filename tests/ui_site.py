"""The page in a browser, on the real service with a tiny real model whose pace the tests set.

Seeds are random there, so the model is one that never ends a reply before its limit. Where the
tests set no pace that limit is low: 256 tokens, the page's own, are long on a busy machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from background import Background

LATE = 30_000  # ms a slow machine may take; a fast one waits for nothing
SHORT = """sessionStorage["steerdeck-settings"] ??= '{"max_tokens": 48}'"""


@dataclass
class Site:
    """The served page. `step` seconds pass before each of the model's steps."""

    url: str = ""
    step: float = 0.0
    service: Any = None


@pytest.fixture(scope="module")
def site(make_deck: Callable[..., Any], tmp_path_factory: Any) -> Iterator[Site]:
    from server import mount
    from server.app import create_app
    from server.service import Service
    from server.settings import Settings

    site = Site()
    deck = make_deck(
        tmp_path_factory.mktemp("data"),
        lambda: time.sleep(site.step),
        endless=True,
        max_rows=4,
        max_waiting=3,
    )

    def make() -> Any:
        site.service = Service("tiny", lambda report: deck)
        app = create_app(site.service, Settings(), page=mount.build_page(server.url))
        return mount.make_server(app, site.service)

    server = Background(make)
    site.url = server.url
    server.start(lambda: site.service.alive)
    yield site
    server.stop()


@pytest.fixture
def expect(site: Site) -> Any:
    """Playwright's web-first assertions, patient. Each test begins at full pace."""
    from playwright.sync_api import expect

    expect.set_options(timeout=LATE)
    site.step = 0.0
    return expect


@pytest.fixture
def visit(site: Site, visit: Callable[..., Any]) -> Callable[..., Any]:
    return lambda url, **options: visit(url, script="" if site.step else SHORT, **options)


def finished(page: Any, expect: Any, replies: int = 1) -> None:
    done = page.locator(".sd-exchange.sd-last .sd-reply:not([aria-busy])")
    expect(done).to_have_count(replies)
