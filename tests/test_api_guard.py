"""The coherence guard on the wire: told, replayed, refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from api_talk import HELLO

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


def test_more_steps_back_than_a_receipt_can_replay_are_refused_before_the_first_byte(
    live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.timeline.MAX_ENTRIES", 3)
    steering = {**LOUD, "guard": {"mode": "back_off", **CLOSE}}
    live.chat(HELLO, steering=steering, max_tokens=23)  # it may step back after each 6 tokens
    body = live.body(HELLO, steering=steering, max_tokens=24, stream=True)
    answer = live.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "4 changes with 4 edits" in error["message"]
    assert error["param"] == "steering.timeline"


def test_a_guard_watches_every_variant_of_a_comparison(live: Any) -> None:
    body = {**live.body(HELLO, max_tokens=24), "variants": [LOUD]}
    body["steering"] = {"guard": {"mode": "warn", "window": 6, "entropy": None}}
    plain, loud = live.http.post("/v1/compare", json=body).json()["variants"]
    assert loud["steering"]["guard"] == loud["steering"]["receipt"]["guard"]["alarms"] != []
    assert plain["steering"]["receipt"]["guard"]["mode"] == "warn"
