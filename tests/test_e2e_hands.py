"""The page in a browser under a person's hands: keys, focus, what is typed, picked and turned.

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


def test_the_strip_is_one_stop_of_the_tab_key_and_is_left_backwards_too(
    ready: Any, expect: Any
) -> None:
    page = ready("?steer=foghorn/0:c:3")
    ask(page, "Hello")
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(1)
    tokens = page.locator(".sd-token")
    page.locator(".sd-strip summary").focus()
    page.keyboard.press("Tab")
    expect(tokens.first).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    told = re.compile(r" am: Golden Gate Bridge 0.5 → 30, moved by 1.25 nats")
    expect(tokens.nth(1)).to_have_attribute("aria-label", told)
    page.keyboard.press("Shift+Tab")
    expect(page.locator(".sd-strip summary")).to_be_focused()
    page.keyboard.press("Tab")
    expect(tokens.nth(1)).to_be_focused()


def test_a_strength_that_was_mistyped_leaves_the_slider_as_it_was(
    stub: Stub, open_page: Any, expect: Any
) -> None:
    stub.start()
    page = open_page("?steer=foghorn/0:c:2.5")
    strength = page.get_by_label("Strength of Golden Gate Bridge")
    slider = page.get_by_label("Slider for Golden Gate Bridge")
    expect(slider).to_have_attribute("max", "8")
    for typed, taken, end in (("100000", "100000", "160000"), ("5e9", "1000000", "1000000")):
        strength.fill(typed)
        strength.press("Enter")
        expect(strength).to_have_value(taken)
        expect(slider).to_have_attribute("max", end)
    strength.fill("3")
    strength.press("Enter")
    expect(slider).to_have_attribute("max", "8")
    strength.fill("1e999")
    strength.press("Enter")
    expect(strength).to_have_value("3")
    expect(page).to_have_url(re.compile(r"steer=foghorn/0:c:3$"))


def test_the_search_forgets_what_was_picked_and_closes_when_it_is_left(
    ready: Any, expect: Any
) -> None:
    page = ready()
    search, hits = page.get_by_label("Search features"), page.locator("#search [role=option]")
    search.fill("cats")
    expect(hits).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator("#rack .sd-name")).to_have_text("cats and kittens")
    page.get_by_role("button", name="Remove cats and kittens").click()
    search.focus()
    expect(hits).to_have_count(6)
    hits.nth(2).click()  # the list is still there under the pointer
    expect(page.locator("#rack .sd-name")).to_have_text("the sea")
    search.click()
    expect(hits.first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Sort features by")).to_be_focused()
    page.keyboard.press("Tab")
    expect(hits.first).to_be_hidden()


def test_the_focus_goes_back_to_where_a_drawer_was_opened_from(
    stub: Stub, open_page: Any, expect: Any
) -> None:
    stub.start()
    page = open_page("?steer=foghorn/0:c:2.5")
    name = page.locator("#rack .sd-name")
    name.click()
    expect(page.get_by_role("button", name="Close details")).to_be_focused()
    page.keyboard.press("Enter")
    expect(name).to_be_focused()
    page.get_by_role("button", name="Presets", exact=True).click()
    page.get_by_role("button", name="Close presets").focus()
    page.keyboard.press("/")
    expect(page.locator("#drawer-presets")).to_be_hidden()
    expect(page.get_by_label("Search features")).to_be_focused()


def test_no_key_throws_the_focus_back_to_the_top_of_the_page(ready: Any, expect: Any) -> None:
    page = ready("?steer=foghorn/0:c:2.5", rate=12)
    page.get_by_label("Message").fill("Hello")
    page.get_by_role("button", name="Send").press("Enter")
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_focused()
    expect(page.locator(".sd-body p")).to_be_visible()
    stop.press("Enter")
    expect(page.get_by_role("button", name="Send")).to_be_focused()
    page.get_by_role("button", name="Answer again").press("Enter")
    expect(page.locator(".sd-reply[data-reply='2']")).to_be_focused()
    page.get_by_role("button", name="Presets", exact=True).press("Enter")
    drawer = page.get_by_role("dialog", name="Presets")
    expect(drawer.get_by_role("button", name="Close presets")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Shift+Tab")
        assert page.evaluate("!document.activeElement.closest('#top, #deck')")


def test_what_is_typed_after_a_message_was_sent_stays_and_so_does_a_draft(
    ready: Any, expect: Any
) -> None:
    page = ready()
    assert page.locator("a[href]").count() == 0  # nothing leads away from a conversation
    message = page.get_by_label("Message")

    def slowly(route: Any) -> None:
        page.wait_for_timeout(1500)
        route.continue_()

    page.route("**/queue/join*", slowly, times=1)
    ask(page, "Hello")
    expect(message).to_have_value("")
    page.keyboard.type("My second thought is")
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(1)
    expect(message).to_have_value("My second thought is")
    page.reload()
    expect(message).to_have_value("My second thought is")
    ask(page, "this is too long")
    expect(page.locator(".sd-error")).to_contain_text("512 fit")
    expect(message).to_have_value("this is too long")


def test_a_message_sent_before_the_first_look_is_answered_once_and_leaves_the_field(
    stub: Stub, open_page: Any, expect: Any
) -> None:
    stub.start()
    late = """const fetched = window.fetch;
        window.fetch = async (...asked) => {
            const called = String(asked[0]).split("?")[0].split("/").at(-1);
            const wait = { predict: 1000, join: 2000 }[called];
            if (wait) await new Promise((go) => setTimeout(go, wait));
            return fetched(...asked);
        }"""
    page = open_page(script=late)
    ask(page, "Hello")
    expect(page.locator(".sd-home")).to_have_count(0)
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(1)
    expect(page.get_by_label("Message")).to_have_value("")
    page.reload()
    expect(page.locator(".sd-home")).to_be_visible()
    expect(page.get_by_label("Message")).to_have_value("")


def test_the_page_loads_where_the_browser_forbids_storage(
    served: tuple[Stub, str], stub: Stub, chromium: Any, expect: Any
) -> None:
    stub.start(dictionaries=("foghorn", "second"))
    page = chromium.new_context().new_page()
    page.add_init_script(
        """for (const name of ["sessionStorage", "localStorage"])
            Object.defineProperty(window, name,
                { configurable: true,
                get() { throw new DOMException("forbidden", "SecurityError"); } })"""
    )
    page.goto(f"{served[1]}?steer=foghorn/0:c:2.5,second/0:c:2.5")
    expect(page.locator(".sd-home h2")).to_be_visible()
    expect(page.locator(".sd-ref")).to_have_text(["foghorn/0", "second/0"])
    expect(page.locator(".sd-ref").first).to_be_visible()
    page.context.close()


def test_on_a_phone_each_drawer_leads_back_and_what_was_copied_is_said(
    stub: Stub, open_page: Any, expect: Any
) -> None:
    stub.start(near=2.0, rate=12)
    page = open_page("?steer=foghorn/0:c:2.5", viewport={"width": 375, "height": 667})
    expect(page.locator(".sd-home h2")).to_be_visible()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    share = page.locator("[data-share]")
    share.click()
    expect(page.get_by_role("status").filter(has_text="Link copied.")).to_be_visible()
    share.click()
    expect(share).to_have_text("Copy link")
    ask(page, "Hello")
    page.locator(".sd-open-rack").click()
    expect(page.get_by_role("button", name="Stop")).to_be_in_viewport(ratio=1)
    rack = page.locator("#drawer-rack")
    stop, top = page.locator("#stop").bounding_box(), rack.bounding_box()["y"]
    assert stop["y"] + stop["height"] <= top
    page.locator("#rack .sd-name").click()
    expect(page.locator("#card .sd-facts")).to_be_visible()
    expect(page.locator(".sd-near")).to_have_count(0)  # not there yet, and not waited for
    expect(page.locator(".sd-near button")).to_have_count(2)
    page.get_by_role("button", name="Close details").click()
    expect(page.locator("body")).to_have_attribute("data-drawer", "rack")
    expect(page.locator("#rack .sd-name")).to_be_focused()


def test_the_first_heading_loads_its_preset(stub: Stub, open_page: Any, expect: Any) -> None:
    stub.start()
    page = open_page()
    page.locator(".sd-home h2").get_by_role("button", name="Golden Gate Bridge").click()
    expect(page.locator("#rack .sd-name")).to_have_text("Golden Gate Bridge")


def test_a_message_sent_while_a_reply_is_written_is_kept_and_told_why(
    ready: Any, expect: Any
) -> None:
    page = ready(rate=12)
    ask(page, "Hello")
    expect(page.locator(".sd-reply[aria-busy]")).to_contain_text("I am a small")
    ask(page, "And then?")
    expect(page.get_by_text("A reply is still being written")).to_be_visible()
    expect(page.get_by_label("Message")).to_have_value("And then?")
    page.keyboard.press("Escape")
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(1)
    page.get_by_label("Message").press("Enter")
    expect(page.locator(".sd-reply")).to_have_count(2)


def test_a_page_that_history_brings_back_says_what_is_lost(ready: Any, expect: Any) -> None:
    page = ready()
    ask(page, "Hello")
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(1)
    page.goto("about:blank")
    page.go_back()
    expect(page.get_by_text("The conversation is lost")).to_be_visible()
    expect(page.locator(".sd-home h2")).to_be_visible()
