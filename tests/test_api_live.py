"""Replies while they are made: changed, stopped, abandoned, refused for want of room, failing.

The engine is real; a gate in the model's first layer lets it make exactly the steps a test wants.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from server.completions import Writer

LONG = {"ignore_eos": True, "max_tokens": 20, "seed": 1}
FOG = {"feature": "fog", "op": "clamp", "strength": 4.0}


class Gate:
    """Lets through as many forward passes as were allowed; open at first."""

    def __init__(self):
        self.condition = threading.Condition()
        self.allowed = None
        self.raising = None

    def __call__(self):
        with self.condition:
            assert self.condition.wait_for(lambda: self.allowed is None or self.allowed > 0, 20)
            if self.allowed is not None:
                self.allowed -= 1
            error, self.raising = self.raising, None
        if error is not None:
            raise error

    def allow(self, steps):
        """This many more steps; None for any number."""
        with self.condition:
            self.allowed = steps
            self.condition.notify_all()

    def fail(self, error):
        self.raising = error


@pytest.fixture(scope="module")
def gate():
    return Gate()


@pytest.fixture(scope="module")
def narrow(make_deck, serve, gate):
    """A server with one row, and one place to wait."""
    return serve(make_deck(before_step=gate, max_rows=1, max_waiting=1))


@pytest.fixture(autouse=True)
def _open_again(gate):
    yield
    gate.raising = None
    gate.allow(None)


def until(true, seconds=10):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def counts(live):
    stats = live.service.stats()
    return stats.running, stats.waiting


def idle(live):
    return counts(live) == (0, 0) and not live.service.jobs


def metric(live, name):
    lines = live.http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def text_of(events):
    chunks = [c for e in events if e != "[DONE]" for c in e["choices"]]
    return "".join(chunk["delta"].get("content", "") for chunk in chunks)


def receipt_of(events):
    return next(e["steering"]["receipt"] for e in events if "receipt" in e.get("steering", {}))


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


def test_deleting_a_generation_ends_its_stream_with_what_it_has(narrow, gate):
    gate.allow(4)
    with narrow.open(**LONG, steering={"id": "mine", "edits": [FOG]}) as events:
        arrived = iter(events)
        seen = [narrow.parsed(next(arrived)) for _ in range(3)]
        assert seen[0]["id"] == "mine"
        deleted = narrow.http.delete("/v1/generations/mine")
        gate.allow(None)
        seen += [narrow.parsed(event) for event in arrived]
    assert deleted.json() == {"id": "mine", "object": "generation", "deleted": True}
    assert seen[-1] == "[DONE]"
    assert seen[-2]["choices"][0]["finish_reason"] == "cancelled"
    replay = receipt_of(seen)["replay"]
    assert replay["max_completion_tokens"] < 20
    again = narrow.stream(**replay)
    assert text_of(again) == text_of(seen)


def test_a_reply_that_ended_before_its_first_token_has_nothing_to_replay(narrow, gate):
    gate.allow(1)
    with narrow.open(**LONG), ThreadPoolExecutor(1) as pool:
        until(lambda: counts(narrow) == (1, 0))
        waiting = pool.submit(narrow.stream, **LONG, steering={"id": "none"})
        until(lambda: counts(narrow) == (1, 1))
        narrow.http.delete("/v1/generations/none")
        gate.allow(None)
        receipt = receipt_of(waiting.result())
    assert receipt["replay"] is None
    assert receipt["arithmetic"] == "none"


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


HUNG_UP = 'steerdeck_cancelled_total{by="hung_up"}'

# What a hang-up adds to the metrics.
COUNTED = {
    HUNG_UP: 1,
    'steerdeck_cancelled_total{by="asked"}': 0,
    'steerdeck_replies_total{reason="cancelled"}': 1,
    "steerdeck_prompt_tokens_total": 25,  # the template's, and hello
}


def test_hanging_up_frees_the_slot_at_once(narrow, gate):
    before = {name: metric(narrow, name) for name in COUNTED}
    gate.allow(3)
    with httpx2.Client(base_url=narrow.url) as client:
        body = narrow.body(**LONG | {"max_tokens": 400}, stream=True)
        with client.sse("/v1/chat/completions", method="POST", json=body) as events:
            next(iter(events))
    until(lambda: metric(narrow, HUNG_UP) > before[HUNG_UP])
    gate.allow(1)  # the step that was under way
    until(lambda: idle(narrow))
    until(lambda: {name: metric(narrow, name) - before[name] for name in COUNTED} == COUNTED)


def test_hanging_up_on_a_reply_in_one_piece_frees_the_slot_too(narrow, gate):
    before = {name: metric(narrow, name) for name in COUNTED}
    gate.allow(3)
    with (
        httpx2.Client(base_url=narrow.url, timeout=0.3) as client,
        pytest.raises(httpx2.ReadTimeout),
    ):
        client.post("/v1/chat/completions", json=narrow.body(**LONG | {"max_tokens": 400}))
    until(lambda: metric(narrow, HUNG_UP) > before[HUNG_UP])
    gate.allow(1)
    until(lambda: idle(narrow))
    until(lambda: {name: metric(narrow, name) - before[name] for name in COUNTED} == COUNTED)


def test_a_full_queue_is_429_before_any_stream(narrow, gate):
    gate.allow(0)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(narrow.stream, **LONG) for _ in range(2)]
        until(lambda: counts(narrow) == (1, 1))
        for stream in (False, True):
            refused = narrow.http.post("/v1/chat/completions", json=narrow.body(stream=stream))
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "queue_full"
        assert len(narrow.service.jobs) == 2
        gate.allow(None)
        assert all(job.result()[-1] == "[DONE]" for job in waiting)


def test_n_replies_get_room_together_or_not_at_all(narrow, gate):
    before = metric(narrow, HUNG_UP)
    gate.allow(2)
    body = narrow.body(n=3, **LONG | {"max_tokens": 400})
    refused = narrow.http.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400
    assert "needs 3 rows, and this server has 1" in refused.json()["error"]["message"]
    with narrow.open(**LONG):
        until(lambda: counts(narrow) == (1, 0))
        refused = narrow.http.post("/v1/chat/completions", json={**body, "n": 2})
        assert refused.status_code == 429
    until(lambda: metric(narrow, HUNG_UP) > before)
    gate.allow(1)  # far fewer steps than two of them would take
    until(lambda: idle(narrow))


@pytest.mark.parametrize("stream", [False, True])
def test_a_step_that_fails_ends_its_reply_in_one_error(narrow, gate, stream):
    gate.fail(RuntimeError("out of luck"))
    response = narrow.http.post("/v1/chat/completions", json=narrow.body(**LONG, stream=stream))
    if stream:
        assert response.status_code == 200
        assert "[DONE]" not in response.text
        last = response.text.strip().rpartition("data: ")[2]
        assert response.text.count('"error"') == 1
    else:
        assert response.status_code == 500
        last = response.text
    assert '"code":"generation_failed"' in last
    assert "out of luck" in last
    until(lambda: idle(narrow))
    assert narrow.chat()["choices"]


def test_a_failure_in_mid_stream_is_an_error_to_the_openai_client(narrow, gate):
    import openai

    gate.allow(3)
    body = {"model": "tiny", "stream": True, **narrow.body(max_tokens=20)}
    seen = []
    with openai.OpenAI(base_url=f"{narrow.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(**body, extra_body={"ignore_eos": True})
        seen.append(next(stream))
        gate.fail(RuntimeError("out of luck"))
        gate.allow(None)
        with pytest.raises(openai.APIError, match="out of luck") as caught:
            seen.extend(stream)
    assert caught.value.code == "generation_failed"
    assert len(seen) < 20


def test_a_dying_engine_ends_every_stream_and_readiness(make_deck, serve):
    gate = Gate()
    dying = serve(make_deck(before_step=gate))
    gate.allow(2)
    with dying.open(**LONG) as events:
        arrived = iter(events)
        next(arrived)
        gate.fail(SystemExit("the thread is gone"))
        gate.allow(None)
        seen = [dying.parsed(event) for event in arrived]
    assert "error" in seen[-1]
    assert "[DONE]" not in seen
    ready = dying.http.get("/readyz")
    assert (ready.status_code, ready.json()["stage"]) == (503, "dead")
    refused = dying.http.post("/v1/chat/completions", json=dying.body())
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_dead")
    assert dying.http.get("/healthz").status_code == 200


def test_closing_ends_running_replies_in_an_error(make_deck, serve):
    import asyncio

    gate = Gate()
    closing = serve(make_deck(before_step=gate))
    gate.allow(2)
    with closing.open(**LONG | {"max_tokens": 400}) as events:
        arrived = iter(events)
        next(arrived)
        with ThreadPoolExecutor(1) as pool:
            closed = pool.submit(asyncio.run, closing.service.close())
            until(lambda: not closing.service.alive)
            gate.allow(None)
            seen = [closing.parsed(event) for event in arrived]
            closed.result(10)
    assert "error" in seen[-1]
    refused = closing.http.post("/v1/chat/completions", json=closing.body())
    assert refused.status_code == 503
    assert "shutting down" in refused.json()["error"]["message"]


def test_many_readers_each_get_their_own_reply_whole(live):
    """Six at once on four rows, steered differently: the same bytes as alone."""
    bodies = [
        {"steering": {"edits": [{"feature": i, "op": "add", "strength": 3.0, "unit": "raw"}]}}
        for i in range(6)
    ]
    alone = [live.chat(**LONG, **body) for body in bodies]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda body: live.chat(**LONG, **body), bodies))
    for one, other in zip(alone, together, strict=True):
        assert one["choices"] == other["choices"]
    assert len({one["choices"][0]["message"]["content"] for one in alone}) > 4


def test_others_are_served_while_a_long_reply_is_put_together(live, monkeypatch):
    begun, go, plain = threading.Event(), threading.Event(), Writer.whole

    def slow(writer):
        begun.set()
        assert go.wait(20)
        return plain(writer)

    monkeypatch.setattr(Writer, "whole", slow)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(live.chat)
        try:
            assert begun.wait(20)
            assert live.http.get("/healthz", timeout=10).status_code == 200
        finally:
            go.set()
        assert reply.result()["choices"]
