"""Conditions, windows, decay, abort and the guard on the wire: told, replayed, refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from pydantic import ValidationError

from dictionaries.edits import Op
from server.engine.conditions import ALWAYS, Condition, Crossing, Timing
from server.engine.guard import Alarm, Mode, Signal
from server.engine.types import (
    Change,
    Delta,
    FeatureEdit,
    Finish,
    FinishReason,
    Steering,
    Token,
)
from server.engine.warden import NOTHING_LEFT, weaker
from server.errors import BadRequest
from server.prepare import prepare_chat, prepare_completion
from server.receipt import _entry
from server.schemas.conditions import MAX_ABORTS
from server.schemas.guard import WireGuard
from server.schemas.requests import ChatRequest, CompletionRequest
from server.schemas.steering import MAX_EDITS, WireSteering
from server.timeline import Timeline

BRIDGE = {"feature": "golden-gate-bridge", "op": "clamp", "strength": 4.0}
HELLO = "hello there, my friend"


def edited(**timing: Any) -> dict[str, Any]:
    return {"edits": [{**BRIDGE, **timing}]}


LATCH = {"feature": 9, "value": 0.2, "unit": "raw", "latch": True}
TIMED: dict[str, dict[str, Any]] = {
    "when": edited(when={"feature": "fog", "op": "above", "value": 0.5}),
    "below": edited(when={"feature": 9, "op": "below", "value": 0.4, "unit": "raw"}),
    "window": edited(window={"first": 2, "last": 5}),
    "decay": edited(decay=2.5),
    "abort": {**edited(), "abort": {"feature": 12, "value": 6.0, "unit": "raw"}},
    "abort of an edit": edited(abort={"feature": 12, "value": 6.0, "unit": "raw"}),
    "later": {"edits": [], "timeline": [{"at": 3, **edited(when=LATCH)}]},
}


@pytest.mark.parametrize("what", TIMED)
def test_a_receipt_tells_it_in_numbers_and_replays_it(what: str, live: Any) -> None:
    ask = {"max_tokens": 16, "ignore_eos": True}
    plain = live.chat(HELLO, **ask)
    reply = live.chat(HELLO, steering=TIMED[what], **ask)
    text = reply["choices"][0]["message"]["content"]
    always = live.chat(HELLO, steering=edited(), **ask)["choices"][0]["message"]["content"]
    assert text != plain["choices"][0]["message"]["content"]
    assert text != always
    receipt = reply["steering"]["receipt"]
    again = live.chat(HELLO, **receipt["replay"])
    assert again["choices"] == reply["choices"]
    assert again["steering"]["receipt"] == receipt


def test_the_numbers_are_activations_and_the_first_token_is_told(live: Any) -> None:
    when = {"feature": "fog", "op": "below", "value": 0.5, "latch": True}
    told = live.chat(HELLO, steering=edited(when=when, decay=9, window={"last": 4}))["steering"]
    [edit] = told["applied"]
    raw = {"feature": "tiny/5", "op": "below", "value": 0.75, "unit": "raw", "latch": True}
    assert edit["when"] == raw
    assert (edit["decay"], edit["window"]) == (9.0, {"first": None, "last": 4})
    [met] = told["receipt"]["conditions"]
    assert {name: met[name] for name in raw} == raw
    assert -40 < met["first_met"] < 0, "in the prompt"
    unmet = edited(when={**when, "op": "above", "value": 1e5})
    receipt = live.chat(HELLO, steering=unmet)["steering"]["receipt"]
    assert (receipt["conditions"][0]["first_met"], receipt["tokens_edited"]) == (None, 0)


def test_abort_has_a_finish_reason_of_its_own(live: Any) -> None:
    abort = {"feature": 9, "value": 0.0, "unit": "raw", "latch": True}
    *_, last, done = live.stream(HELLO, steering={"abort": abort})
    assert done == "[DONE]"
    assert last["choices"][0]["finish_reason"] == "steering_abort"
    [told] = last["steering"]["receipt"]["abort"]
    assert told == {"feature": "tiny/9", "op": "above", "value": 0.0, "unit": "raw", "latch": False}


def test_a_preset_may_carry_them_and_holds_nothing_that_was_not_asked(live: Any) -> None:
    plain = {"feature": "fog", "op": "clamp", "strength": 1.0, "unit": "max", "where": "all"}
    when = {"feature": 9, "op": "above", "value": 1.0, "unit": "raw", "latch": True}
    body = {"edits": [{**BRIDGE, "when": when}, plain]}
    saved = live.http.put("/v1/presets/timed", json=body).json()
    assert saved["edits"][0]["when"] == when
    assert saved["edits"][1] == plain
    told = live.chat(HELLO, model="tiny@timed")["steering"]["applied"]
    assert told[0]["when"] == {**when, "feature": "tiny/9"}
    refused = {"edits": [{**BRIDGE, "when": {**when, "feature": 7, "unit": "max"}}]}
    assert live.http.put("/v1/presets/timed", json=refused).status_code == 400
    raw = {**plain, "unit": "raw"}
    many = [{**raw, "feature": i, "when": {**when, "feature": i}} for i in range(9)]
    answer = live.http.put("/v1/presets/timed", json={"edits": many})
    assert "9 different conditions" in answer.json()["error"]["message"]


def test_only_a_completions_prompt_is_taken_for_raw(live: Any) -> None:
    deck = live.service.deck
    (said,) = prepare_chat(deck, ChatRequest.model_validate(live.body(HELLO))).requests
    for prompt in (HELLO, [72, 73]):
        body = CompletionRequest.model_validate({"prompt": prompt})
        (raw,) = prepare_completion(deck, body).requests
        assert (said.raw, raw.raw) == (False, True)


@pytest.mark.parametrize(
    ("timing", "told"),
    [
        ({"when": {"feature": 5}}, "value"),
        ({"when": {"feature": 5, "value": 1, "op": "over"}}, "above"),
        ({"when": {"feature": 5, "value": 1, "lach": True}}, "lach"),
        ({"when": {"feature": 7, "value": 1}}, "no known maximum, so above 1 times"),
        ({"when": {"feature": 99, "value": 1}}, "0..63"),
        ({"abort": {"feature": 5, "value": "high"}}, "abort"),
        ({"window": {"first": 3, "last": 2}}, "last (2) comes before first (3)"),
        ({"window": {"first": -1}}, "first"),
        ({"window": [0, 5]}, "window"),
        ({"window": {"last": 3}, "where": "prompt"}, "drop one"),
        ({"decay": 0}, "decay"),
        ({"decay": "5"}, "decay"),
        ({"thinking": "only"}, "tiny marks no thinking blocks"),
        ({"thinking": "before"}, "only"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    timing: dict[str, Any], told: str, live: Any
) -> None:
    body = live.body(HELLO, steering=edited(**timing))
    answer = live.http.post("/v1/chat/completions", json=body)
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert told in error["message"] + str(error["param"])


# --- The coherence guard ---

LOUD = {"edits": [{"feature": 3, "op": "add", "strength": 60.0, "unit": "raw"}]}
CLOSE = {"window": 6, "entropy": None}


def test_back_off_is_told_in_the_chunk_and_the_receipt_and_replays(live: Any) -> None:
    ask = {"max_tokens": 40, "ignore_eos": True}
    steering = {**LOUD, "guard": {"mode": "back_off", **CLOSE}}
    events = live.stream(HELLO, steering=steering, **ask)
    told = [a for e in events[:-1] for a in e.get("steering", {}).get("guard", [])]
    receipt = events[-2]["steering"]["receipt"]
    assert told == receipt["guard"]["alarms"]
    assert told[0]["action"] == "back_off"
    assert told[0]["signal"] == "repetition"
    assert told[0]["value"] >= told[0]["bound"] == receipt["guard"]["repetition"] == 0.55
    assert [entry["at"] for entry in receipt["timeline"]][1] == told[0]["at"] + 1
    bound = 0.5 * math.log(259)
    default = live.chat(HELLO, steering={"guard": {}})["steering"]["receipt"]["guard"]
    assert default["entropy"] == {"low": 0.002, "high": pytest.approx(bound)}
    assert receipt["timeline"][1]["edits"][0]["strength"] == pytest.approx(60.0 * told[0]["left"])
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
    again = live.chat(HELLO, **receipt["replay"])
    assert again["choices"][0]["message"]["content"] == text
    assert again["steering"]["receipt"]["timeline"] == receipt["timeline"]
    assert "guard" not in receipt["replay"]["steering"], "the timeline has all that it did"
    whole = live.chat(HELLO, steering=steering, **ask)
    assert whole["steering"]["guard"] == told


def test_stop_has_a_finish_reason_of_its_own_and_replays_it(live: Any) -> None:
    steering = {**LOUD, "guard": {"mode": "stop", **CLOSE}}
    reply = live.chat(HELLO, steering=steering, max_tokens=40, ignore_eos=True)
    assert reply["choices"][0]["finish_reason"] == "steering_guard"
    receipt = reply["steering"]["receipt"]
    again = live.chat(HELLO, **receipt["replay"])
    assert again["choices"] == reply["choices"]
    assert again["steering"]["receipt"]["guard"] == receipt["guard"]
    page = live.http.get("/metrics").text
    assert 'steerdeck_guard_alarms_total{action="stop",signal="repetition"}' in page


@pytest.mark.parametrize(
    ("guard", "told"),
    [
        ({"mode": "panic"}, "back_off"),
        ({"repetition": 1.5}, "repetition"),
        ({"repetition": None, "entropy": None}, "it watches nothing"),
        ({"entropy": 3}, "entropy"),
        ({"entropy": {"low": -1}}, "entropy.low"),
        ({"kl": 0}, "kl"),
        ({"window": 2}, "window"),
        ({"factor": 0.96}, "factor"),
        ({"repitition": 0.5}, "repitition"),
        (True, "guard"),
    ],
)
def test_a_guard_that_makes_no_sense_is_refused_by_name(guard: Any, told: str, live: Any) -> None:
    body = live.body(HELLO, steering={"guard": guard})
    answer = live.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert told in error["message"] + str(error["param"])


def test_a_guard_watches_every_variant_of_a_comparison(live: Any) -> None:
    body = {**live.body(HELLO, max_tokens=24), "variants": [LOUD]}
    body["steering"] = {"guard": {"mode": "warn", "window": 6, "entropy": None}}
    plain, loud = live.http.post("/v1/compare", json=body).json()["variants"]
    assert loud["steering"]["guard"] == loud["steering"]["receipt"]["guard"]["alarms"] != []
    assert plain["steering"]["receipt"]["guard"]["mode"] == "warn"


@pytest.mark.parametrize(
    ("steering", "told"),
    [
        (edited(decay=1e-39), "0.01"),
        ({"edits": [{**BRIDGE, "strength": 1e6}]}, "1e+06 times its maximum"),
        (edited(when={"feature": "fog", "value": -1e6}), "1e+06 is the most"),
    ],
)
def test_what_no_receipt_could_replay_is_refused(steering: Any, told: str, live: Any) -> None:
    body = live.body(HELLO, steering=steering)
    response = live.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert told in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("entry", "entries", "told"),
    [
        ({"edits": [{"feature": i, "op": "ablate"} for i in range(16)]}, 599, 9584),
        ({"edits": [{**BRIDGE, "when": LATCH}]}, 4096, 8192),
        ({"edits": [{**BRIDGE, "when": LATCH, "abort": LATCH}]}, 2731, 8193),
        ({"abort": [LATCH] * 8}, 1025, 8200),
    ],
)
def test_a_timeline_may_hold_so_many_edits_and_conditions(
    entry: Any, entries: int, told: int
) -> None:
    """Each has rows of its dictionary, which are held until the reply ends."""
    steering = {"timeline": [{"at": at, **entry} for at in range(1, entries + 1)]}
    if told <= 8192:
        assert WireSteering.model_validate(steering).timeline
        return
    with pytest.raises(ValidationError, match=f"{told} edits and conditions in all entries; 8192"):
        WireSteering.model_validate(steering)


def test_what_live_changes_let_through_a_request_may_carry() -> None:
    timeline = Timeline(())
    held: dict[int, Steering] = {}
    for at in (0, *(token for token in range(1, 2000) for _ in range(2))):
        when = Condition("tiny", at % 64, Crossing.ABOVE, 0.5)
        edits = [edit_of(i, Timing(when if i % 2 else None)) for i in range(at % 17)]
        steering = Steering(tuple(edits), aborts=(when,) * (at % 3 == 0))
        try:
            timeline.check(steering)
        except BadRequest:
            break
        timeline.note(at, steering)
        held[at] = steering
    assert len(held) > 300
    entries = [_entry(Change(at, steering)) for at, steering in held.items() if at > 0]
    assert WireSteering.model_validate({"timeline": entries}).timeline


def test_a_change_counts_beside_all_that_acted_and_nothing_that_it_discards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.timeline.MAX_ENTRIES", 3)
    some = Steering((edit_of(1, ALWAYS),))
    timeline = Timeline([Change(at, some) for at in (0, 2, 20, 21, 22)])
    timeline.check(some)
    for at in (3, 7):
        timeline.hear(Delta("", (Token(1, "a"),) * 4))
        timeline.hear(Delta("", (), (Alarm(at, Signal.KL, 2.0, 1.0, Mode.WARN),)))
        timeline.check(some)
        timeline.hear(Delta("", (), (Alarm(at, Signal.KL, 2.0, 1.0, Mode.BACK_OFF, 0.4),)))
    with pytest.raises(BadRequest, match="4 changes with 4 edits"):
        timeline.check(some)
    timeline.hear(Finish(FinishReason.STOP, 1, 8, 0, ()))
    timeline.check(some)  # a row that has ended takes no change, and refuses none to the others


def test_all_steps_that_a_guard_may_take_back_can_be_replayed() -> None:
    when = Condition("tiny", 1, Crossing.ABOVE, 0.5)
    asked = Steering(
        tuple(edit_of(i, Timing(when)) for i in range(MAX_EDITS)), aborts=(when,) * MAX_ABORTS
    )
    most = next(f / 1000 for f in range(999, 0, -1) if _allowed(f / 1000))
    timeline, left = Timeline(()), 1.0
    for step in itertools.count(1):
        left *= most
        lowered = weaker(asked, left)
        timeline.check(lowered)
        timeline.note(4 * step, lowered)
        if left < NOTHING_LEFT:
            break
    assert step > 30


def _allowed(factor: float) -> bool:
    try:
        return bool(WireGuard.model_validate({"factor": factor}))
    except ValidationError:
        return False


def edit_of(feature: int, timing: Timing) -> FeatureEdit:
    return FeatureEdit("tiny", feature, Op.CLAMP, 1.0, Op.CLAMP.edit(1.0), timing=timing)
