"""The page in a browser, on the real service with a tiny real model whose pace the tests set."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from background import Background
from ui_browser import ask

# The service runs in a thread of this process, and Gradio's own warnings are not ours to raise.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("default")]

LATE = 30_000  # ms a slow machine may take; a fast one waits for nothing


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
        tmp_path_factory.mktemp("data"), lambda: time.sleep(site.step), max_rows=4, max_waiting=3
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


def levels(page: Any) -> list[float]:
    """What the first feature was set to, at the tokens of the strip where it was edited.

    A random model also writes special tokens, which no edit touches.
    """
    script = """bars => bars.map(bar => ["--before", "--after"].map(
        name => Number(bar.style.getPropertyValue(name))))"""
    bars = page.locator(".sd-exchange.sd-last .sd-token .sd-bars i:first-child")
    return [after for before, after in bars.evaluate_all(script) if before != after]


def finished(page: Any, expect: Any, replies: int = 1) -> None:
    done = page.locator(".sd-exchange.sd-last .sd-reply:not([aria-busy])")
    expect(done).to_have_count(replies)


def test_one_click_on_the_first_screen_steers_a_reply(site: Site, visit: Any, expect: Any) -> None:
    page = visit(site.url)
    page.get_by_role("button", name="Who are you?").click()
    expect(page.locator("#rack .sd-name")).to_have_text("Golden Gate Bridge")
    expect(page.locator(".sd-chip")).to_contain_text("4×")
    finished(page, expect)
    for _ in range(5):  # the seed is random here, and the model may end its reply early
        if len(levels(page)) > 5:
            break
        short = page.locator(".sd-reply").get_attribute("data-reply")
        page.get_by_role("button", name="Answer again").click()
        expect(page.locator(f".sd-reply[data-reply='{short}']")).to_have_count(0)
        finished(page, expect)
    assert set(levels(page)) == {10.0}  # 4 times the maximum of 2.5
    assert len(levels(page)) > 5
    expect(page.locator(".sd-stats")).to_contain_text(re.compile(r"\b\d{1,3} tokens"))
    page.get_by_role("button", name="Receipt").click()
    expect(page.locator(".sd-receipt")).to_contain_text('"feature": "tiny/3"')
    thread = page.locator(".sd-thread")
    page.set_viewport_size({"width": 1280, "height": 560})
    long = thread.evaluate("it => it.scrollTop = it.scrollHeight")
    page.locator(".sd-token").last.hover()
    expect(page.locator(".sd-moved")).to_contain_text("nats")
    expect(page.get_by_role("tooltip")).to_be_in_viewport(ratio=1)
    assert thread.evaluate("it => it.scrollHeight") == long, "a tip moves what it is about"
    expect(page.locator(".sd-outlook b")).to_have_text(["Steered", "Unsteered"])
    expect(page.locator(".sd-outlook code")).to_have_count(6)
    expect(page.get_by_role("tooltip")).to_contain_text("→ 10")


def test_a_found_feature_is_added_and_its_slider_dragged(
    site: Site, visit: Any, expect: Any
) -> None:
    page = visit(site.url)
    expect(page.locator(".sd-home")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("fo")
    found = page.get_by_role("option", name="fog and mist")
    expect(found).to_contain_text("2 %")
    page.keyboard.press("Enter")
    card = page.locator("#rack [data-ref='tiny/5']")
    expect(card).to_be_visible()
    slider = page.get_by_label("Slider for fog and mist")
    slider.hover()
    box = slider.bounding_box()
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 10, steps=5)
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 10, steps=5)
    page.mouse.up()
    value = float(slider.input_value())
    assert 6 < value < 8
    expect(page).to_have_url(re.compile(rf"steer=tiny/5:clamp|steer=tiny/5:c:{value:g}$"))
    page.get_by_role("button", name="Ablate").click()
    expect(slider).to_be_disabled()
    expect(page).to_have_url(re.compile(r"steer=tiny/5:x:"))
    page.get_by_role("button", name="Remove fog and mist").click()
    expect(page.locator("#rack")).to_contain_text("The rack is empty")
    expect(page).to_have_url(re.compile(r"/$"))


def test_the_slider_moves_a_reply_that_is_being_written(
    site: Site, visit: Any, expect: Any
) -> None:
    site.step = 0.25  # it must last longer than a slow hand
    page = visit(f"{site.url}/?steer=tiny/3:c:1")
    expect(page.locator("#rack .sd-name")).to_have_text("Golden Gate Bridge")
    ask(page, "Tell me a story")
    expect(page.locator(".sd-token").nth(3)).to_be_visible()
    slider = page.get_by_label("Slider for Golden Gate Bridge")
    slider.hover()
    box = slider.bounding_box()
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 10, steps=3)
    mark = page.locator(".sd-turn")
    expect(mark.last).to_be_visible()  # while the hand is still on the slider
    page.mouse.up()
    strength = float(slider.input_value())
    expect(mark.last).to_have_attribute("title", re.compile(rf"→ {strength:g}×$"))
    expect(page.locator(".sd-turned ~ .sd-token").nth(3)).to_be_visible()
    page.keyboard.press("Escape")
    finished(page, expect)
    expect(page.locator(".sd-stats")).to_contain_text("stopped")
    seen = levels(page)
    assert seen[:3] == [2.5] * 3  # 1 times the maximum of 2.5
    assert seen[-3:] == [float(f"{2.5 * strength:.3g}")] * 3
    assert seen.index(seen[-1]) == len(seen) - seen.count(seen[-1])  # from there on
    page.get_by_role("button", name="Receipt").click()
    expect(page.locator(".sd-receipt")).to_contain_text('"at":')


def test_steered_and_unsteered_are_written_side_by_side(
    site: Site, visit: Any, expect: Any
) -> None:
    site.step = 0.1
    page = visit(f"{site.url}/?steer=tiny/3:c:2")
    expect(page.locator("#rack .sd-name")).to_be_visible()
    page.get_by_label("Compare with unsteered").check()
    ask(page, "Who are you?")
    steered, plain = (page.locator(f".sd-reply[data-lane={lane}]") for lane in ("steered", "plain"))
    for one in (steered, plain):
        expect(one.locator(".sd-body p")).to_be_visible()
        expect(one).to_have_attribute("aria-busy", "true")
    assert site.service.stats().running == 3  # with the row that the steered one is measured by
    site.step = 0.0
    finished(page, expect, replies=2)
    expect(steered.locator(".sd-chip")).to_have_count(1)
    expect(plain.locator(".sd-chip")).to_have_count(0)
    assert steered.locator(".sd-body").inner_text() != plain.locator(".sd-body").inner_text()


def test_a_sweep_stands_in_columns_from_unsteered_to_twice_as_strong(
    site: Site, visit: Any, expect: Any
) -> None:
    page = visit(f"{site.url}/?steer=tiny/3:c:2")
    expect(page.locator("#rack .sd-name")).to_be_visible()
    page.get_by_label("Sweep the strength").check()
    ask(page, "Who are you?")
    finished(page, expect, replies=5)
    expect(page.locator(".sd-reply h3")).to_have_text(
        ["Unsteered", "Half as strong", "Steered", "1.5 times", "Twice as strong"]
    )
    expect(page.locator(".sd-chip b")).to_have_text(["1×", "2×", "3×", "4×"])
    texts = page.locator(".sd-reply .sd-body").all_inner_texts()
    assert len(set(texts)) > 2
    lefts = [box.bounding_box()["x"] for box in page.locator(".sd-reply").all()]
    assert lefts == sorted(set(lefts))


def test_the_last_reply_follows_the_rack_where_that_is_wanted(
    site: Site, visit: Any, expect: Any
) -> None:
    page = visit(f"{site.url}/?steer=tiny/3:c:1")
    expect(page.locator("#rack .sd-name")).to_be_visible()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Longest reply, in tokens").fill("24")
    page.keyboard.press("Escape")
    ask(page, "Who are you?")
    finished(page, expect)
    assert set(levels(page)) == {2.5}
    slider = page.get_by_label("Slider for Golden Gate Bridge")
    slider.press("ArrowRight")
    expect(page.get_by_role("button", name="Answer again")).to_have_css("font-weight", "600")
    assert set(levels(page)) == {2.5}
    page.get_by_label("Answer again as I steer").check()
    slider.press("ArrowRight")
    expect(page.locator(".sd-chip")).to_contain_text("1.2×")
    finished(page, expect)
    assert set(levels(page)) == {3.0}
    expect(page.locator(".sd-exchange")).to_have_count(1)


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
    expect(code).to_contain_text(f"curl -N '{site.url}/v1/chat/completions'")
    for told in ('"seed": 11', '"feature": "tiny/3"', '"content": "Who are you?"'):
        expect(code).to_contain_text(told)
    page.get_by_role("button", name="Python").click()
    expect(code).to_contain_text(f"base_url='{site.url}/v1'")


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
