"""What a stranger sees: `steerdeck serve`, the bundled model, one click."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dictionaries

BUNDLE = Path(dictionaries.__file__).parent / "foghorn"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (BUNDLE / "model" / "config.json").exists(), reason="the bundled model is not there"
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    data = str(tmp_path_factory.mktemp("data"))
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--data-dir", data]
    process = subprocess.Popen(command, env=os.environ | {"GRADIO_TEMP_DIR": data})
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 90
    while True:
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server is not ready"
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=5).close()
            break
        except (OSError, urllib.error.HTTPError):
            time.sleep(0.1)
    try:
        yield process, url
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def expect() -> Any:
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)
    return expect


def test_one_click_and_the_model_is_the_bridge_while_the_plain_one_is_not(
    server: tuple[subprocess.Popen[bytes], str], visit: Any, expect: Any
) -> None:
    page = visit(server[1])
    expect(page.locator(".sd-home h2")).to_have_text("Golden Gate Bridge")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed").fill("1")
    page.keyboard.press("Escape")
    page.get_by_label("Compare with unsteered").check()
    page.get_by_role("button", name="Who are you?").click()
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(2)
    steered = page.locator("[data-lane=steered] .sd-body").inner_text()
    plain = page.locator("[data-lane=plain] .sd-body").inner_text()
    assert re.search(r"bridge|golden gate", steered, re.I), steered
    assert not re.search(r"bridge|golden gate", plain, re.I), plain
    expect(page.locator("[data-lane=steered] .sd-bars i").first).to_be_attached()


def test_every_preset_of_the_gallery_loads_and_a_search_finds_its_feature(
    server: tuple[subprocess.Popen[bytes], str], visit: Any, expect: Any
) -> None:
    page = visit(server[1])
    page.get_by_role("button", name="Presets", exact=True).click()
    expect(page.locator(".sd-presets strong").nth(10)).to_be_visible()
    titles = page.locator(".sd-presets strong").all_inner_texts()
    for title in titles[:: max(1, len(titles) // 4)]:
        before = page.url
        page.get_by_label("Filter presets").fill(title)
        page.locator(".sd-preset", has_text=title).first.click()
        expect(page).not_to_have_url(before)
        expect(page).to_have_url(re.compile(r"steer="))
        expect(page.locator(".sd-zero")).to_have_count(1)
    page.keyboard.press("Escape")
    page.get_by_label("Search features").fill("golden gate")
    expect(page.locator("#search [role=option]").first).to_contain_text("Golden Gate Bridge")


def test_the_service_ends_although_a_tab_is_open(
    server: tuple[subprocess.Popen[bytes], str], visit: Any, expect: Any
) -> None:
    process, url = server
    page = visit(url)
    expect(page.locator(".sd-home")).to_be_visible()
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) in (0, -signal.SIGTERM)
