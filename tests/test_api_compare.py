"""POST /v1/compare: every variant is the reply that its steering gives alone."""

from __future__ import annotations

import json

import pytest

SAMPLED = {"ignore_eos": True, "max_tokens": 10, "seed": 5, "temperature": 1.0}
VARIANTS = [
    {"edits": [{"feature": "fog", "strength": 4.0}]},
    {"edits": [{"feature": "fog", "strength": 8.0, "where": "generated"}], "label": "late"},
    {"preset": "loud", "norm": "keep"},
]


@pytest.fixture(scope="module")
def wide(make_deck, serve):
    return serve(make_deck(max_rows=12, max_waiting=3))


def body_of(live, **more):
    return {**live.body(**SAMPLED), "variants": VARIANTS, **more}


def compared(live, **more):
    response = live.http.post("/v1/compare", json=body_of(live, **more))
    assert response.status_code == 200, response.text
    return response.json()


def streamed(live, **more):
    body = body_of(live, **more, stream=True)
    with live.http.sse("/v1/compare", method="POST", json=body) as events:
        assert events.response.status_code == 200, events.response.read()
        return [live.parsed(event) for event in events]


def test_each_variant_is_the_reply_of_a_chat_steered_so(wide):
    found = compared(wide)
    assert found["object"] == "comparison"
    names = ["unsteered", "fog and mist clamp 6", "late", "loud"]
    assert [one["label"] for one in found["variants"]] == names
    ways = [{}, *({k: v for k, v in one.items() if k != "label"} for one in VARIANTS)]
    for i, (one, way) in enumerate(zip(found["variants"], ways, strict=True)):
        alone = wide.chat(**SAMPLED, steering=way)
        assert one["index"] == i
        assert one["message"] == alone["choices"][0]["message"]
        assert one["finish_reason"] == alone["choices"][0]["finish_reason"]
        assert one["steering"]["receipt"] == alone["steering"]["receipt"]
        assert one["steering"]["applied"] == alone["steering"]["applied"]
    assert len({one["message"]["content"] for one in found["variants"]}) == 4
    prompt = wide.chat(**SAMPLED)["usage"]["prompt_tokens"]
    assert found["usage"]["prompt_tokens"] == prompt
    assert found["usage"]["completion_tokens"] == 40


def test_a_variants_receipt_replays_it(wide):
    for one in compared(wide)["variants"]:
        again = wide.chat(**one["steering"]["receipt"]["replay"])
        assert again["choices"][0]["message"] == one["message"]
        assert again["steering"]["receipt"] == one["steering"]["receipt"]


def test_events_are_interleaved_tagged_and_end_in_a_receipt_each(wide):
    events = streamed(wide, stream_options={"include_usage": True})
    assert events[-1] == "[DONE]"
    assert events[-2]["usage"]["completion_tokens"] == 40
    chunks = events[:-2]
    whole = compared(wide)["variants"]
    order = [chunk["variant"]["index"] for chunk in chunks]
    assert order != sorted(order)
    for i, one in enumerate(whole):
        mine = [chunk for chunk in chunks if chunk["variant"]["index"] == i]
        assert {chunk["variant"]["label"] for chunk in mine} == {one["label"]}
        assert {choice["index"] for chunk in mine for choice in chunk["choices"]} == {i}
        assert mine[0]["steering"]["applied"] == one["steering"]["applied"]
        texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in mine]
        assert "".join(texts) == one["message"]["content"]
        assert mine[-1]["choices"][0]["finish_reason"] == one["finish_reason"]
        assert mine[-1]["steering"]["receipt"] == one["steering"]["receipt"]
        assert sum("receipt" in chunk.get("steering", {}) for chunk in mine) == 1


def test_every_variant_tells_how_far_it_is_from_the_unsteered_model(wide):
    found = compared(wide, steering={"trace": ["kl", "activations"]})["variants"]
    assert [one["kl"] for one in found[0]["steering"]["kl"]] == [0.0] * 10
    for one in found[1:]:
        assert len(one["steering"]["kl"]) == len(one["steering"]["activations"]) == 10
        assert all(line["kl"] > 1e-6 for line in one["steering"]["kl"][1:])


def test_a_guard_watches_every_variant_as_it_watches_a_chat(wide):
    watched = {"kl": 0.01, "entropy": None, "repetition": None}
    guard = {"guard": {"mode": "stop", "window": 4, **watched}}
    found = compared(wide, steering=guard)["variants"]
    ways = [{}, *({k: v for k, v in one.items() if k != "label"} for one in VARIANTS)]
    for one, way in zip(found, ways, strict=True):
        alone = wide.chat(**SAMPLED, steering=way | guard)
        assert one["message"] == alone["choices"][0]["message"]
        assert one["finish_reason"] == alone["choices"][0]["finish_reason"]
        alarms = [reply["steering"]["receipt"]["guard"]["alarms"] for reply in (one, alone)]
        assert [alarm["at"] for alarm in alarms[0]] == [alarm["at"] for alarm in alarms[1]]
    assert found[0]["finish_reason"] == "length"
    assert found[1]["finish_reason"] != "length"


REFUSED = [
    ({"variants": []}, 400, "variants"),
    ({"variants": VARIANTS * 6}, 400, "variants"),
    ({"variants": [{"edits": [], "labl": "x"}]}, 400, "variants[0].labl"),
    (
        {"variants": [{}, {"edits": [{"feature": "nope", "strength": 1}]}]},
        404,
        "variants[1].edits[0].feature",
    ),
    (
        {"variants": [{"edits": [{"feature": 7, "strength": 1}]}]},
        400,
        "variants[0].edits[0].strength",
    ),
    (
        {"variants": [{}, {"edits": [{"feature": i, "op": "ablate"} for i in range(17)]}]},
        400,
        "variants[1].edits",
    ),
    ({"variants": [{"preset": "nope"}]}, 404, "variants[0].preset"),
    ({"model": "tiny@loud"}, 400, "model"),
    ({"n": 2}, 400, "n"),
    ({"steering": {"edits": [{"feature": "fog", "strength": 1}]}}, 400, "steering.edits"),
    ({"steering": {"preset": "loud"}}, 400, "steering.preset"),
    ({"variants": VARIANTS * 5}, 400, "variants"),
    ({"variants": VARIANTS * 3, "steering": {"trace": ["kl"]}}, 400, "variants"),
]


@pytest.mark.parametrize(("more", "status", "param"), REFUSED)
def test_what_cannot_be_compared_is_refused_by_name(wide, more, status, param):
    response = wide.http.post("/v1/compare", json=body_of(wide, **more))
    error = response.json()["error"]
    assert response.status_code == status, error
    assert str(error["param"]).startswith(param), error


def test_sixteen_variants_are_compared_and_a_seventeenth_is_not(make_deck, serve):
    """Also where there are rows for more."""
    roomy = serve(make_deck(max_rows=17, max_waiting=3))
    ways = [{"edits": [{"feature": "fog", "strength": 1.0 + i}]} for i in range(17)]
    found = compared(roomy, variants=ways[:16], max_tokens=2)["variants"]
    edited = [one["steering"]["receipt"]["tokens_edited"] for one in found]
    assert [tokens > 0 for tokens in edited] == [False, *[True] * 16]
    body = body_of(roomy, variants=ways, max_tokens=2)
    refused = roomy.http.post("/v1/compare", json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "variants")
    assert "16" in error["message"]
    assert "rows" not in error["message"]


def test_a_comparison_is_stopped_as_one_and_not_steered_as_one(wide):
    long = {"max_tokens": 400, "steering": {"id": "many"}, "stream": True}
    body = body_of(wide, **long)
    with wide.http.sse("/v1/compare", method="POST", json=body) as events:
        arrived = iter(events)
        seen = [wide.parsed(next(arrived)) for _ in range(6)]
        refused = wide.http.patch("/v1/generations/many/steering", json={"edits": []})
        assert refused.status_code == 400
        assert "other variants" in refused.json()["error"]["message"]
        assert wide.http.delete("/v1/generations/many").status_code == 200
        seen += [wide.parsed(event) for event in arrived]
    ends = [chunk["choices"][0]["finish_reason"] for chunk in seen[:-1]]
    assert [end for end in ends if end] == ["cancelled"] * 4
    assert "receipt" in json.dumps(seen[-2])
