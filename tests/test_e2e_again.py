"""The page in a browser: a reply that follows the rack, and a question that is taken back.

The service is the scripted one of `ui_stub.py`.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import ui_browser
from ui_browser import Stub, ask

served, stub = ui_browser.served, ui_browser.stub  # fixtures
open_page, ready, expect = ui_browser.open_page, ui_browser.ready, ui_browser.expect
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("default")]


def test_following_is_offered_once_and_the_question_can_be_taken_back(
    ready: Any, expect: Any
) -> None:
    page = ready("?steer=foghorn/0:c:3")
    ask(page, "Hello")
    done, offer = page.locator(".sd-reply:not([aria-busy])"), page.locator(".sd-offer")
    expect(done).to_have_count(1)
    slider = page.get_by_label("Slider for Golden Gate Bridge")
    slider.press("ArrowRight")
    offer.get_by_role("button", name="Yes").click()
    expect(page.get_by_label("Answer again as I steer")).to_be_checked()
    expect(done).to_have_attribute("data-reply", "2")
    page.get_by_label("Answer again as I steer").uncheck()
    slider.press("ArrowRight")
    expect(page.locator("body")).to_have_class(re.compile("sd-changed"))
    expect(offer).to_have_count(0)
    page.get_by_role("button", name="Edit").click()
    expect(page.locator(".sd-home")).to_be_visible()
    expect(page.get_by_label("Message")).to_have_value("Hello")


def test_the_last_reply_follows_what_is_loaded_and_what_is_turned_while_one_is_written(
    stub: Stub, open_page: Any, expect: Any
) -> None:
    stub.start()
    page = open_page()
    page.get_by_label("Answer again as I steer").check()
    page.get_by_role("button", name="Who are you?").click()
    done = page.locator(".sd-reply:not([aria-busy])")
    expect(done).to_have_count(1)
    page.wait_for_timeout(800)  # more than the rack takes to rest
    expect(done).to_have_attribute("data-reply", "1")  # its own preset is none to follow
    page.get_by_role("button", name="Presets", exact=True).click()
    page.locator(".sd-preset", has_text="cats and kittens").click()
    page.keyboard.press("Escape")
    reply = page.locator(".sd-reply")
    expect(reply).to_have_attribute("data-reply", "2")
    expect(page.locator(".sd-chip")).to_contain_text("cats and kittens")
    page.get_by_label("Slider for cats and kittens").press("ArrowRight")
    expect(reply).to_have_attribute("aria-busy", "true")  # not yet
    expect(reply).to_have_attribute("data-reply", "3")
    expect(page.locator(".sd-chip b")).to_have_text("2.75×")
