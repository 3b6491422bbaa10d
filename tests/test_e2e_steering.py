"""The page in a browser on the real service: what is steered there steers the reply."""

from __future__ import annotations

import re
from typing import Any

import pytest
import ui_site
from ui_browser import ask
from ui_site import Site, finished

site, expect, visit = ui_site.site, ui_site.expect, ui_site.visit  # fixtures

# The service runs in a thread of this process, and Gradio's own warnings are not ours to raise.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("default")]


def levels(page: Any) -> list[float]:
    """What the first feature was set to, at the tokens of the strip where it was edited."""
    script = """bars => bars.map(bar => ["--before", "--after"].map(
        name => Number(bar.style.getPropertyValue(name))))"""
    bars = page.locator(".sd-exchange.sd-last .sd-token .sd-bars i:first-child")
    return [after for before, after in bars.evaluate_all(script) if before != after]


def test_one_click_on_the_first_screen_steers_a_reply(site: Site, visit: Any, expect: Any) -> None:
    page = visit(site.url)
    page.get_by_role("button", name="Tell me about your day.").click()
    expect(page.locator("#rack .sd-name")).to_have_text("Golden Gate Bridge")
    expect(page.locator(".sd-chip")).to_contain_text("4×")
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
    page.get_by_label("Operation on fog and mist").select_option("ablate")
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


def test_what_fires_on_a_text_is_found_and_put_into_the_rack(
    site: Site, visit: Any, expect: Any
) -> None:
    page = visit(site.url)
    search, hits = page.get_by_label("Search features"), page.locator("#search [role=option]")
    search.fill("the fog came in tonight")
    page.get_by_role("button", name="What fires on this text?").click()
    head = page.locator("#search .sd-found-head")
    expect(head).to_contain_text("Firing on “the fog came in tonight”")
    expect(head.locator("select")).to_have_count(0)  # it is in the order of what fires
    expect(hits.nth(2)).to_be_visible()
    ref = hits.first.get_attribute("data-ref")
    search.press("Enter")
    expect(page.locator(f"#rack [data-ref='{ref}']")).to_be_visible()
    search.fill("golden")
    expect(hits).to_have_count(1)
    expect(hits).to_contain_text("Golden Gate Bridge")  # words again
