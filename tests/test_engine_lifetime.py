"""An engine that dies, is closed or was not started says so; streams whose reader is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import gated_engine
import pytest

from server.engine.engine import SlotEngine
from server.engine.stream import Stream, deliver
from server.engine.types import Failure, Steering
from server.errors import EngineDead, UnknownGeneration

gated = gated_engine.gated  # fixture


async def test_an_engine_that_dies_says_so_to_everybody(gated, ask, monkeypatch, caplog) -> None:
    engine, gate = gated(max_rows=1)
    streams = [engine.submit(ask()) for _ in range(3)]
    await gate.reached()

    def broken(*_: Any) -> None:
        raise RuntimeError("the books do not balance")

    monkeypatch.setattr(engine._steps, "settle", broken)
    gate.open()
    for stream in streams:
        [end] = [event async for event in stream]
        assert end == Failure("The engine stopped on RuntimeError: the books do not balance.")
    stats = engine.stats()
    assert (stats.alive, stats.running, stats.waiting) == (False, 0, 0)
    for call in (lambda: engine.submit(ask()), lambda: engine.steer("x", Steering())):
        with pytest.raises(EngineDead, match="the books do not balance; restart the server"):
            call()
    engine.close()


async def test_closing_ends_every_stream_and_can_be_repeated(gated, ask) -> None:
    engine, gate = gated(max_rows=1)
    streams = [engine.submit(ask(max_tokens=100)) for _ in range(2)]
    await gate.reached()
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    for stream in streams:  # while the step is still under way, however long it may be
        assert [event async for event in stream] == [Failure("The engine was closed.")]
    assert not closing.done()
    gate.open()
    await closing
    engine.close()
    with pytest.raises(EngineDead, match="was closed"):
        engine.submit(ask())


async def test_an_engine_that_was_not_started_refuses(make_model, tokenizer, ask) -> None:
    engine = SlotEngine(make_model(), tokenizer, {})
    assert not engine.stats().alive
    with pytest.raises(EngineDead, match="was not started"):
        engine.submit(ask())
    engine.close()


async def test_readers_whose_loop_is_gone_are_dropped_and_the_others_served(
    gated, ask, hear
) -> None:
    engine, gate = gated()

    async def leave_it() -> None:
        engine.submit(ask(id="orphan", max_tokens=100))
        await gate.reached()

    await asyncio.to_thread(asyncio.run, leave_it())
    gate.open()
    [reply] = await hear(engine, ask(max_tokens=20))
    assert len(reply.ids) == 20
    with pytest.raises(UnknownGeneration):
        engine.drop("orphan")


async def test_events_of_a_step_wake_a_loop_once() -> None:
    loop = asyncio.get_running_loop()
    calls = []
    plain = loop.call_soon_threadsafe
    loop.call_soon_threadsafe = lambda *a: (calls.append(a), plain(*a))[1]  # type: ignore
    streams = [Stream(str(i), lambda: None) for i in range(5)]
    deliver([(stream, Failure(stream.id)) for stream in streams])
    assert [await anext(stream) for stream in streams] == [Failure(str(i)) for i in range(5)]
    assert len(calls) == 1
