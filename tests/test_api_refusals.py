"""What is refused: always before the first byte, always OpenAI's error object, always a sentence
that names the field.
"""

from __future__ import annotations

import json
import re

import pytest
from api_talk import USER, edit

# body (over a good one), status, code, what the sentence names
BAD = [
    ({"messages": []}, 400, "invalid_request", "messages"),
    ({"messages": "x"}, 400, "invalid_request", "messages"),
    ({"messages": [{"role": "user"}]}, 400, "invalid_request", "messages[0]"),
    ({"messages": [{"role": "bob", "content": "a"}]}, 400, "invalid_request", "bob"),
    ({"messages": [{"role": "tool", "content": "a"}]}, 400, "invalid_request", "tools"),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "invalid_request", "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        400,
        "invalid_request",
        "messages[0].content[0].text is missing",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        400,
        "invalid_request",
        "image_url",
    ),
    ({"messages": [{"role": "user", "content": "\ud83d"}]}, 400, "invalid_request", "\\ud83d"),
    ({"messages": USER * 1001}, 400, "invalid_request", "1000"),
    ({"messages": [{"role": "user", "content": "a" * 600}]}, 413, "context_length_exceeded", "512"),
    (
        {"messages": [{"role": "user", "content": "<|end|>" * 600}]},
        413,
        "context_length_exceeded",
        "more than 511",
    ),
    ({"max_tokens": 5000, "ignore_eos": True}, 413, "context_length_exceeded", "512"),
    ({"max_tokens": 0}, 400, "invalid_request", "max_tokens"),
    ({"max_completion_tokens": 3}, 400, "invalid_request", "disagree"),
    ({"model": "gpt-4"}, 404, "model_not_found", "tiny"),
    ({"model": "tiny@"}, 404, "model_not_found", "tiny@"),
    ({"model": "loud"}, 404, "model_not_found", "loud"),
    ({"model": "tiny@loud@loud"}, 404, "model_not_found", "tiny@loud@loud"),
    ({"model": "tiny@nope"}, 404, "model_not_found", "tiny@nope"),
    ({"temperature": 2.5}, 400, "invalid_request", "temperature"),
    ({"temperature": "hot"}, 400, "invalid_request", "temperature"),
    ({"top_p": -0.1}, 400, "invalid_request", "top_p"),
    ({"repetition_penalty": 0}, 400, "invalid_request", "repetition_penalty"),
    ({"min_p": 1.5}, 400, "invalid_request", "min_p"),
    ({"top_k": -2}, 400, "invalid_request", "top_k"),
    ({"n": 9}, 400, "invalid_request", "n:"),
    ({"n": 0}, 400, "invalid_request", "n:"),
    ({"stop": [1]}, 400, "invalid_request", "stop[0]"),
    ({"stop": ["a"] * 17}, 400, "invalid_request", "stop"),
    ({"stop": "a" * 201}, 400, "invalid_request", "at most 200 characters, not 201"),
    ({"messages": ["hi"]}, 400, "invalid_request", "should be a valid object, not 'hi'"),
    ({"messages": []}, 400, "invalid_request", "at least 1 item, not 0"),
    ({"seed": 2**64}, 400, "invalid_request", "seed"),
    ({"seed": 1.5}, 400, "invalid_request", "seed"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "invalid_request", "top_logprobs"),
    ({"top_logprobs": 2}, 400, "invalid_request", "logprobs"),
    ({"stream_options": {"include_usage": True}}, 400, "invalid_request", "stream"),
    ({"temprature": 1}, 400, "invalid_request", "is temperature meant"),
    ({"sterring": {}}, 400, "invalid_request", "is steering meant"),
    ({"steering": []}, 400, "invalid_request", "steering: input should be a valid object"),
    ({"steering": {"edit": []}}, 400, "invalid_request", "'edit'"),
    ({"steering": {"guard": {"mode": "loud"}}}, 400, "invalid_request", "guard"),
    ({"steering": {"trace": ["kull"]}}, 400, "invalid_request", "trace"),
    ({"steering": {"trace": ["x"]}}, 400, "invalid_request", "trace"),
    ({"steering": {"norm": "drop"}}, 400, "invalid_request", "norm"),
    ({"steering": {"preset": "nope"}}, 404, "not_found", "nope"),
    ({"steering": {"preset": "../x"}}, 400, "invalid_request", "preset"),
    ({"steering": {"id": "a b"}}, 400, "invalid_request", "id"),
    ({"model": "tiny@loud", "steering": {"preset": "x"}}, 400, "invalid_request", "send one"),
    (edit(when={"feature": 1}), 400, "invalid_request", "when"),
    (edit(stength=1), 400, "invalid_request", "'stength'"),
    (edit(op="clmp"), 400, "invalid_request", "clamp"),
    (edit(strength=None), 400, "invalid_request", "strength"),
    (edit(strength="1"), 400, "invalid_request", "steering.edits[0].strength"),
    (edit(strength=1e9), 400, "invalid_request", "strength"),
    (edit(unit="std"), 400, "invalid_request", "unit"),
    (edit(where="bos"), 400, "invalid_request", "where"),
    (edit(feature=True), 400, "invalid_request", "steering.edits[0].feature"),
    (edit(feature=-1), 400, "invalid_request", "greater than or equal to 0"),
    (edit(feature=64), 404, "unknown_feature", "0..63"),
    (edit(feature="other/3"), 404, "unknown_feature", "other"),
    (edit(feature="no-such-slug"), 404, "unknown_feature", "no-such-slug"),
    (edit(feature=7), 400, "unsteerable", '"unit": "raw"'),
    (edit(feature=9), 400, "unsteerable", "steerdeck make describe"),
    (
        {"steering": {"edits": [{"feature": i, "strength": 1, "unit": "raw"} for i in range(17)]}},
        400,
        "unsteerable",
        "16",
    ),
    (
        {
            "steering": {
                "edits": [{"feature": 3, "strength": 1}, {"feature": "tiny/3", "op": "ablate"}]
            }
        },
        400,
        "unsteerable",
        "twice",
    ),
    (
        {"steering": {"preset": "loud", "edits": [{"feature": 3, "strength": 1}]}},
        400,
        "unsteerable",
        "'loud' edits it already",
    ),
    ({"steering": {"timeline": [{"at": 3}, {"at": 3}]}}, 400, "invalid_request", "timeline"),
    ({"steering": {"timeline": [{"at": -1}]}}, 400, "invalid_request", "timeline[0].at"),
    ({"steering": {"timeline": [{"at": 0}]}}, 400, "invalid_request", "entries begin at token 1"),
    ({"variants": [{}]}, 400, "invalid_request", "/v1/compare"),
    ({"extra_body": {"steering": {}}}, 400, "invalid_request", "extra_body"),
    ({"steer": {"edits": []}}, 400, "invalid_request", "`steering`"),
    ({f"x{i}": 1 for i in range(101)}, 400, "invalid_request", "101 fields"),
    *(
        ({name: value}, 400, "invalid_request", name)
        for name, value in {
            "tools": [{"type": "function"}],
            "tool_choice": "required",
            "functions": [{}],
            "function_call": {"name": "f"},
            "response_format": {"type": "json_object"},
            "logit_bias": {"5": 10},
            "modalities": ["audio"],
            "audio": {"voice": "x"},
            "prediction": {"type": "content"},
            "reasoning_effort": "high",
            "verbosity": "low",
            "web_search_options": {},
            "repeat_penalty": 1.2,
            "features": [3],
            "controller": {},
            "steering_vectors": [[0.1]],
        }.items()
    ),
]


@pytest.mark.parametrize(("over", "status", "code", "names"), BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_is_refused_before_the_first_byte(live, over, status, code, names, stream):
    body = {"messages": USER, "max_tokens": 4, "stream": stream, **over}
    if "stream_options" in over:
        body["stream"] = False
    response = live.http.post(
        "/v1/chat/completions",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
    )
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert names in error["message"], error["message"]
    assert not re.search("instance of|extract fields|after validation", error["message"])
