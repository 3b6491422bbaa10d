"""While replies run: they are cancelled and steered live, and a replay gives the same."""

from __future__ import annotations

from dataclasses import replace

import gated_engine
import pytest
from gated_engine import LONG, tokens

from server.engine.types import Change, Delta, Finish, FinishReason, Steering, Token
from server.errors import UnknownGeneration, Unsteerable

gated = gated_engine.gated  # fixture


def alike(a: Token, b: Token) -> bool:
    """The same token, as likely: two edits may well bring about the same one, but not as surely."""
    assert a.logprob is not None
    assert b.logprob is not None
    return a.id == b.id and abs(a.logprob - b.logprob) < 1e-3


async def test_a_cancelled_reply_ends_before_the_next_step_and_frees_its_row(
    gated, ask, hear
) -> None:
    engine, gate = gated(max_rows=2)
    going, staying = engine.submit(ask(max_tokens=200)), engine.submit(ask(LONG, max_tokens=8))
    gate.open(3)
    first = [token.id for token in await tokens(going, 3)]
    await gate.reached()
    going.cancel()
    going.cancel()
    gate.open(1)  # the step that was under way still gives its token
    rest = [event async for event in going]
    assert sum(isinstance(event, Delta) for event in rest) == 1
    end = rest[-1]
    assert isinstance(end, Finish)
    assert end.reason is FinishReason.CANCELLED
    assert end.completion_tokens == 4
    await gate.reached()
    assert engine.stats().running == 1
    gate.open()
    kept = [token async for event in staying if isinstance(event, Delta) for token in event.tokens]
    alone, whole = await hear(engine, ask(LONG, max_tokens=8), ask(max_tokens=4))
    assert [token.id for token in kept] == alone.ids
    assert first == whole.ids[:3]


async def test_waiting_replies_can_be_cancelled_and_dropped(gated, ask) -> None:
    engine, gate = gated(max_rows=1)
    running, waiting, dropped = (engine.submit(ask(id=name)) for name in "abc")
    await gate.reached()
    waiting.cancel()
    engine.drop("c")
    gate.open()
    for stream in (waiting, dropped):
        [end] = [event async for event in stream]
        assert end == Finish(FinishReason.CANCELLED, len(ask().prompt), 0, 0, ())
    events = [event async for event in running]
    assert events[-1].reason is FinishReason.LENGTH
    with pytest.raises(UnknownGeneration, match="'a' is under way"):
        engine.drop("a")
    running.cancel()  # too late, and harmless


async def test_the_next_token_obeys_a_live_change_and_a_replay_gives_the_same(
    gated, ask, hear, steer, make_engine
) -> None:
    engine, gate = gated(chunk=16)
    beside = engine.submit(ask(LONG, max_tokens=30))
    first = steer((9, "add", 1.0))
    told = {"logprobs": 1, "max_tokens": 20}
    stream = engine.submit(ask(LONG, id="live", steering=first, **told))
    gate.open(11)  # eight passes over the prompts of both, then some tokens
    before = await tokens(stream, 2)
    await gate.reached()
    new = steer((3, "clamp", 9.0), (5, "add", 3.0, "generated"))
    at = engine.steer("live", new)
    gate.open(3)
    await gate.reached()
    newer = Steering()
    later = engine.steer("live", newer)
    gate.open()
    rest = [event async for event in stream]
    heard = before + [token for event in rest[:-1] for token in event.tokens]
    ids, end = [token.id for token in heard], rest[-1]
    timeline = (Change(0, first), Change(at, new), Change(later, newer))
    assert end.timeline == timeline
    assert 2 <= at < later < 20
    plain, replayed, delayed = await hear(
        engine,
        ask(LONG, steering=first, **told),
        ask(LONG, steering=first, changes=timeline[1:], **told),
        ask(LONG, steering=first, changes=(replace(timeline[1], at=at + 1),), **told),
    )
    assert ids[:at] == plain.ids[:at]
    assert not alike(heard[at], plain.tokens[at]), "the change must show at once"
    assert not alike(heard[at], delayed.tokens[at]), "and not a token later"
    assert alike(heard[at], replayed.tokens[at])
    assert replayed.ids == ids
    assert replayed.end == end
    [alone] = await hear(engine, ask(LONG, max_tokens=30))
    assert [t.id async for e in beside if isinstance(e, Delta) for t in e.tokens] == alone.ids


async def test_steering_before_the_first_token_holds_from_the_start_of_the_prompt(
    gated, ask, hear, steer
) -> None:
    engine, gate = gated(chunk=16, max_rows=1)
    half = engine.submit(ask(LONG, id="half", steering=steer((9, "add", 1.0))))
    waiting = engine.submit(ask(LONG, id="waiting"))
    gate.open(2)
    await gate.reached()
    new = steer((3, "clamp", 9.0))
    assert engine.steer("half", new) == engine.steer("waiting", new) == 0
    gate.open()
    ends = []
    for stream in (half, waiting):
        events = [event async for event in stream]
        ends.append(([t.id for e in events[:-1] for t in e.tokens], events[-1]))
    [alone] = await hear(engine, ask(LONG, steering=new))
    assert ends == [(alone.ids, alone.end)] * 2


async def test_a_live_change_that_is_refused_changes_nothing(gated, ask, hear, steer) -> None:
    engine, gate = gated()
    stream = engine.submit(ask(id="steady"))
    await gate.reached()
    with pytest.raises(Unsteerable, match="features 0 to 63"):
        engine.steer("steady", steer((64, "add", 1.0)))
    with pytest.raises(UnknownGeneration, match="'nobody'"):
        engine.steer("nobody", Steering())
    gate.open()
    ids = [token.id for token in await tokens(stream, 12)]
    [alone] = await hear(engine, ask())
    assert ids == alone.ids
