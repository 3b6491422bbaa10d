"""All that an edit can be is set in the rack: its op, and when it acts.

Each widget alone on an empty page, as `ui_browser.mounted` puts it there.
"""

from __future__ import annotations

from typing import Any

import pytest
import ui_browser
from ui_service import parts

from ui import rack
from ui.transcript import Transcript

blank, mounted = ui_browser.blank, ui_browser.mounted  # fixtures
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("default")]
FOCUSED = "() => document.activeElement.dataset.part"


def entry(ref: str, label: str, **more: Any) -> dict[str, Any]:
    fields = {"strength": 2.5, "level": 3.0, "maximum": 10, **more}
    (shown,) = rack.value([rack.Entry(feature=ref, label=label, **fields)])
    return shown


def wire(page: Any) -> dict[str, Any]:
    """The first feature's edit, as it would be sent."""
    held = rack.parse(page.evaluate("rack.props.value"))[0]
    return {name: value for name, value in held.wire().items() if name not in ("feature", "where")}


def ends(page: Any) -> list[float]:
    slider = page.get_by_label("Slider for cats")
    return [float(slider.get_attribute(name)) for name in ("min", "max", "step")]


def test_every_op_is_offered_with_the_range_and_the_strength_of_its_kind(mounted: Any) -> None:
    page = mounted(rack.widget(), [entry("a/1", "cats")])
    op, strength = page.get_by_label("Operation on cats"), page.get_by_label("Strength of cats")
    choices = op.locator("option").evaluate_all("all => all.map(one => one.value)")
    assert sorted(choices) == sorted(rack.OPS)
    kinds = {"add": (-5, 10, 0.25), "at_least": (0, 10, 0.25), "clamp": (-5, 10, 0.25)}
    for kind, span in kinds.items():
        op.select_option(kind)
        assert wire(page) == {"op": kind, "strength": 2.5, "unit": "max"}
        assert ends(page) == list(span)
    op.select_option("scale")
    assert ends(page) == [0, 4, 0.1]
    assert (strength.input_value(), wire(page)["strength"]) == ("2", 2)
    assert page.locator(".sd-value").inner_text().strip() == ""  # a factor has no unit
    page.get_by_label("Slider for cats").press("ArrowLeft")
    assert wire(page) == {"op": "scale", "strength": 1.9, "unit": "max"}
    op.select_option("at_most")
    assert wire(page)["strength"] == 2.5
    assert ends(page) == [0, 4, 0.05]  # 2, and room beyond the strength that it has
    op.select_option("ablate")
    assert wire(page) == {"op": "ablate"}
    assert page.get_by_label("Slider for cats").is_disabled()
    assert strength.is_hidden()
    op.select_option("scale")
    assert wire(page)["strength"] == 1.9


def test_only_add_can_be_chosen_of_a_dictionary_that_cannot_be_read(mounted: Any) -> None:
    page = mounted(rack.widget(), [entry("a/1", "cats", op="add", reads=False)])
    op = page.get_by_label("Operation on cats")
    free = op.locator("option:not(:disabled)")
    assert free.evaluate_all("all => all.map(one => one.value)") == ["add"]
    assert "cannot be read" in op.get_attribute("title")


def test_a_factor_that_came_is_taken_for_no_level(mounted: Any) -> None:
    page = mounted(rack.widget(), [entry("a/1", "cats", op="scale", strength=0.5)])
    page.get_by_label("Operation on cats").select_option("clamp")
    assert wire(page) == {"op": "clamp", "strength": 3.0, "unit": "max"}


def test_the_track_of_a_factor_begins_at_one(mounted: Any) -> None:
    page = mounted(rack.widget(), [entry("a/1", "cats", op="scale", strength=3.0)])
    fill = "node => [node.style.left, node.style.right]"
    assert page.locator(".sd-fill").evaluate(fill) == ["25%", "25%"]  # from 1 to 3 of 4
    assert page.locator(".sd-zero").evaluate("node => node.style.left") == "25%"


@pytest.mark.parametrize(
    ("op", "strength", "told"),
    [
        ("scale", 1.0, "changes nothing"),
        ("scale", 0.5, "fires weaker"),
        ("scale", 3.0, "fires stronger"),
        ("scale", 0.0, "held at zero"),
        ("ablate", 1.0, "held at zero"),
        ("at_most", 0.5, ""),
        ("at_most", 1.0, "rarely acts"),
        ("at_most", 0.0, "held at zero"),
        ("at_least", 2.0, "band measured for clamp"),
        ("at_least", 0.0, "changes nothing"),
        ("clamp", 2.0, "in the safe band"),
        ("add", 2.0, "band measured for clamp"),
    ],
)
def test_the_hint_is_that_of_the_op(mounted: Any, op: str, strength: float, told: str) -> None:
    held = entry("a/1", "cats", op=op, strength=strength, band=(1.5, 5.0))
    assert mounted(rack.widget(), [held]).locator(".sd-hint").inner_text() == told


def test_what_stops_the_reply_is_set_and_taken_back_in_the_fold(mounted: Any) -> None:
    page = mounted(rack.widget(), [entry("a/1", "cats"), entry("a/2", "sea")])
    page.get_by_role("button", name="When…").first.click()
    stops = page.get_by_label("Whether it stops the reply", exact=True)
    stops.focus()
    stops.select_option("when")
    assert wire(page)["abort"] == [{"feature": "a/2", "value": 0.5}]
    assert page.evaluate(FOCUSED) == "abort 0"
    page.get_by_label("Above or below what it stops the reply at").select_option("below")
    value = page.get_by_label("The activation it stops the reply at")
    value.fill("0,75")
    value.press("Enter")
    page.get_by_role("button", name="or when…").press("Enter")
    page.get_by_label("The feature it stops the reply at (2)").select_option("a/1")
    first = {"feature": "a/2", "op": "below", "value": 0.75}
    assert wire(page)["abort"] == [first, {"feature": "a/1", "value": 0.5}]
    told = page.locator(".sd-timed span")
    assert told.inner_text() == "stops the reply when sea < 0.75×, stops the reply when cats > 0.5×"
    assert "when a/2 < 0.75×" in told.get_attribute("title")
    stops.select_option("")
    assert wire(page)["abort"] == [{"feature": "a/1", "value": 0.5}]
    stops.select_option("")
    assert "abort" not in wire(page)


def test_what_came_about_a_feature_that_is_not_in_the_rack_is_named_and_stays(
    mounted: Any,
) -> None:
    when = {"feature": "a/9", "value": 3.0, "unit": "raw"}
    abort = [{"feature": "a/2", "value": 5.0, "unit": "raw"}]
    timing = {"when": when, "abort": abort, "thinking": "after"}
    labels = {"a/9": "fog", "a/2": "sea"}
    held = [entry("a/1", "cats", timing=timing, labels=labels), entry("a/2", "sea")]
    page = mounted(rack.widget(), held)
    assert page.locator(".sd-timed span").inner_text() == (
        "while fog > 3, outside of thinking blocks, stops the reply when sea > 5"
    )
    page.get_by_role("button", name="When…").first.click()
    chosen = page.get_by_label("The feature it waits for").locator("option:checked")
    assert chosen.inner_text() == "fog"
    for what in ("it waits for", "it stops the reply at"):
        page.get_by_label(f"Above or below what {what}").select_option("below")
    below = {"op": "below"}
    assert wire(page)["when"] == when | below
    assert wire(page)["abort"] == [abort[0] | below]  # in the unit that it came in
    page.get_by_label("The feature it waits for").select_option("a/2")
    assert wire(page)["when"] == {"feature": "a/2", "op": "below", "value": 3.0}


def test_thinking_blocks_are_offered_where_the_model_marks_them_or_they_are_set(
    mounted: Any,
) -> None:
    page = mounted(rack.widget(), [entry("a/1", "cats")])
    page.get_by_role("button", name="When…").click()
    thinking = page.get_by_label("Thinking blocks")
    assert thinking.is_hidden()
    page.evaluate("document.body.classList.add('sd-thinks')")  # top.js
    thinking.select_option("only")
    assert wire(page)["thinking"] == "only"
    page.evaluate("document.body.classList.remove('sd-thinks')")
    assert thinking.is_visible()
    thinking.select_option("")
    assert "thinking" not in wire(page)
    assert thinking.is_hidden()


def test_a_reply_that_began_with_the_rack_as_it_is_leaves_nothing_to_follow(mounted: Any) -> None:
    mounted(rack.widget(), [entry("a/1", "cats"), entry("a/2", "sea")])
    page = mounted(parts().thread, "")
    page.get_by_role("button", name="When…").first.click()
    page.get_by_label("Whether it waits").select_option("once")
    page.get_by_label("Whether it stops the reply", exact=True).select_option("when")
    words = {
        "The activation it waits for": "0,12345678",
        "The activation it stops the reply at": "2500000",
        "First token it acts on": "3",
        "Tokens after which half of it is left": "0,3333333333",
    }
    for label, typed in words.items():
        page.get_by_label(label).fill(typed)
        page.get_by_label(label).press("Enter")
    held, talk = rack.parse(page.evaluate("rack.props.value")), Transcript()
    turned = rack.parse([rack.value(held)[0] | {"timing": {}}, *rack.value(held)[1:]])
    for acted, changed in ((turned, True), (held, False)):
        talk.reply(talk.ask("Hello", acted), "steered", acted, pair=False)
        page.evaluate("log => thread.show(log)", talk.log())
        assert page.evaluate("document.body.classList.contains('sd-changed')") is changed


def test_a_condition_is_offered_each_feature_of_the_rack_that_can_be_read(mounted: Any) -> None:
    held = [entry("a/1", "cats"), entry("b/0", "calm", op="add", reads=False)]
    page = mounted(rack.widget(), held)
    page.get_by_role("button", name="When…").first.click()
    page.get_by_label("Whether it waits").select_option("while")
    features = page.get_by_label("The feature it waits for").locator("option")
    assert features.all_inner_texts() == ["cats"]
    assert wire(page)["when"]["feature"] == "a/1"
    page.evaluate("more => rack.show(more)", [*held, entry("a/2", "sea") | {"joins": True}])
    assert features.all_inner_texts() == ["cats", "sea"]
