"""Replies that end early: deleted, or their reader hung up or stalled."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import api_gate
import httpx2
import pytest
from api_gate import FOG, HUNG_UP, LONG, counts, idle, metric, receipt_of, text_of, until

from server.stream import Streamed

gate, narrow, open_again = api_gate.gate, api_gate.narrow, api_gate.open_again  # fixtures

# What a hang-up adds to the metrics.
COUNTED = {
    HUNG_UP: 1,
    'steerdeck_cancelled_total{by="asked"}': 0,
    'steerdeck_replies_total{reason="cancelled"}': 1,
    "steerdeck_prompt_tokens_total": 25,  # the template's, and hello
}


def test_deleting_a_generation_ends_its_stream_with_what_it_has(narrow, gate):
    gate.allow(4)
    with narrow.open(**LONG, steering={"id": "mine", "edits": [FOG]}) as events:
        arrived = iter(events)
        seen = [narrow.parsed(next(arrived)) for _ in range(3)]
        assert seen[0]["id"] == "mine"
        deleted = narrow.http.delete("/v1/generations/mine")
        gate.allow(None)
        seen += [narrow.parsed(event) for event in arrived]
    assert deleted.json() == {"id": "mine", "object": "generation", "deleted": True}
    assert seen[-1] == "[DONE]"
    assert seen[-2]["choices"][0]["finish_reason"] == "cancelled"
    replay = receipt_of(seen)["replay"]
    assert replay["max_completion_tokens"] < 20
    again = narrow.stream(**replay)
    assert text_of(again) == text_of(seen)


def test_a_reply_that_ended_before_its_first_token_has_nothing_to_replay(narrow, gate):
    gate.allow(1)
    with narrow.open(**LONG), ThreadPoolExecutor(1) as pool:
        until(lambda: counts(narrow) == (1, 0))
        waiting = pool.submit(narrow.stream, **LONG, steering={"id": "none"})
        until(lambda: counts(narrow) == (1, 1))
        narrow.http.delete("/v1/generations/none")
        gate.allow(None)
        receipt = receipt_of(waiting.result())
    assert receipt["replay"] is None
    assert receipt["arithmetic"] == "none"


def test_hanging_up_frees_the_slot_at_once(narrow, gate):
    before = {name: metric(narrow, name) for name in COUNTED}
    gate.allow(3)
    with httpx2.Client(base_url=narrow.url) as client:
        body = narrow.body(**LONG | {"max_tokens": 400}, stream=True)
        with client.sse("/v1/chat/completions", method="POST", json=body) as events:
            next(iter(events))
    until(lambda: metric(narrow, HUNG_UP) > before[HUNG_UP])
    gate.allow(1)  # the step that was under way
    until(lambda: idle(narrow))
    until(lambda: {name: metric(narrow, name) - before[name] for name in COUNTED} == COUNTED)


def test_hanging_up_on_a_reply_in_one_piece_frees_the_slot_too(narrow, gate):
    before = {name: metric(narrow, name) for name in COUNTED}
    gate.allow(3)
    with (
        httpx2.Client(base_url=narrow.url, timeout=0.3) as client,
        pytest.raises(httpx2.ReadTimeout),
    ):
        client.post("/v1/chat/completions", json=narrow.body(**LONG | {"max_tokens": 400}))
    until(lambda: metric(narrow, HUNG_UP) > before[HUNG_UP])
    gate.allow(1)
    until(lambda: idle(narrow))
    until(lambda: {name: metric(narrow, name) - before[name] for name in COUNTED} == COUNTED)


async def test_a_reader_that_stalls_is_let_go_without_a_traceback(caplog):
    left = []

    async def events():
        try:
            while True:
                yield {"data": "x"}
        finally:
            left.append(True)

    async def stalled(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    response = Streamed(events(), send_timeout=0.05)
    with caplog.at_level(logging.INFO):
        await response({"type": "http", "method": "POST"}, asyncio.Event().wait, stalled)
    assert left
    told = [r for r in caplog.records if r.levelno >= logging.INFO]
    assert [(r.levelname, r.exc_info) for r in told] == [("INFO", None)]
