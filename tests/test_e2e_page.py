"""The page in a browser on the real service: what is ended, shared, kept and begun anew."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import ui_site
from ui_browser import ask
from ui_site import Site, finished

site, expect, visit = ui_site.site, ui_site.expect, ui_site.visit  # fixtures

# The service runs in a thread of this process, and Gradio's own warnings are not ours to raise.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("default")]


def test_the_stop_button_keeps_what_was_said(site: Site, visit: Any, expect: Any) -> None:
    site.step = 0.2
    page = visit(site.url)
    expect(page.locator(".sd-home")).to_be_visible()
    ask(page, "Tell me a story")
    expect(page.locator(".sd-body p")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    finished(page, expect)
    expect(page.locator(".sd-stats")).to_contain_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert page.locator(".sd-body").inner_text()
    assert site.service.stats().running == 0


def test_closing_the_tab_stops_its_reply(site: Site, visit: Any, expect: Any) -> None:
    site.step = 0.2
    page = visit(site.url)
    expect(page.locator(".sd-home")).to_be_visible()
    ask(page, "Tell me a story")
    expect(page.locator(".sd-body p")).to_be_visible()
    page.close()
    deadline = time.monotonic() + 10
    while site.service.stats().running and time.monotonic() < deadline:
        time.sleep(0.05)
    assert site.service.stats().running == 0


def test_a_copied_link_restores_the_rack_for_someone_else(
    site: Site, visit: Any, expect: Any
) -> None:
    page = visit(f"{site.url}/?steer=fog:a:-1.5:o-,tiny/3:c:2&norm=keep")
    expect(page.locator("#rack .sd-name")).to_have_count(2)
    expect(page).to_have_url(re.compile("tiny/5"))  # the page has named every feature by its id
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == f"{site.url}/?steer=tiny/5:a:-1.5:o-,tiny/3:c:2&norm=keep"
    other = visit(link, color_scheme="dark")
    expect(other.locator("#rack .sd-name")).to_have_text(["fog and mist", "Golden Gate Bridge"])
    expect(other.get_by_label("fog and mist on")).not_to_be_checked()
    expect(other.get_by_label("Strength of fog and mist")).to_have_value("-1.5")
    expect(other.get_by_label("Where fog and mist is steered")).to_have_value("generated")
    other.get_by_role("button", name="Settings").click()
    expect(other.get_by_label("Keep the length of the residual stream")).to_be_checked()


def test_the_same_seed_answers_the_same_again_and_export_says_how(
    site: Site, visit: Any, expect: Any
) -> None:
    page = visit(f"{site.url}/?steer=tiny/3:c:2")
    expect(page.locator("#rack .sd-name")).to_be_visible()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed").fill("11")
    page.get_by_label("Longest reply, in tokens").fill("24")
    page.keyboard.press("Escape")
    texts = []
    ask(page, "Who are you?")
    for _ in range(5):
        finished(page, expect)
        texts.append(page.locator(".sd-body").inner_text())
        page.locator(".sd-stats").evaluate("node => node.remove()")
        page.get_by_role("button", name="Answer again").click()
        expect(page.locator(".sd-stats")).to_contain_text("24 tokens")
    assert texts[0] == texts[1]
    page.get_by_role("button", name="Export").click()
    code = page.locator(".sd-export pre")
    expect(code).to_contain_text(f"curl '{site.url}/v1/chat/completions'")
    for told in ('"seed": 11', '"feature": "tiny/3"', '"content": "Who are you?"'):
        expect(code).to_contain_text(told)
    page.get_by_role("button", name="Python").click()
    expect(code).to_contain_text(f"base_url='{site.url}/v1'")
    documents = page.get_by_role("link", name="API documentation")
    expect(documents).to_have_attribute("href", f"{site.url}/docs")


def test_details_show_what_is_known_and_lead_to_neighbours(
    site: Site, visit: Any, expect: Any
) -> None:
    page = visit(f"{site.url}/?steer=tiny/3:c:2")
    page.get_by_role("button", name="Golden Gate Bridge", exact=True).click()
    card = page.locator("#card")
    expect(card.get_by_role("heading", level=2)).to_have_text("Golden Gate Bridge")
    for told in ("1 % of tokens", "0.5× to 3×", "·bridge", "·cat"):
        expect(card).to_contain_text(told)
    expect(card.get_by_role("img")).to_be_visible()
    expect(card.get_by_role("button", name="In the rack")).to_be_disabled()
    near = card.locator(".sd-near button").first
    name = near.inner_text()
    near.click()
    expect(card.locator(".sd-over")).to_have_text(f"Feature {name}")
    card.get_by_role("button", name="Add to the rack").click()
    expect(page.locator("#rack .sd-name")).to_have_count(2)


def test_a_rack_is_saved_as_a_preset_loaded_and_deleted(
    site: Site, visit: Any, expect: Any
) -> None:
    page = visit(f"{site.url}/?steer=tiny/5:c:3")
    expect(page.locator("#rack .sd-name")).to_have_text("fog and mist")
    page.get_by_role("button", name="Presets").click()
    page.get_by_label("Name of the new preset").fill("My fog")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".sd-presets li")).to_have_count(2)
    page.locator(".sd-presets").get_by_role("button", name="Loud").click()
    expect(page.locator("#rack .sd-name")).to_have_text("Golden Gate Bridge")
    page.locator(".sd-presets").get_by_role("button", name="My fog").first.click()
    expect(page.locator("#rack .sd-name")).to_have_text("fog and mist")
    page.get_by_role("button", name="Delete preset My fog").dblclick()
    expect(page.locator(".sd-presets li")).to_have_count(1)


def test_on_a_phone_the_chat_comes_first_and_the_rack_slides_in(
    site: Site, visit: Any, expect: Any
) -> None:
    page = visit(
        f"{site.url}/?steer=tiny/3:c:2",
        viewport={"width": 393, "height": 852},
        has_touch=True,
        is_mobile=True,
        color_scheme="dark",
    )
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    message, rack = page.get_by_label("Message"), page.locator("#drawer-rack")
    expect(message).to_be_in_viewport()
    expect(page.get_by_role("button", name="Send")).to_be_in_viewport()
    expect(rack).not_to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= 393
    ask(page, "Who are you?")
    finished(page, expect)
    expect(page.locator(".sd-thread")).to_be_in_viewport(ratio=0.9)
    page.locator(".sd-open-rack").click()
    expect(page.get_by_label("Slider for Golden Gate Bridge")).to_be_in_viewport()
    expect(page.locator(".sd-thread")).to_be_in_viewport(ratio=0.3)
    page.get_by_role("button", name="Close the rack").click()
    expect(rack).not_to_be_in_viewport()
    expect(page.locator(".sd-open-rack")).to_be_focused()


def test_the_choice_of_light_or_dark_is_kept(site: Site, visit: Any, expect: Any) -> None:
    page = visit(site.url)
    expect(page.locator(".sd-home")).to_be_visible()
    expect(page.locator("body")).not_to_have_class(re.compile("dark"))
    page.get_by_role("button", name="Switch between light and dark").click()
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    page.reload()
    expect(page.locator(".sd-home")).to_be_visible()
    expect(page.locator("body")).to_have_class(re.compile("dark"))


def test_a_new_conversation_brings_the_first_screen_back(
    site: Site, visit: Any, expect: Any
) -> None:
    site.step = 0.2
    page = visit(site.url)
    expect(page.locator(".sd-home")).to_be_visible()
    ask(page, "Tell me a story")
    expect(page.locator(".sd-body p")).to_be_visible()
    page.get_by_role("button", name="New").click()
    expect(page.locator(".sd-home")).to_be_visible()
    time.sleep(0.3)  # nothing of the old reply comes back
    expect(page.locator(".sd-exchange")).to_have_count(0)
    assert site.service.stats().running == 0
