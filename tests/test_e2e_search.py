"""The search box in a browser, alone on an empty page: no Gradio and no service."""

from __future__ import annotations

from typing import Any

import pytest
import ui_browser

from ui import search

blank, mounted = ui_browser.blank, ui_browser.mounted  # fixtures
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("default")]


def found(page: Any, start: int, count: int, **more: Any) -> None:
    """Answer the last query of the search box with features from `start` on."""
    rows = [{"ref": f"b/{i}", "label": f"cat {i}"} for i in range(start, start + count)]
    told = {"q": "", "sort": "label", "offset": start, "total": 4086, "results": rows, **more}
    page.evaluate(
        """told => window.search.show(
            { ...told, n: window.search.sent.filter(([name]) => name === "query").length })""",
        told,
    )


def test_the_search_goes_on_beyond_its_first_page_and_into_other_dictionaries(mounted: Any) -> None:
    page = mounted(search.widget(), {})
    rows = page.locator("#search [role=option]")
    page.get_by_label("Search features").focus()
    found(page, 0, 50, next=50, dictionaries=["a", "b"], dictionary="b")
    assert page.get_by_role("status").inner_text() == "first 50 of 4,086"
    assert rows.first.inner_text().split("\n")[:2] == ["cat 0", "b/0"]
    page.get_by_role("button", name="More").click()
    assert page.evaluate("search.sent.at(-1)[1].offset") == 50
    found(page, 50, 3, next=None, dictionaries=["a", "b"], dictionary="b")
    assert rows.count() == 53
    assert page.get_by_role("button", name="More").count() == 0
    page.get_by_label("Dictionary").select_option("a")
    asked = page.evaluate("search.sent.at(-1)")
    assert asked[0] == "query"
    assert (asked[1]["dictionary"], asked[1]["offset"]) == ("a", 0)


def test_a_row_shows_what_the_list_is_sorted_by_and_whether_a_band_was_measured(
    mounted: Any,
) -> None:
    page = mounted(search.widget(), {})
    page.get_by_label("Search features").focus()
    known = {"density": 0.02, "maximum": 12.5, "steerability": 1.5, "output_score": 0.75}
    rows = [{"ref": "b/0", "label": "cat", "band": [0.5, 2.0], **known}, {"ref": "b/1"}]
    for sort, told in (
        ("relevance", "2 %"),
        ("density", "2 %"),
        ("maximum", "12.5"),
        ("steerability", "1.5× wide"),
        ("output_score", "0.75"),
    ):
        found(page, 0, 0, results=rows, sort=sort)
        assert page.locator(".sd-found-density").all_inner_texts() == [told, ""]
    assert page.locator(".sd-found-band").all_inner_texts() == ["band"]
    found(page, 0, 0, results=rows, total=2, some=True)
    said = page.get_by_role("status").inner_text()
    assert said == "No feature has all of these words. With some of them: 2 features"


def test_escape_closes_what_was_found_and_leaves_the_field_its_focus(mounted: Any) -> None:
    page = mounted(search.widget(), {})
    field = page.get_by_label("Search features")
    field.fill("cat")
    page.wait_for_function("search.sent.some(([, data]) => data.q === 'cat')")
    found(page, 0, 3, q="cat")
    ime = "node => node.dispatchEvent(new KeyboardEvent('keydown', {key, isComposing: true}))"
    field.evaluate(ime.replace("key,", "key: 'Enter',"))
    assert not page.evaluate("search.sent.some(([name]) => name === 'pick')")
    field.press("ArrowDown")
    field.press("Shift+Enter")
    assert page.evaluate("search.sent.at(-1)") == ["look", {"ref": "b/1"}]
    field.press("ArrowDown")
    field.press("Escape")
    assert page.locator(".sd-found").is_hidden()
    assert field.evaluate("node => node === document.activeElement && node.value") == "cat"
    found(page, 0, 3, q="cat")
    assert page.locator(".sd-found").is_hidden()
    field.press("Enter")
    assert page.locator("#search [role=option]").count() == 3
    assert page.locator(".sd-found").is_visible()


def test_who_types_on_after_enter_has_chosen_nothing(mounted: Any) -> None:
    page = mounted(search.widget(), {})
    field = page.get_by_label("Search features")
    field.fill("cat")
    field.press("Enter")  # before the answer
    field.press("s")
    page.wait_for_function("search.sent.some(([, data]) => data.q === 'cats')")
    found(page, 0, 3, q="cats")
    assert not page.evaluate("search.sent.some(([name]) => name === 'pick')")
