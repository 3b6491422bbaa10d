"""The rack: what a browser may send, what goes to the service, what a slider spans."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from ui import rack
from ui.errors import RackError
from ui.rack import Entry
from ui.turned import difference

BRIDGE: dict[str, Any] = {
    "ref": "foghorn/12",
    "label": "Golden Gate Bridge",
    "maximum": 10.0,
    "density": 0.01,
    "band": [1.5, 5.0],
    "recommended": {"op": "clamp", "strength": 2.5},
}


def test_a_feature_enters_the_rack_as_its_card_recommends() -> None:
    entry = rack.entry(BRIDGE, 0)
    assert entry.wire() == {
        "feature": "foghorn/12",
        "op": "clamp",
        "strength": 2.5,
        "unit": "max",
        "where": "all",
    }


def test_no_two_features_of_a_rack_share_a_number_in_the_token_strip() -> None:
    full: rack.Rack = ()
    for i in range(rack.MOST):
        full = rack.add(full, BRIDGE | {"ref": f"foghorn/{i}"})
    assert sorted(held.colour for held in full) == list(range(rack.MOST))


def test_a_feature_without_a_maximum_is_turned_in_raw_activations() -> None:
    entry = rack.entry({"ref": "d/3", "label": None, "maximum": None, "band": [1, 2]}, 0)
    assert (entry.unit, entry.band, entry.label, entry.op) == ("raw", None, "", "add")
    assert entry.wire()["unit"] == "raw"


@pytest.mark.parametrize(
    "band", [[1.0, 1.25], [0.5, 1.5], [1.5, 5.0], [2.0, 40.0], [3.0, None], None]
)
def test_the_slider_leaves_room_on_both_sides_of_the_safe_band(band: list[Any] | None) -> None:
    entry = rack.entry(BRIDGE | {"band": band}, 0)
    assert entry.lo < 0 < entry.hi
    assert entry.lo <= entry.strength <= entry.hi
    if band:
        assert entry.hi > 1.2 * (band[1] or band[0])
        assert entry.step <= ((band[1] or 1.5 * band[0]) - band[0]) / 4


@pytest.mark.parametrize("strength", [154.0, -154.0, 40.0, 0.25])
@pytest.mark.parametrize("unit", ["raw", "max"])
def test_whatever_strength_came_can_be_turned_further(unit: str, strength: float) -> None:
    edit = {"op": "add", "unit": unit, "strength": strength}
    for reach in (None, 0.5, 154.0):
        entry = rack.entry(BRIDGE | {"reach": reach}, 0, edit)
        assert entry.lo <= 1.6 * strength <= entry.hi


def test_a_feature_that_cannot_be_read_enters_as_add() -> None:
    entry = rack.entry(BRIDGE, 0, reads=False)
    assert (entry.op, entry.reads) == ("add", False)
    (added,) = rack.add((), BRIDGE, reads=False)
    assert added == entry


def test_a_factor_that_came_moves_no_end_of_the_levels_and_leaves_one_to_begin_with() -> None:
    plain = rack.entry(BRIDGE, 0)
    scaled = rack.entry(BRIDGE, 0, {"op": "scale", "strength": 300.0})
    assert (scaled.lo, scaled.hi, scaled.step) == (plain.lo, plain.hi, plain.step)
    assert (scaled.strength, scaled.level, plain.level) == (300.0, 2.5, 2.5)


@pytest.mark.parametrize("reach", [154.3, 0.021, 7.0, 3000.0])
def test_where_no_maximum_is_known_the_slider_is_as_long_as_the_residual_both_ways(
    reach: float,
) -> None:
    entry = rack.entry({"ref": "d/3", "reach": reach}, 0)
    assert (entry.op, entry.unit) == ("add", "raw")
    assert entry.strength == pytest.approx(reach / 2, rel=0.03)
    assert (-entry.lo, entry.hi) == pytest.approx((2 * reach, 2 * reach), rel=0.03)
    for value in (entry.strength, entry.hi):  # what the slider stops at
        assert value / entry.step == pytest.approx(round(value / entry.step))
    assert rack.parse(rack.value([entry])) == (entry,)


@pytest.mark.parametrize("reach", [None, 0.0, -1.0, 1e9, math.nan, "far"])
def test_a_reach_that_makes_no_sense_is_none(reach: object) -> None:
    entry = rack.entry({"ref": "d/3", "reach": reach}, 0)
    assert (entry.strength, entry.lo, entry.hi) == (1.0, -20.0, 40.0)


@pytest.mark.parametrize("band", [[5.0, 1.0], [math.nan, 2.0], ["a", "b"], [1.0], "wide"])
def test_a_band_that_makes_no_sense_is_not_drawn(band: object) -> None:
    assert rack.entry(BRIDGE | {"band": band}, 0).band is None


def test_ablate_sends_no_strength_and_an_entry_switched_off_sends_nothing() -> None:
    ablated = Entry(feature="a/1", op="ablate", strength=4)
    off = Entry(feature="a/2", on=False)
    assert rack.edits((ablated, off)) == [{"feature": "a/1", "op": "ablate", "where": "all"}]


def test_what_the_widget_shows_comes_back_as_the_same_rack() -> None:
    held = (rack.entry(BRIDGE, 0), rack.entry(BRIDGE | {"ref": "foghorn/2"}, 1))
    assert rack.parse(rack.value(held)) == held


@pytest.mark.parametrize("nothing", [None, "", []])
def test_an_empty_rack_is_empty(nothing: object) -> None:
    assert rack.parse(nothing) == ()


@pytest.mark.parametrize(
    ("posted", "told"),
    [
        ("<script>", "list"),
        ({"feature": "a/1"}, "list"),
        ([{}], "feature"),
        ([{"feature": ""}], "feature"),
        ([{"feature": "a" * 500}], "feature"),
        ([{"feature": "a/1", "op": "explode"}], "op"),
        ([{"feature": "a/1", "strength": "NaN"}], "strength"),
        ([{"feature": "a/1", "strength": 1e9}], "strength"),
        ([{"feature": "a/1", "where": "elsewhere"}], "where"),
        ([{"feature": "a/1", "unit": "miles"}], "unit"),
        ([{"feature": "a/1", "colour": 99}], "colour"),
        ([{"feature": f"a/{i}"} for i in range(17)], "17"),
        ([{"feature": "a/1"}, {"feature": "a/1", "op": "add"}], "twice"),
    ],
)
def test_a_client_may_post_anything_and_gets_a_sentence(posted: object, told: str) -> None:
    with pytest.raises(RackError, match=told) as refused:
        rack.parse(posted)
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_what_is_wrong_with_a_feature_is_said_with_its_label() -> None:
    wrong = {"feature": "a/2", "label": "the\nsea", "strength": 1e9}
    with pytest.raises(RackError, match=r"^The rack was not used: “the sea”, strength: "):
        rack.parse([{"feature": "a/1"}, wrong])
    with pytest.raises(RackError, match="“a/2”, strength"):
        rack.parse([wrong | {"label": ""}])


def test_each_feature_takes_the_first_free_colour_and_keeps_it() -> None:
    held: rack.Rack = ()
    for i in range(4):
        held = rack.add(held, BRIDGE | {"ref": f"foghorn/{i}"})
    assert [entry.colour for entry in held] == [0, 1, 2, 3]
    held = rack.add(held[:1] + held[2:], BRIDGE | {"ref": "foghorn/9"})
    assert [entry.colour for entry in held] == [0, 2, 3, 1]


def test_a_feature_is_in_the_rack_once_and_a_full_rack_says_so() -> None:
    held = rack.add((), BRIDGE)
    with pytest.raises(RackError, match="in the rack already"):
        rack.add(held, BRIDGE)
    full = tuple(Entry(feature=f"a/{i}") for i in range(rack.MOST))
    with pytest.raises(RackError, match="at most 16"):
        rack.add(full, BRIDGE)


def test_only_the_feature_that_was_added_joins_what_the_widget_holds() -> None:
    held = rack.add(rack.add((), BRIDGE), BRIDGE | {"ref": "foghorn/2"})
    shown = rack.joined(held)
    assert ["joins" in entry for entry in shown] == [False, True]
    assert rack.parse(shown) == held


def test_a_change_is_told_in_words() -> None:
    before = (Entry(feature="a/1", label="cats", strength=2), Entry(feature="a/2", label="sea"))
    turned = (before[0].model_copy(update={"strength": 6.0}), before[1])
    assert difference(before, turned) == ("cats 2× → 6×", "6×")
    assert difference(before, before[:1]) == ("sea off", "off")
    assert difference(before[:1], before) == ("sea 1×", "1×")
    assert difference(before, ()) == ("cats off, sea off", "2 changes")
    off = (before[0].model_copy(update={"on": False}), before[1])
    assert difference(before, off) == ("cats off", "off")
    assert difference(before, before) == ("", "")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"op": "clamp", "strength": 2.5}, "2.5×"),
        ({"op": "add", "strength": 2.0}, "+2×"),
        ({"op": "add", "strength": -2.0}, "-2×"),
        ({"op": "ablate"}, "ablated"),
        ({"op": "at_least", "strength": 1.0}, "≥ 1×"),
        ({"op": "scale", "strength": 2.5}, "scaled by 2.5"),
        ({"op": "clamp", "strength": 30.0, "unit": "raw"}, "30"),
    ],
)
def test_a_setting_reads_as_people_say_it(fields: dict[str, Any], said: str) -> None:
    assert Entry(feature="a/1", **fields).said() == said


def test_in_which_place_it_acts_is_told_where_that_is_what_changed() -> None:
    held = rack.entry(BRIDGE, 0)
    inside = held.model_copy(update={"where": "generated"})
    fading = rack.parse([rack.value([inside])[0] | {"timing": {"decay": 8.0}}])
    assert difference((held,), (inside,))[0] == "Golden Gate Bridge always → in the reply"
    assert difference(fading, (held,))[0] == (
        "Golden Gate Bridge in the reply, halved every 8 tokens → always"
    )


def test_what_is_recommended_in_maxima_is_no_level_in_raw_activations() -> None:
    raw = rack.entry(BRIDGE, 0, {"op": "scale", "strength": 3.0, "unit": "raw"})
    assert raw.level == 1.0


TIMED: dict[str, Any] = {
    "when": {"feature": 3, "value": 0.5, "latch": True},
    "abort": [{"feature": "foghorn/4", "op": "below", "value": 1.0, "unit": "raw"}],
    "window": {"last": 9},
    "decay": 20.0,
    "thinking": "after",
}


def test_when_an_edit_acts_is_carried_to_the_page_and_back_and_said_in_words() -> None:
    summary = {"ref": "foghorn/1", "label": "Fog", "maximum": 2.0}
    edit = {"feature": "foghorn/1", "op": "clamp", "strength": 1.0, "unit": "max", "where": "all"}
    held = rack.entry(summary, 0, edit | TIMED)
    (shown,) = json.loads(json.dumps(rack.value([held])))
    assert shown["timed"] == (
        "once 3 > 0.5×, on tokens 0 to 9, halved every 20 tokens, outside of thinking blocks, "
        "stops the reply when foghorn/4 < 1"
    )
    assert rack.parse([shown]) == (held,)
    assert rack.edits([held]) == [edit | TIMED]
    always = rack.parse([shown | {"timing": {}}])
    assert rack.edits(always) == [edit]
    assert difference((held,), always)[0] == f"Fog {shown['timed']} → always"


def test_a_time_that_the_api_does_not_know_is_refused() -> None:
    with pytest.raises(RackError, match="weekday"):
        rack.entry({"ref": "foghorn/1"}, 0, {"window": {"weekday": 3}})
