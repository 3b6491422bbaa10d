"""The page in a browser where things go wrong: slow, locked, failing and hostile services.

The service is the scripted one of `ui_stub.py`; `ui_browser.py` serves the page.
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


def test_the_page_waits_for_its_service_and_says_what_it_waits_for(
    stub: Stub, open_page: Any, expect: Any
) -> None:
    stub.stop()
    page = open_page("?steer=foghorn/0:c:2.5")
    banner = page.locator(".sd-banner")
    expect(banner).to_contain_text(f"No server answers at {stub.url}")
    ask(page, "Hello")
    expect(page.get_by_text("The model is not ready yet")).to_be_visible()
    stub.start(loading=3)
    expect(banner).to_contain_text("The model is loading: reading weights.")
    expect(banner.get_by_role("progressbar")).to_be_visible()
    expect(page.locator(".sd-home")).not_to_contain_text("is ready")
    box = banner.bounding_box()
    assert page.locator("#search input").bounding_box()["y"] >= box["y"] + box["height"]
    expect(banner).to_be_hidden()
    expect(page.locator(".sd-home h2")).to_have_text("Golden Gate Bridge")
    expect(page.locator("#rack .sd-name")).to_have_text("Golden Gate Bridge")


def test_the_first_screen_is_read_from_its_top(stub: Stub, open_page: Any, expect: Any) -> None:
    stub.start()
    page = open_page()
    page.set_viewport_size({"width": 1280, "height": 400})
    page.reload()
    expect(page.locator(".sd-home h2")).to_be_visible()
    expect(page.locator(".sd-home h1")).to_be_in_viewport(ratio=1)


def test_a_feature_that_comes_late_leaves_what_was_turned_since(
    stub: Stub, open_page: Any, expect: Any
) -> None:
    stub.start(lag=1.0)
    page = open_page("?steer=foghorn/0:c:2.5,foghorn/2:c:2.5")
    names = page.locator("#rack .sd-name")
    expect(names).to_have_text(["Golden Gate Bridge", "the sea"])
    page.get_by_label("Search features").fill("cats")
    expect(page.locator("#search [role=option]")).to_have_count(1)
    page.keyboard.press("Enter")
    strength = page.get_by_label("Strength of Golden Gate Bridge")
    strength.fill("4")
    strength.press("Tab")
    page.get_by_role("button", name="Remove the sea").click()
    expect(names).to_have_text(["Golden Gate Bridge", "cats and kittens"])
    expect(strength).to_have_value("4")
    expect(page).to_have_url(re.compile(r"steer=foghorn/0:c:4,foghorn/1:c:2.5$"))


def test_a_token_keeps_the_name_of_its_feature_when_the_rack_is_replaced(
    stub: Stub, open_page: Any, expect: Any
) -> None:
    stub.start(rate=8)
    page = open_page("?steer=foghorn/0:c:3")
    expect(page.locator("#rack .sd-name")).to_have_text("Golden Gate Bridge")
    ask(page, "Hello")
    expect(page.locator(".sd-token").nth(3)).to_be_visible()
    page.get_by_role("button", name="Presets", exact=True).click()
    page.locator(".sd-preset", has_text="cats and kittens").click()
    page.keyboard.press("Escape")
    expect(page.locator(".sd-turned ~ .sd-token").nth(3)).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(1)
    told = page.get_by_role("tooltip").locator("b").first
    page.locator(".sd-token").first.hover()
    expect(told).to_have_text("Golden Gate Bridge")
    page.locator(".sd-token").last.hover()
    expect(told).to_have_text("cats and kittens")


def test_a_key_is_asked_for_only_where_one_is_needed_and_is_remembered(
    stub: Stub, open_page: Any, expect: Any
) -> None:
    stub.start(key="secret")
    page = open_page()
    expect(page.locator(".sd-banner")).to_contain_text("This server needs an API key.")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("API key", exact=True).fill("secret")
    page.get_by_role("button", name="Use key").click()
    expect(page.locator(".sd-banner")).to_be_hidden()
    page.reload()
    expect(page.locator(".sd-home h2")).to_be_visible()
    expect(page.locator(".sd-banner")).to_be_hidden()
    stub.start()
    other = open_page(color_scheme="dark")
    other.get_by_role("button", name="Settings").click()
    expect(other.get_by_label("Temperature")).to_be_visible()
    expect(other.get_by_label("API key", exact=True)).to_be_hidden()


def test_hostile_labels_and_tokens_are_only_ever_text(
    stub: Stub, open_page: Any, expect: Any
) -> None:
    stub.start()
    page = open_page("?steer=foghorn/4:c:2.5")
    expect(page.locator("#rack .sd-name")).to_contain_text("<img src=x")
    page.get_by_label("Search features").fill("slow")
    page.wait_for_timeout(200)  # so that this query is under way when the next one is typed
    page.get_by_label("Search features").fill("img")
    expect(page.locator("#search [role=option]")).to_contain_text("<img src=x")
    page.keyboard.press("Escape")
    ask(page, "hostile **bold** <b>x</b> `code` please")
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(1)
    expect(page.locator(".sd-body")).to_contain_text("<img src=x")
    expect(page.locator(".sd-user")).to_have_text("hostile **bold** <b>x</b> `code` please")
    page.locator("#rack .sd-name").click()
    expect(page.locator("#card h2")).to_contain_text("${document.title='owned'} {{value}}")
    assert page.locator("img[src=x]").count() == 0
    assert page.title() == "Steerdeck"


def test_a_failing_reply_says_why_and_the_next_one_works(ready: Any, expect: Any) -> None:
    page = ready()
    for prompt, told in (
        ("please fail", "The step failed: out of memory."),
        ("please cut", "The reply broke off before its end"),
        ("this is too long", "The prompt has 9000 tokens; 512 fit."),
    ):
        ask(page, prompt)
        expect(page.get_by_role("alert").filter(has_text=told)).to_be_visible()
    ask(page, "Hello")
    expect(page.locator(".sd-last .sd-stats")).to_contain_text("256 tokens")
    assert "Traceback" not in page.content()


def test_the_words_after_the_mark_are_those_of_the_new_setting(ready: Any, expect: Any) -> None:
    page = ready("?steer=foghorn/0:c:3", rate=12)
    ask(page, "Hello")
    expect(page.locator(".sd-token").nth(3)).to_be_visible()
    page.get_by_label("Golden Gate Bridge on").uncheck()
    mark = page.locator(".sd-turn")
    expect(mark).to_have_attribute("title", "Golden Gate Bridge off")
    expect(page.locator(".sd-turned ~ .sd-token").nth(5)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(1)
    before, after = page.locator(".sd-body p").evaluate(
        """p => { const mark = p.querySelector('.sd-turn'); const range = document.createRange();
        range.setStart(p, 0); range.setEndBefore(mark); const before = range.toString();
        range.setStartAfter(mark); range.setEnd(p, p.childNodes.length);
        return [before, range.toString()]; }"""
    )
    assert "I am the bridge" in before
    assert len(after.split()) > 3
    assert not set(after.split()) & {"bridge", "bay,", "towers", "fog.", "cables", "Ships"}


def test_a_share_link_that_makes_no_sense_is_said_and_leaves_the_page_usable(
    stub: Stub, open_page: Any, expect: Any
) -> None:
    stub.start()
    page = open_page("?steer=foghorn/77:c:1")
    expect(page.get_by_text("The link was not opened. There is no feature 77")).to_be_visible()
    expect(page.locator("#rack")).to_contain_text("The rack is empty")
    expect(page.locator(".sd-home h2")).to_be_visible()


def test_the_guard_is_a_switch_and_what_it_did_stands_in_the_text_and_below_it(
    ready: Any, expect: Any
) -> None:
    page = ready("?steer=foghorn/0:c:3")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Guard the reply's coherence").check()
    page.keyboard.press("Escape")
    ask(page, "Hello")
    told = "guard: the text went in circles, so all strengths are at 40%"
    expect(page.locator(".sd-turn")).to_have_attribute("title", told)
    below = "guard: backed off once, to 40% of the strengths"
    expect(page.locator(".sd-stats")).to_contain_text(below)


def test_a_page_that_lost_its_connection_says_what_is_lost_and_keeps_the_rest(
    served: tuple[Stub, str], stub: Stub, chromium: Any, expect: Any
) -> None:
    """Gradio loads it anew. A key is asked for, so that Python has settings to write over."""
    stub.start(key="secret")
    page = chromium.new_context(reduced_motion="reduce").new_page()  # its console may hold errors
    page.goto(served[1] + "?steer=foghorn/0:c:2.5")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("API key", exact=True).fill("secret")
    page.get_by_role("button", name="Use key").click()
    page.get_by_label("Seed").fill("5")
    page.keyboard.press("Escape")
    expect(page.locator("#rack .sd-name")).to_be_visible()
    ask(page, "Hello")
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(1)
    page.route("**/gradio_api/run/**", lambda route: route.abort(), times=1)
    page.get_by_label("Slider for Golden Gate Bridge").press("ArrowRight")
    lost = page.get_by_text("The conversation is lost")
    expect(lost).to_be_visible()
    expect(page.locator(".sd-home h2")).to_be_visible()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("API key", exact=True)).to_be_visible()
    expect(page.get_by_label("Seed")).to_have_value("5")
    page.keyboard.press("Escape")
    expect(page.locator("#rack .sd-name")).to_have_text("Golden Gate Bridge")
    ask(page, "Hello")
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(1)
    page.get_by_role("button", name="New").click()
    expect(page.locator(".sd-home h2")).to_be_visible()
    page.reload()
    expect(page.locator(".sd-home h2")).to_be_visible()
    expect(lost).to_have_count(0)
    page.context.close()


def test_a_link_stays_in_the_address_of_a_page_that_waits_and_export_is_there_at_once(
    stub: Stub, open_page: Any, expect: Any
) -> None:
    stub.stop()
    page = open_page("?steer=foghorn/0:c:2.5&norm=keep")
    expect(page.locator(".sd-banner")).to_contain_text("No server answers")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed").fill("5")
    page.keyboard.press("Escape")
    page.get_by_label("Message").fill("How deep is the bay?")
    page.get_by_role("button", name="Export").click()
    code = page.locator(".sd-export pre")
    expect(code).to_contain_text('"seed": 5')
    expect(code).to_contain_text("How deep is the bay?")
    expect(code).not_to_contain_text('"model"')
    expect(page).to_have_url(re.compile(r"steer=foghorn/0:c:2.5&norm=keep$"))
    page.keyboard.press("Escape")
    stub.start()
    expect(page.locator("#rack .sd-name")).to_be_visible()
    page.get_by_role("button", name="Export").click()
    expect(code).to_contain_text('"model": "foghorn"')
