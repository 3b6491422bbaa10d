"""Conditions, windows, decay and abort on the wire: told, replayed, refused."""

from __future__ import annotations

from typing import Any

import pytest
from api_talk import BRIDGE, HELLO, LATCH

from server.prepare import prepare_chat, prepare_completion
from server.schemas.requests import ChatRequest, CompletionRequest


def edited(**timing: Any) -> dict[str, Any]:
    return {"edits": [{**BRIDGE, **timing}]}


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
