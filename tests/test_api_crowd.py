"""Many callers at once: room, queue, threads, and each one's own reply."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import anyio
import api_gate
import pytest
from api_gate import HUNG_UP, LONG, counts, idle, metric, until
from api_talk import asgi

from dictionaries import fired
from dictionaries.dictionary import Dictionary
from server.app import create_app
from server.completions import Writer
from server.deck import Deck
from server.errors import Busy
from server.routes.common import LOOK_UPS, SCANS
from server.service import Service
from server.settings import Settings

gate, narrow, open_again = api_gate.gate, api_gate.narrow, api_gate.open_again  # fixtures


def test_a_full_queue_is_429_before_any_stream(narrow, gate):
    gate.allow(0)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(narrow.stream, **LONG) for _ in range(2)]
        until(lambda: counts(narrow) == (1, 1))
        for stream in (False, True):
            refused = narrow.http.post("/v1/chat/completions", json=narrow.body(stream=stream))
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "queue_full"
        assert len(narrow.service.jobs) == 2
        gate.allow(None)
        assert all(job.result()[-1] == "[DONE]" for job in waiting)


def test_n_replies_get_room_together_or_not_at_all(narrow, gate):
    before = metric(narrow, HUNG_UP)
    gate.allow(2)
    body = narrow.body(n=3, **LONG | {"max_tokens": 400})
    refused = narrow.http.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400
    assert "needs 3 rows, and this server has 1" in refused.json()["error"]["message"]
    with narrow.open(**LONG):
        until(lambda: counts(narrow) == (1, 0))
        refused = narrow.http.post("/v1/chat/completions", json={**body, "n": 2})
        assert refused.status_code == 429
    until(lambda: metric(narrow, HUNG_UP) > before)
    gate.allow(1)  # far fewer steps than two of them would take
    until(lambda: idle(narrow))


def test_many_readers_each_get_their_own_reply_whole(live):
    """Six at once on four rows, steered differently: the same bytes as alone."""
    bodies = [
        {"steering": {"edits": [{"feature": i, "op": "add", "strength": 3.0, "unit": "raw"}]}}
        for i in range(6)
    ]
    alone = [live.chat(**LONG, **body) for body in bodies]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda body: live.chat(**LONG, **body), bodies))
    for one, other in zip(alone, together, strict=True):
        assert one["choices"] == other["choices"]
    assert len({one["choices"][0]["message"]["content"] for one in alone}) > 4


def test_others_are_served_while_a_long_reply_is_put_together(live, monkeypatch):
    begun, go, plain = threading.Event(), threading.Event(), Writer.whole

    def slow(writer):
        begun.set()
        assert go.wait(20)
        return plain(writer)

    monkeypatch.setattr(Writer, "whole", slow)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(live.chat)
        try:
            assert begun.wait(20)
            assert live.http.get("/healthz", timeout=10).status_code == 200
        finally:
            go.set()
        assert reply.result()["choices"]


async def test_nobody_waits_for_the_threads_of_slow_look_ups(live):
    """A prober would start the server anew, and nobody could stop a reply."""
    service = Service("tiny", lambda report: live.service.deck)
    await service.load()
    threads, go = anyio.to_thread.current_default_thread_limiter(), threading.Event()
    async with (
        asyncio.timeout(10),
        asgi(create_app(service, Settings(ui=False))) as client,
        anyio.create_task_group() as slow,
    ):
        try:
            for _ in range(int(threads.total_tokens)):
                slow.start_soon(anyio.to_thread.run_sync, go.wait)
            while threads.available_tokens:
                await asyncio.sleep(0.01)
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.get("/metrics")).status_code == 200
            assert (await client.get("/v1/models")).status_code == 200
            assert (await client.delete("/v1/generations/none")).status_code == 404
        finally:
            go.set()


async def test_few_look_ups_run_at_a_time_and_none_waits_for_a_scan(live, monkeypatch):
    """All of them at once would leave the engine's thread hardly a turn."""
    service = Service("tiny", lambda report: live.service.deck)
    await service.load()
    shown, inside, most, go = Deck.shown, Counter(), Counter(), threading.Event()

    def held(kind, wait):
        inside[kind] += 1
        most[kind] = max(most[kind], inside[kind])
        wait()
        inside[kind] -= 1

    def slowly(deck, names):
        if names:
            held("look-up", lambda: time.sleep(0.05))
        return shown(deck, names)

    def scanned(*_):
        held("scan", lambda: go.wait(5))
        return []

    monkeypatch.setattr(Deck, "shown", slowly)
    monkeypatch.setattr(Dictionary, "neighbours", scanned)
    async with asgi(create_app(service, Settings(ui=False))) as client, asyncio.timeout(10):
        scans = [asyncio.create_task(client.get("/v1/features/60/neighbors")) for _ in range(4)]
        paths = ["/v1/features?limit=1", "/v1/features/9"] * 4
        found = await asyncio.gather(*map(client.get, paths))
        assert inside["scan"] == 1
        go.set()
        found += await asyncio.gather(*scans)
    assert {answer.status_code for answer in found} == {200}
    assert most == {"look-up": LOOK_UPS, "scan": SCANS}


async def test_texts_are_encoded_one_after_another_without_a_thread_each(live, monkeypatch):
    service = Service("tiny", lambda report: live.service.deck)
    await service.load()
    inside, most, whole = Counter(), Counter(), fired.fired

    def slowly(*asked):
        inside["now"] += 1
        most["now"] = max(most["now"], inside["now"])
        time.sleep(0.05)
        inside["now"] -= 1
        return whole(*asked)

    monkeypatch.setattr("server.reading.fired", slowly)
    async with asgi(create_app(service, Settings(ui=False))) as client, asyncio.timeout(20):
        body = {"text": "hello there"}
        posts = [client.post("/v1/features/activations", json=body) for _ in range(4)]
        found = await asyncio.gather(*posts)
    assert {answer.status_code for answer in found} == {200}
    assert most["now"] == SCANS


async def test_one_too_many_to_be_prepared_is_refused_and_the_next_is_not(live):
    """All wait for one thread: more than there are places for would only wait to be refused."""
    service = Service("tiny", lambda report: live.service.deck)
    await service.load()
    go, places = threading.Event(), 4 + 3
    waiting = [asyncio.create_task(service.prepare(lambda _: go.wait(10))) for _ in range(places)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await service.prepare(lambda _: None)
    go.set()
    await asyncio.gather(*waiting, return_exceptions=True)  # none of them has made an Ask
    with pytest.raises(AttributeError):
        await service.prepare(lambda _: None)
