"""What is refused: always before the first byte, always OpenAI's error object, always a sentence
that names the field. Nothing a caller can send is a 500.
"""

from __future__ import annotations

import gzip
import json
import re
import string
import time
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from server.middleware import VALUES, weight
from server.routes import compare, features, generate, generations, models, presets
from server.schemas.requests import ChatRequest
from server.schemas.steering import WireEdit, WireSteering

USER = [{"role": "user", "content": "a"}]
FOGGY = {"feature": "fog", "value": 1}
MANY = {"edits": [{"feature": i, "op": "ablate"} for i in range(17)]}
DEEP = "[" * 20_000 + "]" * 20_000


def edit(**fields):
    return {"steering": {"edits": [{"feature": 3, "strength": 1.0, **fields}]}}


def third(**fields):
    before = [{"feature": i, "op": "ablate"} for i in ("fog", 7)]
    return {"steering": {"edits": [*before, *edit(**fields)["steering"]["edits"]]}}


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
            "repetition_penalty": 1.2,
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


def test_what_steers_only_inside_of_steering_is_refused_outside_of_it(live):
    """It would be dropped, and the reply come back unsteered."""
    for name in set(WireSteering.model_fields) - {"id"}:
        for path in ("/v1/chat/completions", "/v1/completions"):
            body = {"messages": USER, "prompt": "a", name: {}}
            error = live.http.post(path, json=body).json()["error"]
            assert "inside `steering`" in error["message"], error
            assert error["param"] == name


@pytest.mark.parametrize(("count", "digits", "seconds"), [(300_000, 6, 2.0), (100, 40_000, 0.1)])
def test_strange_names_are_not_looked_at_for_long(count, digits, seconds):
    """That is done on the event loop, where every stream waits for it."""
    body = {"messages": USER, **{f"{i:0{digits}}": 0 for i in range(count)}}
    begun = time.process_time()
    with suppress(ValidationError):
        ChatRequest.model_validate(body)
    assert time.process_time() - begun < seconds


def test_no_route_has_its_body_checked_twice():
    def readers(dependant):
        return bool(dependant.body_params) + sum(map(readers, dependant.dependencies))

    modules = (compare, features, generate, generations, models, presets)
    routes = [route for module in modules for route in module.router.routes]
    found = {(route.path, *route.methods): readers(route.dependant) for route in routes}
    assert found["/chat/completions", "POST"] == found["/compare", "POST"] == 1
    assert max(found.values()) == 1


@pytest.mark.parametrize(
    ("over", "param"),
    [
        ({"tools": [{}]}, "tools"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": 3}, "temperature"),
        (edit(op="x"), "steering.edits[0].op"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"model": "x"}, "model"),
        (third(feature="nope"), "steering.edits[2].feature"),
        (third(feature="fog"), "steering.edits[2].feature"),
        (third(feature=9), "steering.edits[2].strength"),
        (third(feature=9, thinking="only", unit="raw"), "steering.edits[2].thinking"),
        (third(when={"feature": "nope", "value": 1}), "steering.edits[2].when.feature"),
        (third(when={"feature": 9, "value": 1}), "steering.edits[2].when.value"),
        (third(abort=[FOGGY, {"feature": 9, "value": 1}]), "steering.edits[2].abort[1].value"),
        ({"steering": {"abort": {"feature": "nope", "value": 1}}}, "steering.abort[0].feature"),
        ({"steering": {"preset": "nope"}}, "steering.preset"),
        (
            {"steering": {"timeline": [{"at": 2}, {"at": 3, **edit(feature=64)["steering"]}]}},
            "steering.timeline[1].edits[0].feature",
        ),
        ({"steering": {"timeline": [{"at": 2}, {"at": 3, **MANY}]}}, "steering.timeline[1].edits"),
    ],
)
def test_the_error_names_the_parameter(live, over, param):
    response = live.http.post("/v1/chat/completions", json={"messages": USER, **over})
    assert response.json()["error"]["param"] == param


def test_outside_of_a_request_for_a_reply_it_is_seen_from_that_body(live):
    response = live.http.put("/v1/presets/many", json=MANY)
    assert response.json()["error"]["param"] == "edits"


@pytest.mark.parametrize(
    ("fields", "measure"),
    [
        ({"op": "clamp"}, "in multiples of the feature's maximum"),
        ({"op": "clamp", "unit": "raw"}, "in activations"),
        ({"op": "scale"}, "a factor"),
    ],
)
def test_who_left_the_strength_out_is_told_what_it_is_measured_in(fields, measure):
    with pytest.raises(ValidationError, match=f" needs a strength, {measure} "):
        WireEdit.model_validate({"feature": 3, **fields})


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, "prompt is missing"),
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "at least 1"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [259]}, "0..258"),
        ({"prompt": [[1], "a"]}, "prompt[1]"),
        ({"prompt": [[1, "a"]]}, "prompt[0][1]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a"] * 65}, "at most 64"),
        ({"prompt": ["a"] * 9, "n": 8}, "64 replies"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "logprobs": True}, "number"),
        ({"prompt": "a", "messages": USER, "stream_options": {}}, "stream"),
    ],
)
def test_a_bad_text_completion_is_refused(live, body, names):
    response = live.http.post("/v1/completions", json=body)
    assert response.status_code == 400, response.text
    assert names in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "names"),
    [
        ("", "application/json", 400, "body"),
        ("{", "application/json", 400, "JSON"),
        ("[]", "application/json", 400, "JSON object"),
        ("null", "application/json", 400, "body"),
        ('"x"', "application/json", 400, "JSON object"),
        (DEEP, "application/json", 400, "read"),
        (b"\xc3\x28{}", "application/json", 400, "body"),
        ('{"messages": "café"}'.encode("latin-1"), "application/json", 400, "not UTF-8"),
        ('{"messages": 1, "temperature": NaN}', "application/json", 400, "finite"),
        (
            '{"messages":[{"role":"user","content":"a"}],"temperature":NaN}',
            "application/json",
            400,
            "finite",
        ),
        (
            '{"messages":[{"role":"user","content":"a"}],"max_tokens":1e999}',
            "application/json",
            400,
            "max_tokens",
        ),
        ('{"seed": ' + "9" * 5000 + "}", "application/json", 400, "read"),
        (json.dumps({"messages": USER}), "text/plain", 400, "content-type: application/json"),
        ("x" * (4 * 2**20 + 1), "application/json", 413, "4194304"),
    ],
)
def test_a_body_that_is_no_request_is_refused(live, content, kind, status, names):
    response = live.http.post(
        "/v1/chat/completions", content=content, headers={"content-type": kind}
    )
    assert response.status_code == status, response.text
    assert names in response.json()["error"]["message"]


def test_a_compressed_body_is_refused_as_that(live):
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    packed = gzip.compress(json.dumps({"messages": USER}).encode())
    response = live.http.post("/v1/chat/completions", content=packed, headers=headers)
    assert response.status_code == 400
    assert "content-encoding 'gzip'" in response.json()["error"]["message"]


def test_a_body_with_too_much_in_it_is_refused_before_it_is_read_as_json(live, monkeypatch):
    async def unread(_):
        raise AssertionError("it was read")

    monkeypatch.setattr("starlette.requests.Request.json", unread)
    fields = ",".join(f'"{i}":[]' for i in range(VALUES // 2))
    refused = live.http.post(
        "/v1/chat/completions",
        content='{"steering":{' + fields + "}}",
        headers={"content-type": "application/json"},
    )
    assert refused.status_code == 413
    assert f"{VALUES} are read here" in refused.json()["error"]["message"]


@given(st.lists(st.text('[{:"\\a')))
def test_what_texts_hold_does_not_count(texts):
    body = json.dumps({text: [text] for text in texts}).encode()
    assert weight(body, 0) == 1 + 2 * len(set(texts))


def test_what_is_read_as_json_in_another_encoding_counts_as_well():
    """There half a character may look like the quotation mark that ends a text."""
    body = '["\u0122", [], []]'.encode("utf-16")
    assert json.loads(body) == ["\u0122", [], []]
    assert weight(body, 0) >= 3


def test_a_body_of_unannounced_length_is_cut_at_the_limit(live):
    def endless():
        for _ in range(100):
            yield b"x" * 100_000

    response = live.http.post(
        "/v1/chat/completions", content=endless(), headers={"content-type": "application/json"}
    )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nope", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
        ("GET", "/nope", 404, "not_found"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/v1/models/nope", 404, "model_not_found"),
        ("GET", "/v1/features/nope", 404, "unknown_feature"),
        ("GET", "/v1/features/64", 404, "unknown_feature"),
        ("GET", "/v1/features/99999999999999999999", 404, "unknown_feature"),
        ("GET", "/v1/features?limit=0", 400, "invalid_request"),
        ("GET", "/v1/features?sort=luck", 400, "invalid_request"),
        ("GET", "/v1/features?dictionary=x", 404, "not_found"),
        ("GET", "/v1/features/3/neighbors?n=x", 400, "invalid_request"),
        ("GET", "/v1/presets/nope", 404, "not_found"),
        ("DELETE", "/v1/presets/nope", 404, "not_found"),
        ("DELETE", "/v1/generations/nope", 404, "unknown_generation"),
    ],
)
def test_a_wrong_address_gets_the_same_error_object(live, method, path, status, code):
    response = live.http.request(method, path)
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"] == code


def test_changing_what_does_not_run_is_refused(live):
    response = live.http.patch("/v1/generations/gone/steering", json={"edits": []})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_generation"


def test_a_field_named_with_half_a_character_is_refused_like_any_other(live):
    body = '{"messages": [{"role": "user", "content": "a"}], "temprature\\ud800": 1}'
    sent = {"content": body, "headers": {"content-type": "application/json"}}
    response = live.http.post("/v1/chat/completions", **sent)
    assert response.status_code == 400
    assert "is temperature meant?" in response.json()["error"]["message"]


# --- Whatever a machine can think of ---

NAMES = [
    *("messages", "model", "stream", "n", "stop", "seed", "temperature", "top_p", "top_k", "min_p"),
    *("max_tokens", "logprobs", "top_logprobs", "steering", "stream_options", "tools", "prompt"),
    *("response_format", "edits", "feature", "op", "strength", "unit", "where", "preset", "norm"),
    *("trace", "id", "timeline", "at", "role", "content", "text", "type", "features"),
    *("index", "interventions", "mode", "value", "source", "when", "window", "decay", "abort"),
    *("guard", "variants", "first", "last", "latch", "thinking", "entropy", "kl", "label"),
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(string.printable + "é\ud800\0😀", max_size=8)
    | st.sampled_from(
        ["user", "add", "clamp", "max", "raw", "all", "fog", "tiny/3", "loud", "text", "stop"]
    )
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5)
REPLIES = ["/v1/chat/completions", "/v1/completions", "/v1/compare"]
OTHERS = [("PUT", "/v1/presets/fuzz"), ("PATCH", "/v1/generations/x/steering")]
ROUTES = st.sampled_from([*(("POST", path) for path in REPLIES), *OTHERS])


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(route=ROUTES, body=BODIES, deep=st.sampled_from(["no", "good", "steering", "edit"]))
def test_no_body_makes_the_server_fail(live, route, body, deep):
    """deep: what of a good body the strange fields are put into."""
    method, path = route
    if deep == "edit":
        body = {"edits": [{"feature": 3, "strength": 1.0, **body}]}
    if method == "POST":
        if deep in ("steering", "edit"):
            body = {"variants": [body]} if path == "/v1/compare" else {"steering": body}
        if deep != "no":
            body = {"messages": USER, "prompt": "a", **body}
        body = {**body, "max_tokens": 1, "n": 1}
    response = live.http.request(
        method, path, content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert response.status_code in (200, 400, 404, 413), response.text
    if response.status_code != 200:
        assert response.json()["error"]["message"]
    elif method == "PUT":
        assert live.http.delete(path).status_code == 200


QUERIES = st.text(max_size=30)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(q=QUERIES, path=st.sampled_from(["/v1/features", "/v1/features/{}", "/v1/models/{}"]))
def test_no_query_makes_the_server_fail(live, q, path):
    from urllib.parse import quote

    url = path.format(quote(q.encode("utf-8", "replace"), safe=""))
    response = live.http.get(url, params={"q": q} if path == "/v1/features" else None)
    assert response.status_code < 500, response.text
