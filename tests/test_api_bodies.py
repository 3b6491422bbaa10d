"""Bodies that are no requests, are too much, or would take too long to look at."""

from __future__ import annotations

import gzip
import json
import time
from contextlib import suppress

import pytest
from api_talk import USER
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from server.middleware import VALUES, weight
from server.routes import compare, features, generate, generations, models, presets
from server.schemas.requests import ChatRequest

DEEP = "[" * 20_000 + "]" * 20_000


@pytest.mark.parametrize(("count", "digits", "seconds"), [(300_000, 6, 2.0), (100, 40_000, 0.1)])
def test_strange_names_are_not_looked_at_for_long(count, digits, seconds):
    """That is done on the event loop, where every stream waits for it."""
    body = {"messages": USER, **{f"{i:0{digits}}": 0 for i in range(count)}}
    begun = time.process_time()
    with suppress(ValidationError):
        ChatRequest.model_validate(body)
    assert time.process_time() - begun < seconds


@pytest.mark.parametrize("field", ["steering", "stream_options"])
def test_nor_are_those_within_a_field(field):
    begun = time.process_time()
    with pytest.raises(ValidationError, match="120000 fields came; leave out all but"):
        ChatRequest.model_validate({"messages": USER, field: {f"a{i}": 0 for i in range(120_000)}})
    assert time.process_time() - begun < 0.3


def test_no_route_has_its_body_checked_twice():
    def readers(dependant):
        return bool(dependant.body_params) + sum(map(readers, dependant.dependencies))

    modules = (compare, features, generate, generations, models, presets)
    routes = [route for module in modules for route in module.router.routes]
    found = {(route.path, *route.methods): readers(route.dependant) for route in routes}
    assert found["/chat/completions", "POST"] == found["/compare", "POST"] == 1
    assert max(found.values()) == 1


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
