"""The page's widgets in a browser, each alone on an empty page: no Gradio and no service.

What a widget gets from Gradio is played by `ui_browser.mounted`.
"""

from __future__ import annotations

from typing import Any

import pytest
import ui_browser
from ui_service import parts

from ui import card, presets, rack
from ui.transcript import Transcript

blank, mounted = ui_browser.blank, ui_browser.mounted  # fixtures
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("default")]

FOLLOW = '<label id="follow"><input type="checkbox" checked></label>'
FOCUSED = "() => document.activeElement.dataset.part || document.activeElement.className"


def entry(ref: str, label: str, **more: Any) -> dict[str, Any]:
    (shown,) = rack.value([rack.Entry(feature=ref, label=label, strength=2.5, maximum=10, **more)])
    return shown


def test_a_strength_that_is_typed_leaves_the_card_under_the_pointer(mounted: Any) -> None:
    page = mounted(rack.widget(), [entry("a/1", "cats")])
    strength, switch = page.get_by_label("Strength of cats"), page.get_by_label("cats on")
    strength.fill("1,5")
    switch.click()
    assert not switch.is_checked()
    (held,) = page.evaluate("rack.props.value")
    assert (held["strength"], held["on"]) == (1.5, False)
    strength.fill("40")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "slider"
    assert page.get_by_label("Slider for cats").get_attribute("max") == "64"
    strength.fill("4 or 5")
    strength.press("Enter")
    assert strength.input_value() == "40"
    strength.press("ArrowDown")
    assert strength.input_value() == "39.75"


def test_no_key_in_the_rack_throws_the_focus_out_of_it(mounted: Any) -> None:
    timed = {"timing": {"decay": 2.0}}
    page = mounted(rack.widget(), [entry("a/1", "cats", **timed), entry("a/2", "sea")])
    op = page.get_by_label("Operation on cats")
    op.focus()
    for control in ("ablate", "scale", "clamp"):
        op.select_option(control)
        assert page.evaluate(FOCUSED) == "op"
    page.get_by_label("Let cats act always").press("Enter")
    assert page.evaluate(FOCUSED) == "name"
    page.get_by_label("Remove cats").press("Enter")
    assert page.evaluate("() => document.activeElement.textContent") == "sea"
    page.get_by_label("Remove sea").press("Enter")
    assert page.evaluate(FOCUSED) == "sd-empty"


def test_when_an_edit_acts_is_set_in_its_fold(mounted: Any) -> None:
    page = mounted(rack.widget(), [entry("a/1", "cats"), entry("a/2", "sea")])

    def wire() -> dict[str, Any]:
        held = rack.parse(page.evaluate("rack.props.value"))[0]
        told = page.locator(".sd-feature").first.locator(".sd-timed")
        words = told.inner_text().removesuffix("×").strip()
        assert words == held.acts() * bool(held.timed)  # in Python's words
        assert not held.timed or told.locator("span").get_attribute("title") == held.timed
        return held.timing.wire()

    page.get_by_role("button", name="When…").first.click()
    waits = page.get_by_label("Whether it waits")
    waits.focus()
    waits.select_option("while")
    assert wire() == {"when": {"feature": "a/2", "value": 0.5}}
    assert page.evaluate(FOCUSED) == "when"
    page.get_by_label("The activation it waits for").fill("0,75")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "first"
    page.keyboard.type("2")
    page.keyboard.press("Tab")
    page.keyboard.type("9")
    page.keyboard.press("Tab")
    page.keyboard.type("8")
    page.keyboard.press("Enter")
    page.get_by_label("Above or below").select_option("below")
    page.get_by_label("The feature it waits for").select_option("a/1")
    waits.select_option("once")
    assert wire() == {
        "when": {"feature": "a/1", "op": "below", "value": 0.75, "latch": True},
        "window": {"first": 2, "last": 9},
        "decay": 8.0,
    }
    last = page.get_by_label("Last token it acts on")
    for wrong in ("1", "2.5", "-3", "soon"):
        last.fill(wrong)
        last.press("Enter")
        assert last.input_value() == "9"
    page.get_by_label("Let cats act always").click()
    assert (wire(), waits.input_value()) == ({}, "")


def test_two_features_of_one_label_are_told_apart(mounted: Any) -> None:
    page = mounted(rack.widget(), [entry("a/1", "cats"), entry("b/1", "cats"), entry("b/2", "sea")])
    names = [one.get_attribute("aria-label") for one in page.locator(".sd-number").all()]
    wanted = ["cats (a/1)", "cats (b/1)", "sea"]
    assert names == [f"Strength of {name}" for name in wanted]
    assert page.locator(".sd-ref").first.is_hidden()
    page.evaluate("document.body.classList.add('sd-dictionaries')")  # top.js
    assert page.locator(".sd-ref").all_inner_texts() == ["a/1", "b/1", "b/2"]


def test_what_is_turned_as_a_reply_begins_is_followed_after_it(mounted: Any) -> None:
    began = rack.parse([entry("a/1", "cats"), entry("a/2", "sea", on=False)])
    mounted(rack.widget(), rack.value(began))
    page = mounted(parts().thread, "")
    page.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", FOLLOW)
    page.get_by_label("Slider for cats").press("ArrowRight")
    turned = rack.parse(page.evaluate("rack.props.value"))
    assert turned[0].strength > began[0].strength
    talk, changed = Transcript(), "document.body.classList.contains('sd-changed')"
    for held, left in ((began, True), (turned, False)):
        talk.end(talk.reply(talk.ask("Hello", held), "steered", held, pair=False), "stop", 1.0)
        page.evaluate("log => thread.show(log)", talk.log())
        assert page.evaluate(changed) is left
        if left:
            page.wait_for_function("rack.sent.some(([name]) => name === 'follow')", timeout=5000)


def test_how_far_an_add_goes_is_told_where_nothing_was_measured(mounted: Any) -> None:
    reaching = {"op": "add", "unit": "raw", "reach": 5.0, "lo": -10.0, "step": 0.1}
    page = mounted(rack.widget(), [entry("a/1", "cats", **reaching)])
    hint, strength = page.locator(".sd-hint"), page.get_by_label("Strength of cats")
    assert hint.inner_text() == "half of the residual's length"
    strength.fill("-5")
    strength.press("Enter")
    assert hint.inner_text() == "-1 × the residual's length"
    page.get_by_label("Operation on cats").select_option("clamp")
    assert page.locator(".sd-hint").inner_text() == ""


def test_a_preset_is_deleted_by_a_second_press_and_a_name_is_kept_until_it_is_saved(
    mounted: Any,
) -> None:
    mine = {"name": "mine", "title": "Mine", "description": "", "builtin": False}
    other = {"name": "sea", "title": "The sea", "description": "", "builtin": True}
    page = mounted(presets.widget(), [mine, other])
    delete = page.get_by_label("Delete preset Mine")
    delete.press("Enter")
    assert page.evaluate("gallery.sent") == []
    assert delete.inner_text() == "Delete?"
    delete.press("Enter")
    assert page.evaluate("gallery.sent") == [["drop", {"name": "mine"}]]
    page.evaluate("one => gallery.show([one])", other)
    assert page.evaluate("document.activeElement.textContent") == "The sea"
    title, filter_ = page.get_by_label("Name of the new preset"), page.get_by_label("Filter")
    title.fill("Mine")
    filter_.fill("sea")
    title.press("Enter")
    assert title.input_value() == "Mine"
    page.evaluate("all => gallery.show(all)", [{**mine, "saved": 1}, other])
    assert (title.input_value(), filter_.input_value()) == ("", "")
    assert page.get_by_role("button", name="Mine").first.is_visible()


def test_details_show_themselves_at_the_press_and_take_no_late_answer(mounted: Any) -> None:
    widget = card.widget()
    widget.html_template = (
        f'<div class="sd-drawer" style="visibility: visible">{widget.html_template}</div>'
    )
    page = mounted(widget, {})
    press = "ref => document.dispatchEvent(new CustomEvent('steerdeck:look', {detail: {ref}}))"
    show = "([ref, key, text]) => card.show({ref, [key]: text, wants: key === 'html'})"
    head = page.get_by_role("heading", level=2)
    page.evaluate(press, "a/1")
    assert (head.inner_text(), page.get_by_text("…").count()) == ("a/1", 1)
    page.evaluate(press, "a/2")
    html = card.html({"ref": "a/1", "label": "late"})
    page.evaluate(show, ["a/1", "html", html])
    assert head.inner_text() == "a/2"
    page.evaluate(show, ["a/2", "html", html.replace("late", "sea")])
    assert head.inner_text() == "sea"
    assert page.evaluate("card.sent") == [["near", {"ref": "a/2"}]]
    near = card.nearest([{"ref": "a/3", "label": "ships", "cosine": 0.5}])
    page.evaluate(show, ["a/2", "near", near])
    assert page.get_by_role("button", name="ships").is_visible()
