"""What fails while replies are made: a step, the engine, the whole server as it closes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import api_gate
import pytest
from api_gate import LONG, Gate, idle, until

gate, narrow, open_again = api_gate.gate, api_gate.narrow, api_gate.open_again  # fixtures


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
