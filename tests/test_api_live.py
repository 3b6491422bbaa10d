"""Replies changed while they are made, by a name that is theirs until they end.

The engine is real; a gate in the model's first layer lets it make exactly the steps a test wants.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import api_gate
import pytest
from api_gate import FOG, LONG, Gate, counts, idle, receipt_of, text_of, until

gate, narrow, open_again = api_gate.gate, api_gate.narrow, api_gate.open_again  # fixtures


def test_the_first_token_does_not_wait_for_the_last(narrow, gate):
    gate.allow(3)
    with narrow.open(**LONG) as events:
        arrived = iter(events)
        first = [narrow.parsed(next(arrived)) for _ in range(2)]
        assert first[0]["steering"]["id"] == first[0]["id"]
        gate.allow(None)
        rest = [narrow.parsed(event) for event in arrived]
    assert rest[-1] == "[DONE]"


def changed_live(live, gate, change, **body):
    """The events of a reply that was changed after a few tokens, and the change's own reply."""
    gate.allow(4)
    with live.open(**LONG | body) as events:
        arrived = iter(events)
        seen = [live.parsed(next(arrived)) for _ in range(3)]
        told = live.http.patch(f"/v1/generations/{seen[0]['id']}/steering", json=change)
        gate.allow(None)
        seen += [live.parsed(event) for event in arrived]
    return seen, told


def test_a_live_change_holds_from_the_token_it_names(narrow, gate):
    events, told = changed_live(narrow, gate, {"edits": [FOG]}, steering={"trace": ["activations"]})
    assert told.status_code == 200, told.text
    told = told.json()
    assert told["object"] == "generation.steering"
    assert [edit["feature"] for edit in told["applied"]] == ["tiny/5"]
    assert 1 <= told["from_token"] <= 5
    readings = [r for e in events[:-1] for r in e.get("steering", {}).get("activations", [])]
    fired = [bool(r["features"]) for r in readings]
    assert fired == [i >= told["from_token"] for i in range(20)]
    timeline = receipt_of(events)["timeline"]
    assert [entry["at"] for entry in timeline] == [0, told["from_token"]]


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_reply_that_was_changed_live_is_replayed_by_its_receipt(narrow, gate, temperature):
    change = {"edits": [FOG | {"op": "add"}], "preset": "loud", "norm": "keep"}
    events, _ = changed_live(narrow, gate, change, temperature=temperature)
    receipt = receipt_of(events)
    assert len(receipt["timeline"]) == 2
    again = narrow.stream(**receipt["replay"])
    assert text_of(again) == text_of(events)
    assert receipt_of(again) == receipt
    unchanged = narrow.stream(**LONG | {"temperature": temperature})
    assert text_of(unchanged) != text_of(events)


def test_replies_changed_live_in_a_crowd_are_replayed_alone_by_their_receipts(live):
    """Six on four rows, each changed twice while the others come, go and change."""

    def changed(i):
        changes = [
            {"edits": [{"feature": i, "op": "add", "strength": 3.0, "unit": "raw"}]},
            {"edits": [FOG | {"strength": i + 1.0, "where": "generated"}], "norm": "keep"},
        ]
        body = {"max_tokens": 120 + i, "seed": i, "temperature": 1.0, "steering": {"edits": [FOG]}}
        with live.open(**LONG | body) as events:
            arrived = iter(events)
            seen = [live.parsed(next(arrived)) for _ in range(2)]
            for change in changes:
                url = f"/v1/generations/{seen[0]['id']}/steering"
                told = live.http.patch(url, json=change)
                if told.status_code == 404:
                    break  # on a busy machine it may have ended before this client's turn came
                assert told.status_code == 200, told.text
                seen.append(live.parsed(next(arrived)))
            return seen + [live.parsed(event) for event in arrived]

    with ThreadPoolExecutor(6) as pool:
        crowd = list(pool.map(changed, range(6)))
    assert any(receipt_of(events)["timeline"][-1]["norm"] == "keep" for events in crowd)
    for events in crowd:
        receipt = receipt_of(events)
        again = live.stream(**receipt["replay"])
        assert text_of(again) == text_of(events)
        assert receipt_of(again) == receipt


def test_a_reply_changed_while_it_waits_begins_that_way_and_replays(narrow, gate):
    gate.allow(1)
    with narrow.open(**LONG), ThreadPoolExecutor(1) as pool:
        until(lambda: counts(narrow) == (1, 0))
        options = {**LONG, "temperature": 1.0, "steering": {"id": "later", "edits": [FOG]}}
        later = pool.submit(narrow.stream, **options)
        until(lambda: counts(narrow) == (1, 1))
        change = {"edits": [{"feature": 9, "op": "add", "strength": 5.0, "unit": "raw"}]}
        told = narrow.http.patch("/v1/generations/later/steering", json=change)
        assert told.json()["from_token"] == 0
        gate.allow(None)
        events = later.result()
    receipt = receipt_of(events)
    assert [entry["edits"][0]["feature"] for entry in receipt["timeline"]] == ["tiny/9"]
    assert [edit["feature"] for edit in receipt["edits"]] == ["tiny/9"]
    again = narrow.stream(**receipt["replay"])
    assert text_of(again) == text_of(events)
    assert text_of(narrow.stream(**options)) != text_of(events)


def test_a_change_that_cannot_be_applied_changes_nothing(narrow, gate):
    events, told = changed_live(narrow, gate, {"edits": [FOG, FOG]})
    assert told.status_code == 400
    assert told.json()["error"]["code"] == "unsteerable"
    assert len(receipt_of(events)["timeline"]) == 1


def test_a_change_too_many_for_its_receipt_is_refused(narrow, gate, monkeypatch):
    """An edit at the beginning is none of the timeline; each that a change brings is, and none that
    it discards.
    """
    monkeypatch.setattr("server.timeline.MAX_TIMELINE", 3)
    three = {"edits": [FOG, {"feature": 3, "op": "ablate", "when": {"feature": 5, "value": 0.1}}]}
    two = {"edits": [{"feature": i, "op": "ablate"} for i in (3, 5)]}
    for at, change, held in [(1, three, None), (1, two, 3), (15, three, 2)]:
        steering = {"edits": [FOG], "timeline": [{"at": at, "edits": [FOG]}]}
        events, told = changed_live(narrow, gate, change, steering=steering)
        if held is None:
            assert told.status_code == 400
            assert "2 changes with 4 edits and conditions" in told.json()["error"]["message"]
        else:
            assert told.status_code == 200, told.text
            assert len(receipt_of(events)["timeline"]) == held


def test_a_change_may_not_hold_unknown_fields(narrow, gate):
    _, told = changed_live(narrow, gate, {"edit": [FOG]})
    assert told.status_code == 400
    assert "'edit'" in told.json()["error"]["message"]


def test_all_rows_of_one_request_are_changed_together(live):
    with live.open(n=2, **LONG | {"max_tokens": 100}, steering={"id": "both"}) as events:
        arrived = iter(events)
        next(arrived)
        told = live.http.patch("/v1/generations/both/steering", json={"edits": [FOG]})
        seen = [live.parsed(event) for event in arrived]
    assert told.status_code == 200
    receipts = [e["steering"]["receipt"] for e in seen[:-1] if "receipt" in e.get("steering", {})]
    assert len(receipts) == 2
    assert all(len(receipt["timeline"][-1]["edits"]) == 1 for receipt in receipts)


def test_a_name_is_taken_until_the_last_of_its_replies_has_ended(make_deck, serve):
    """The second of them, whose first has ended, must not be taken for a newcomer's."""
    gate = Gate()
    two = serve(make_deck(before_step=gate, max_rows=2))
    named = {"steering": {"id": "same"}}
    gate.allow(3)
    with two.open(**LONG, n=2, **named) as events:
        arrived = iter(events)  # kept: an iterator that goes away hangs up
        next(arrived)
        engine = two.service.deck.engine
        until(lambda: "same/1" in engine._steps.replies)
        engine.drop("same")
        gate.allow(2)
        until(lambda: "same" not in engine._steps.replies)
        refused = two.http.post("/v1/chat/completions", json=two.body(**named))
        gate.allow(None)
    assert refused.status_code == 400
    assert "'same' is already under way" in refused.json()["error"]["message"]


def test_a_generations_name_is_taken_while_it_runs_and_free_after(narrow, gate):
    named = {"steering": {"id": "same"}}
    gate.allow(2)
    with narrow.open(**LONG, **named) as events:
        arrived = iter(events)  # kept: an iterator that goes away hangs up
        next(arrived)
        refused = narrow.http.post("/v1/chat/completions", json=narrow.body(**named))
        gate.allow(None)
    assert refused.status_code == 400
    assert "'same'" in refused.json()["error"]["message"]
    until(lambda: idle(narrow))
    assert narrow.chat(**named)["id"] == "same"
