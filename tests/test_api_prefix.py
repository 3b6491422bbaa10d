"""What a caller is told of prompts that were not computed again, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest

FOG = {"edits": [{"feature": "fog", "op": "clamp", "strength": 4.0}]}
SAID = (
    "Tell me of the fog that comes in over the bay in the morning, "
    "and of the ships that wait for it to lift again."
)


@pytest.fixture(scope="module")
def caching(make_deck, serve, tmp_path_factory) -> Any:
    return serve(make_deck(tmp_path_factory.mktemp("data"), max_rows=4, prefix_cache=2**22))


def value(live: Any, name: str) -> float:
    [line] = [line for line in live.http.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(line.split()[-1])


def cached(reply: Any) -> int:
    return reply["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_usage_metrics_and_capabilities_tell_of_it_and_the_reply_does_not(caching, live):
    asked = {"steering": FOG | {"id": "told"}, "temperature": 1.0, "seed": 3, "logprobs": False}
    first, second = caching.chat(SAID, **asked), caching.chat(SAID, **asked)
    tokens = first["usage"]["prompt_tokens"]
    known = min(tokens // 16 * 16, tokens - 1)
    assert second["usage"]["prompt_tokens"] == tokens > 100
    assert (cached(first), cached(second)) == (0, known)
    plain = live.chat(SAID, **asked)
    assert cached(plain) == 0
    for told in (first, second, plain):
        del told["created"], told["usage"]
    assert first == second == plain
    other = caching.stream(SAID, stream_options={"include_usage": True})[-2]
    assert cached(other) < 32, "only what the template begins with"
    assert value(caching, "steerdeck_cached_prompt_tokens_total") == known + cached(other)
    assert value(caching, "steerdeck_prefix_cache_tokens") >= known
    told = caching.http.get("/v1/capabilities").json()["prefix_cache"]
    assert told == {"bytes": 682 * 16 * 384, "tokens": 682 * 16}, "384 bytes a position"
    assert live.http.get("/v1/capabilities").json()["prefix_cache"] == {"bytes": 0, "tokens": 0}


def test_each_prompt_of_a_request_counts_what_its_first_reply_took(caching):
    prompts = [SAID[3:], SAID[7:]]
    body = {"prompt": prompts, "n": 2, "max_tokens": 2, "temperature": 1.0, "seed": 1}
    first, second = (caching.http.post("/v1/completions", json=body).json() for _ in range(2))
    assert cached(first) == 0
    assert cached(second) == sum(len(prompt) // 16 * 16 for prompt in prompts)
    assert [c["text"] for c in first["choices"]] == [c["text"] for c in second["choices"]]
