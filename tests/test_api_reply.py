"""A chat reply over HTTP, whole and streamed: its shape, its messages, its length, its logprobs."""

from __future__ import annotations

import json

import pytest
from api_talk import FOG, LONG, text_of


def joined(events, index=0):
    chunks = [c for e in events if e != "[DONE]" for c in e["choices"] if c["index"] == index]
    return "".join(chunk["delta"].get("content", "") for chunk in chunks)


def test_a_reply_has_the_shape_openai_gives_it(live):
    reply = live.chat()
    assert reply["object"] == "chat.completion"
    assert reply["id"].startswith("chatcmpl-")
    assert reply["model"] == "tiny"
    assert reply["choices"][0]["message"]["role"] == "assistant"
    assert reply["choices"][0]["finish_reason"] in ("stop", "length")
    assert reply["choices"][0]["logprobs"] is None
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 8


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"steering": FOG},
        {"temperature": 1.0, "seed": 5, "steering": FOG},
        {"stop": ["e"], "temperature": 1.5, "seed": 2},
        {"logprobs": True, "top_logprobs": 3, "steering": FOG | {"trace": ["activations"]}},
        {"n": 3, "temperature": 1.0, "seed": 9},
    ],
)
def test_a_streamed_reply_is_the_one_in_one_piece(live, body):
    whole, events = live.chat(**LONG | body), live.stream(**LONG | body)
    for choice in whole["choices"]:
        mine = [c for e in events[:-1] for c in e["choices"] if c["index"] == choice["index"]]
        assert joined(events, choice["index"]) == choice["message"]["content"]
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == [choice["finish_reason"]]
        told = [t for c in mine for t in (c["logprobs"] or {}).get("content", [])]
        assert told == (choice["logprobs"] or {}).get("content", [])
    streamed = [r for e in events[:-1] for r in e.get("steering", {}).get("activations", [])]
    assert streamed == whole["steering"].get("activations", [])
    receipts = [e["steering"]["receipt"] for e in events[:-1] if "receipt" in e.get("steering", {})]
    assert sorted(map(json.dumps, receipts)) == sorted(
        map(json.dumps, whole["steering"].get("receipts", [whole["steering"]["receipt"]]))
    )


def test_a_stream_begins_with_the_role_and_ends_with_one_finish_and_done(live):
    events = live.stream(steering=FOG, **LONG)
    first = events[0]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["steering"]["id"] == first["id"]
    assert [e["feature"] for e in first["steering"]["applied"]] == ["tiny/5"]
    assert events[-1] == "[DONE]"
    ends = [e for e in events[:-1] if e["choices"][0]["finish_reason"]]
    assert ends == [events[-2]]
    assert ends[0]["choices"][0]["delta"] == {}
    assert len({(e["id"], e["created"], e["system_fingerprint"]) for e in events[:-1]}) == 1
    assert all("usage" not in e for e in events[:-1])


def test_usage_is_one_more_chunk_and_only_if_asked(live):
    events = live.stream(stream_options={"include_usage": True})
    assert [e["usage"] for e in events[:-2]] == [None] * (len(events) - 2)
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == live.chat()["usage"]["completion_tokens"]


def test_events_are_separated_as_openai_separates_them(live):
    body = {"messages": [{"role": "user", "content": "a"}], "stream": True, "max_tokens": 2}
    raw = live.http.post("/v1/chat/completions", json=body)
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.content.endswith(b"data: [DONE]\n\n")
    assert b"\r" not in raw.content


def test_content_may_be_parts_and_developer_is_system(live):
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    prompts = [
        live.chat(said)["steering"]["receipt"]["prompt_sha256"] for said in (parts, "hel\nlo")
    ]
    assert prompts[0] == prompts[1]
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
    expected = text_of(live.chat(messages=turns))
    turns[0]["role"] = "developer"
    assert text_of(live.chat(messages=turns)) == expected
    spoken = {"role": "assistant", "content": None, "refusal": None, "tool_calls": None}
    assert text_of(live.chat(messages=[*turns, spoken, turns[1]])) is not None


def test_harmless_openai_fields_are_let_pass(live):
    extras = {"user": "u", "metadata": {"a": "b"}, "store": False, "tools": [], "logit_bias": {}}
    more = {"response_format": {"type": "text"}, "x_client": 1, "tool_choice": None}
    assert text_of(live.chat(**extras, **more)) == text_of(live.chat())


def test_both_words_for_the_length_mean_the_same(live):
    reply = live.chat(max_tokens=None, max_completion_tokens=5, ignore_eos=True)
    assert reply["usage"]["completion_tokens"] == 5
    assert reply["choices"][0]["finish_reason"] == "length"


def test_logprobs_tell_the_token_and_its_rivals(live):
    reply = live.chat(logprobs=True, top_logprobs=2, max_tokens=6)
    told = reply["choices"][0]["logprobs"]["content"]
    assert len(told) == reply["usage"]["completion_tokens"]
    for token in told:
        assert len(token["top_logprobs"]) == 2
        assert token["logprob"] == token["top_logprobs"][0]["logprob"] <= 0  # greedy
    spelled = bytes(b for t in told for b in t["bytes"]).decode("utf-8", "replace")
    whole = text_of(reply).rstrip("\ufffd")  # half a character may be left at the end
    assert len(whole) >= 2
    assert spelled.startswith(whole)
