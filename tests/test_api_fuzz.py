"""Whatever a machine can think of: no body and no query makes the server fail."""

from __future__ import annotations

import json
import string

from api_talk import USER
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
