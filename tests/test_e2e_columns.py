"""The page in a browser: a question answered in several ways at once.

The service is the scripted one of `ui_stub.py`.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import ui_browser
from ui_browser import ask

served, stub = ui_browser.served, ui_browser.stub  # fixtures
open_page, ready, expect = ui_browser.open_page, ui_browser.ready, ui_browser.expect
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("default")]

TWO = "?steer=foghorn/0:c:2.5,foghorn/1:s:3"
NAMES = ["Golden Gate Bridge", "cats and kittens"]


def test_each_feature_alone_stands_in_a_column_of_its_name(ready: Any, expect: Any) -> None:
    page = ready(TWO)
    page.get_by_label("Each feature alone").check()
    ask(page, "Who are you?")
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(4)
    expect(page.locator(".sd-reply h3")).to_have_text(["Unsteered", "All together", *NAMES])
    chips = [f"{NAMES[0]}2.5×", f"{NAMES[1]}scaled by 3"]
    expect(page.locator(".sd-chip")).to_have_text([*chips, *chips])
    lefts = [box.bounding_box()["x"] for box in page.locator(".sd-reply").all()]
    assert lefts == sorted(set(lefts))
    page.get_by_role("button", name="Export").click()
    expect(page.locator(".sd-export pre")).to_contain_text("/v1/compare")


def test_columns_on_a_phone_leave_the_page_as_wide_as_it_is(
    stub: Any, open_page: Any, expect: Any
) -> None:
    stub.start()
    page = open_page(TWO, viewport={"width": 375, "height": 667})
    page.get_by_label("Each feature alone").check()
    ask(page, "Who are you?")
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.locator(".sd-open-rack").click()
    page.get_by_role("button", name="When…").first.click()
    page.get_by_label("Whether it waits").select_option("once")
    page.get_by_label("Whether it stops the reply").select_option("when")
    cards = page.locator("#rack")
    assert cards.evaluate("node => node.scrollWidth <= node.clientWidth")


def test_each_alone_is_offered_for_two_features_that_act_and_can_always_be_taken_back(
    ready: Any, expect: Any
) -> None:
    page = ready(f"{TWO}:-")
    alone, message = page.get_by_label("Each feature alone"), page.get_by_label("Message")
    expect(page.locator("#rack .sd-name")).to_have_count(2)
    expect(alone).to_be_hidden()
    cats = page.get_by_label("cats and kittens on")
    cats.check()
    alone.check()
    cats.uncheck()
    expect(alone).to_be_visible()
    ask(page, "Hello")
    expect(page.get_by_text("needs two features or more")).to_be_visible()
    expect(message).to_have_value("Hello")
    alone.uncheck()
    expect(alone).to_be_hidden()


def test_one_way_of_comparing_is_chosen_at_a_time(ready: Any, expect: Any) -> None:
    page = ready(TWO)
    names = ("Compare with unsteered", "Sweep the strength", "Each feature alone")
    boxes = [page.get_by_label(name) for name in names]
    for chosen in (*boxes, boxes[0]):
        chosen.check()
        for box in boxes:
            expect(box).to_be_checked(checked=box is chosen)
    boxes[0].uncheck()
    ask(page, "Hello")
    expect(page.locator(".sd-reply:not([aria-busy])")).to_have_count(1)


def test_a_model_that_thinks_lets_an_edit_keep_to_it_and_the_address_says_so(
    ready: Any, expect: Any
) -> None:
    page = ready(TWO, thinking=("only", "after"))
    page.get_by_role("button", name="When…").first.click()
    page.get_by_label("Thinking blocks").select_option("only")
    expect(page).to_have_url(re.compile("thinking"))
    page.reload()
    expect(page.locator(".sd-timed").first).to_contain_text("in thinking blocks only")
