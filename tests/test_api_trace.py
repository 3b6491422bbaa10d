"""What `trace` tells over HTTP of how far a reply is from the unsteered model."""

from __future__ import annotations

import math

import pytest

LONG = {"ignore_eos": True, "max_tokens": 12, "seed": 1, "temperature": 1.0}
FOG = {"edits": [{"feature": "fog", "op": "clamp", "strength": 4.0}]}
TRACE = {"trace": ["kl", "top", "activations"]}


def traced(live, **steering):
    return live.chat(**LONG, steering=steering | TRACE)


def test_a_steered_reply_tells_how_far_it_was_moved(live):
    reply = traced(live, **FOG)
    told = reply["steering"]
    assert [len(told[word]) for word in TRACE["trace"]] == [12] * 3
    assert all(one["kl"] > 1e-6 for one in told["kl"][1:])
    for kl, top in zip(told["kl"], told["top"], strict=True):
        assert kl["token"] == top["token"]
        for outlook in (top["steered"], top["unsteered"]):
            logprobs = [one["logprob"] for one in outlook["top"]]
            assert len(logprobs) == 5
            assert logprobs == sorted(logprobs, reverse=True)
            assert math.exp(logprobs[0]) <= 1
            assert outlook["logprob"] <= logprobs[0]
    assert any(one["steered"]["top"] != one["unsteered"]["top"] for one in told["top"])


def test_an_unsteered_reply_is_exactly_the_unsteered_model(live):
    told = traced(live)["steering"]
    assert [one["kl"] for one in told["kl"]] == [0.0] * 12
    assert all(one["steered"] == one["unsteered"] for one in told["top"])


def test_the_trace_changes_no_byte_of_the_reply_and_of_its_receipt(live):
    plain, told = live.chat(**LONG, steering=FOG), traced(live, **FOG)
    assert told["choices"] == plain["choices"]
    assert told["steering"]["receipt"] == plain["steering"]["receipt"]
    assert not {"kl", "top", "activations"} & set(plain["steering"])


def test_chunks_carry_what_the_reply_in_one_piece_does(live):
    whole = traced(live, **FOG)["steering"]
    events = live.stream(**LONG, steering=FOG | TRACE)
    told = [event.get("steering", {}) for event in events[:-1]]
    for word in TRACE["trace"]:
        assert [line for part in told for line in part.get(word, [])] == whole[word]


@pytest.mark.parametrize("word", ["kl", "top"])
def test_only_what_was_asked_for_is_told(live, word):
    told = live.chat(**LONG, n=2, steering=FOG | {"trace": [word]})["steering"]
    assert len(told[word]) == 24
    assert not ({"kl", "top", "activations"} - {word}) & set(told)


def test_a_server_with_one_row_refuses_before_the_first_byte(make_deck, serve):
    alone = serve(make_deck(max_rows=1))
    for stream in (False, True):
        body = alone.body(stream=stream, steering=FOG | {"trace": ["kl"]})
        refused = alone.http.post("/v1/chat/completions", json=body)
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert error["param"] == "steering.trace"
        assert "second row" in error["message"]
