"""Prompts that are too long: refused early, by field, in words that clients know."""

from __future__ import annotations

import json

import pytest
from api_talk import USER


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        ("chat/completions", "messages", {"messages": [{"role": "user", "content": "{}"}] * 2}),
        ("completions", "prompt", {"prompt": ["a", "{}"]}),
        ("completions", "prompt", {"prompt": [1] * 600}),
    ],
)
def test_a_prompt_far_too_long_is_refused_before_it_is_tokenized(
    live, monkeypatch, path, field, body
):
    """It would take seconds in the one thread that prepares for all."""

    def unread(*_):
        raise AssertionError("it was read")

    for name in ("render", "encode_raw"):
        monkeypatch.setattr(f"server.prepare.{name}", unread)
    text = json.dumps(body | {"max_tokens": 1}).replace("{}", "long " * 1000)
    refused = live.http.post(
        f"/v1/{path}", content=text, headers={"content-type": "application/json"}
    )
    assert refused.status_code == 413, refused.text
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert refused.json()["error"]["param"] == field


def test_a_prompt_too_long_by_little_names_its_field_as_well(live):
    refused = live.http.post("/v1/completions", json={"prompt": "a" * 600})
    assert (refused.status_code, refused.json()["error"]["param"]) == (413, "prompt")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "a" * 600}]}),
        ("chat/completions", {"messages": [{"role": "user", "content": "a" * 100_000}]}),
        ("chat/completions", {"messages": [{"role": "user", "content": "<|end|>" * 600}]}),
        ("chat/completions", {"messages": USER, "max_tokens": 600, "ignore_eos": True}),
        ("completions", {"prompt": [5] * 600}),
    ],
)
def test_a_prompt_too_long_is_told_in_the_words_that_clients_look_for(live, path, body):
    """LangChain and LiteLLM know it by them, and shorten the conversation."""
    said = live.http.post(f"/v1/{path}", json=body).json()["error"]["message"]
    assert "prompt is too long" in said.lower()
    assert "this model's maximum context length is 512 tokens" in said
