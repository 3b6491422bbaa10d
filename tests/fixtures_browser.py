"""Fixtures of tests of the page in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

CHROMIUM = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser; it ends with its module, as asyncio tests cannot run beside its loop."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=binary, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def desktop(chromium: Any) -> Any:
    """One visitor for a module: what the first page fetched need not be fetched again."""
    return chromium.new_context(
        viewport={"width": 1280, "height": 800}, reduced_motion="reduce", color_scheme="light"
    )


@pytest.fixture
def visit(chromium: Any, desktop: Any) -> Iterator[Callable[..., Any]]:
    """Open an address, as a new visitor where options of one are given. script: runs before the
    page's own. In the end no page may have asked another machine for anything, thrown an error or
    written one to its console.
    """
    contexts: list[Any] = []
    pages: list[Any] = []
    trouble: list[str] = []

    def open_page(url: str, *, script: str = "", **options: Any) -> Any:
        context = desktop
        if options:
            context = chromium.new_context(reduced_motion="reduce", **options)
            contexts.append(context)
        context.set_default_timeout(30_000)
        page = context.new_page()
        pages.append(page)
        local = ("http://127.0.0.1:", "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(local) or trouble.append(f"asked {r.url}"))
        page.on("console", lambda m: m.type == "error" and trouble.append(f"console: {m.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        if script:
            page.add_init_script(script)
        page.goto(url)
        return page

    yield open_page
    for page in pages:
        if not page.is_closed():
            page.evaluate("localStorage.clear()")
            page.close()
    for context in contexts:
        context.close()
    assert not trouble
