"""While replies run: cancelling, steering live, and everything that can go wrong beside them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from server.engine.conditions import Condition, Crossing
from server.engine.engine import SlotEngine
from server.engine.passes import Passes
from server.engine.runner import Runner
from server.engine.stream import Stream, deliver
from server.engine.types import Change, Delta, Failure, Finish, FinishReason, Steering, Token
from server.errors import (
    BadRequest,
    Busy,
    EngineDead,
    TooLong,
    UnknownGeneration,
    Unsteerable,
)

LONG = "A prompt of some length, to be computed in several chunks."


class Gate:
    """Lets the model run as many passes as it is told to."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.arrived = self.allowed = 0

    def hook(self, *_: Any) -> None:
        with self.changed:
            self.arrived += 1
            self.changed.notify_all()
            own = self.arrived
            assert self.changed.wait_for(lambda: self.allowed >= own, timeout=30)

    def open(self, passes: int = 100_000) -> None:
        with self.changed:
            self.allowed += passes
            self.changed.notify_all()

    async def reached(self) -> None:
        """The engine stands before a pass that is not allowed yet."""
        assert await asyncio.to_thread(self._reached)

    def _reached(self) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.arrived > self.allowed, timeout=30)


@pytest.fixture
def gated(make_engine: Callable[..., Any], make_model: Callable[..., Any]) -> Iterator[Any]:
    """An engine whose every forward pass waits for the gate."""
    gate = Gate()

    def make(**options: Any) -> tuple[SlotEngine, Gate]:
        model = make_model()
        engine = make_engine(model=model, **options)
        model.register_forward_pre_hook(gate.hook)
        return engine, gate

    yield make
    gate.open()


async def tokens(stream: Stream, count: int) -> list[Token]:
    """The next tokens of a stream."""
    found: list[Token] = []
    while len(found) < count:
        event = await anext(stream)
        assert isinstance(event, Delta), event
        found += event.tokens
    return found


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


async def test_a_row_that_raises_fails_alone(make_engine, make_model, ask, hear, tokenizer) -> None:
    model = make_model()
    engine = make_engine(model=model, chunk=64)
    good = [ask(max_tokens=9), ask("Another.", temperature=1.0, seed=3, max_tokens=9)]
    expected = [reply.ids for reply in await hear(engine, *good)]
    poison, late = tokenizer.encode("\x07")[0], len(LONG) + 5

    def poisoned(_module: Any, _args: Any, kwargs: Any) -> None:
        if (kwargs["input_ids"] == poison).any():
            raise RuntimeError("poison in the prompt")
        if (kwargs["position_ids"] == late).any():
            raise RuntimeError("poison on the way")

    model.register_forward_pre_hook(poisoned, with_kwargs=True)
    bad = [ask("\x07"), ask(LONG)]
    again = [replace(request, id=f"again-{i}") for i, request in enumerate(good)]
    replies = await hear(engine, bad[0], again[0], bad[1], again[1])
    assert [replies[1].ids, replies[3].ids] == expected
    assert replies[0].end == Failure("A step of this reply failed: poison in the prompt")
    assert replies[2].end == Failure("A step of this reply failed: poison on the way")
    assert len(replies[2].ids) == 6, "what came before stands"
    assert engine.stats().alive
    [after] = await hear(engine, replace(good[0], id="after"))
    assert after.ids == expected[0]


async def test_a_step_that_is_run_again_draws_the_same_numbers(
    make_engine, ask, hear, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ask(max_tokens=8, temperature=1.0, seed=seed) for seed in (1, 2)]
    expected = await hear(make_engine(), *requests)
    failed = []

    def readings(*_: Any) -> tuple[()]:
        failed.append(len(failed))
        if len(failed) == 5:  # after the tokens of that step were drawn
            raise RuntimeError("once")
        return ()

    monkeypatch.setattr(Passes, "_readings", readings)
    again = await hear(make_engine(), *(replace(one, id=f"again-{one.id}") for one in requests))
    assert len(failed) > 5
    assert [reply.ids for reply in again] == [reply.ids for reply in expected]


async def test_steering_beyond_all_numbers_fails_its_reply_and_leaves_a_clean_row(
    make_engine, ask, hear, steer
) -> None:
    engine = make_engine(max_rows=2)
    wild = steer(*((i, "add", 3.4e38) for i in range(8)))
    [fine] = await hear(engine, ask(max_tokens=6))
    replies = await hear(
        engine,
        ask(LONG, steering=wild, temperature=1.0),
        ask(max_tokens=6),
        ask(LONG, steering=wild),
        ask(max_tokens=6),
        ask(max_tokens=6),
    )
    assert all(isinstance(replies[i].end, Failure) for i in (0, 2))
    assert "Lower the strengths" in replies[0].end.message
    assert [replies[i].ids for i in (1, 3, 4)] == [fine.ids] * 3


@pytest.mark.parametrize("how", ["abort", "move"])
async def test_what_is_not_finite_harms_nobody_who_comes_to_the_row_after_it(
    how: str, gated, ask, hear, steer
) -> None:
    """Where no logits have shown it yet: an abort in the prompt, and a reply that moved there."""
    engine, gate = gated(max_rows=3, chunk=16)
    wild = steer(*((i, "add", 3.4e38) for i in range(8)))
    staying = engine.submit(ask(LONG * 4, max_tokens=120))
    going = engine.submit(ask(max_tokens=120))
    gate.open(20)
    await gate.reached()
    if how == "abort":
        always = Condition("tiny", 9, Crossing.BELOW, 1e9)
        bad = engine.submit(ask(LONG, steering=replace(wild, aborts=(always,))))
    else:
        bad = engine.submit(ask(LONG, steering=wild))
    gate.open(2)  # into its prompt, and not through it
    await gate.reached()
    if how == "move":
        going.cancel()
    gate.open()
    end = [event async for event in bad][-1]
    assert end.reason is FinishReason.ABORT if how == "abort" else isinstance(end, Failure)
    after = [engine.submit(ask("Short.", max_tokens=6)) for _ in range(2)]
    ends = [[event async for event in stream][-1] for stream in after]
    assert [type(end) for end in ends] == [Finish, Finish]
    for stream in (staying, going):
        stream.cancel()


async def test_a_change_of_the_whole_prompt_outlives_an_abort_that_it_took_away(
    gated, ask, hear
) -> None:
    engine, gate = gated(chunk=16)
    always = Condition("tiny", 9, Crossing.BELOW, 1e9)
    stream = engine.submit(ask(LONG, id="mine", steering=Steering(aborts=(always,)), max_tokens=4))
    await gate.reached()  # in the first chunk of four
    assert engine.steer("mine", Steering()) == 0
    gate.open()
    end = [event async for event in stream][-1]
    assert end.reason is FinishReason.LENGTH
    assert end.timeline == (Change(0, Steering()),)


async def test_who_takes_a_prompt_over_says_what_it_was_computed_with(
    gated, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = "eager"
    monkeypatch.setattr(Runner, "arithmetic", property(lambda _: now))
    engine, gate = gated()
    requests = [ask(max_tokens=2) for _ in range(2)]
    streams = engine.submit_all(requests)
    gate.open(1)  # the prompt, for both
    await gate.reached()
    now = "compiled"
    gate.open()
    ends = [[event async for event in stream][-1] for stream in streams]
    assert [end.arithmetic for end in ends] == [("eager", "compiled")] * 2


async def test_what_check_has_prepared_is_not_prepared_again(
    make_engine, ask, hear, steer, monkeypatch
) -> None:
    engine = make_engine()
    changes = tuple(Change(i, steer((3, "add", float(i)))) for i in range(1, 100))
    request = ask(changes=changes, max_tokens=3)
    engine.check(request)

    def again(*_: Any) -> None:
        raise AssertionError("on the event loop")

    monkeypatch.setattr(engine._admission, "_turns", again)
    [reply] = await hear(engine, request)
    assert len(reply.ids) == 3
    with pytest.raises(AssertionError):
        engine.submit(request)  # kept for one submit, not for ever


async def test_replies_to_one_request_hold_the_rows_of_its_changes_once(
    make_engine, ask, hear, steer
) -> None:
    engine = make_engine()
    changes = tuple(Change(i, steer((3, "add", float(i)))) for i in range(1, 100))
    first = ask(changes=changes, steering=steer((3, "add", 0.5)), max_tokens=4)
    second, other = replace(first, id="second"), replace(first, id="other", changes=changes[1:])
    for request in (first, second, other):
        engine.check(request)
    mine, same, own = ([*turns] for _, turns in engine._admission._checked.values())
    assert all(a.prepared is b.prepared for a, b in zip(mine, same, strict=True))
    assert len(own) == 3, "its own, up to the last that can come"
    replies = await hear(engine, first, second, other)
    assert [len(reply.end.timeline) for reply in replies] == [4, 4, 3]


async def test_a_full_queue_refuses_and_takes_again_once_there_is_room(gated, ask, hear) -> None:
    engine, gate = gated(max_rows=1, max_waiting=2)
    streams = [engine.submit(ask(max_tokens=2)) for _ in range(3)]
    with pytest.raises(Busy, match="All 1 rows are taken and 2 more"):
        engine.submit(ask())
    gate.open()
    for stream in streams:
        assert len(await tokens(stream, 2)) == 2
        assert isinstance(await anext(stream), Finish)
    [reply] = await hear(engine, ask())
    assert isinstance(reply.end, Finish)


async def test_what_cannot_be_done_is_refused_before_it_is_queued(
    gated, ask, steer, dictionary
) -> None:
    engine, _ = gated(max_context=40, max_edits=2)
    many = steer((1, "add", 1.0), (2, "add", 1.0), (3, "add", 1.0))
    refused: list[tuple[Any, type[Exception], str]] = [
        (
            ask("x" * 30, max_tokens=11),
            TooLong,
            "30 tokens and 11 more .* 41 in all.* length is 40",
        ),
        (ask(""), BadRequest, "0 prompt tokens"),
        (ask(max_tokens=0), BadRequest, "0 to generate"),
        (replace(ask(), prompt=(1, 999), steerable=(True,) * 2), BadRequest, "0 to 258"),
        (replace(ask(), steerable=(True,)), BadRequest, "18 prompt tokens have 1 flags"),
        (ask(steering=many), Unsteerable, "3 edits came; one reply may have 2"),
        (ask(steering=steer((64, "add", 1.0))), Unsteerable, "features 0 to 63"),
        (ask(steering=steer((-1, "add", 1.0))), Unsteerable, "features 0 to 63"),
        (
            ask(steering=steer((1, "add", 1.0, "all", "other"))),
            Unsteerable,
            "'other' is not loaded; loaded: tiny",
        ),
        (ask(steering=steer((1, "add", float("nan")))), Unsteerable, "not finite"),
        (ask(steering=steer((1, "clamp", float("inf")))), Unsteerable, "not finite"),
        (
            ask(steering=steer((1, "add", 1.0), (1, "clamp", 1.0, "prompt"))),
            Unsteerable,
            "tiny/1 is edited twice",
        ),
        (ask(changes=(Change(3, Steering()), Change(3, Steering()))), BadRequest, "ascending"),
        (ask(changes=(Change(-1, Steering()),)), BadRequest, "ascending"),
        (ask(changes=(Change(3, many),)), Unsteerable, "3 edits came"),
    ]
    for request, error, words in refused:
        for call in (engine.check, engine.submit):
            with pytest.raises(error, match=words):
                call(request)
    apart = steer((1, "add", 1.0, "generated"), (1, "clamp", 1.0, "prompt"))
    engine.check(ask(max_tokens=22, steering=apart))
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.alive) == (0, 0, True)


async def test_a_dictionary_that_cannot_be_read_can_only_be_added_from(
    make_engine, make_dictionary, ask, hear, steer
) -> None:
    unreadable = make_dictionary(architecture="abstopk")
    assert not unreadable.info.reads_exactly
    engine = make_engine(dictionaries=(unreadable,))
    for op in ("clamp", "scale", "ablate", "at_least", "at_most"):
        with pytest.raises(Unsteerable, match=rf"'{op}' needs the activation .*abstopk.* Use"):
            engine.submit(ask(steering=steer((1, op, 2.0))))
    added, plain = await hear(engine, ask(steering=steer((1, "add", 9.0)), trace=True), ask())
    assert added.ids != plain.ids
    assert not any(token.readings for token in added.tokens), "nothing is shown that is not known"


async def test_two_generations_cannot_share_an_id_until_the_first_has_ended(gated, ask) -> None:
    engine, gate = gated()
    first = engine.submit(ask(id="same"))
    with pytest.raises(BadRequest, match="'same' is already under way"):
        engine.submit(ask(id="same"))
    gate.open()
    await tokens(first, 12)
    assert isinstance(await anext(first), Finish)
    engine.submit(ask(id="same"))


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


def test_a_timeline_reads_what_can_come_of_it_and_all_of_that_at_once(
    make_engine, make_dictionary, ask, steer, monkeypatch
) -> None:
    own = make_dictionary("long")
    engine = make_engine(dictionaries=(own,))
    plain, read = type(own.weights).rows, []

    def rows(weights: Any, ids: Any) -> Any:
        read.append(ids)
        return plain(weights, ids)

    monkeypatch.setattr(type(own.weights), "rows", rows)

    def edit(feature: int) -> Steering:
        steering = steer((feature, "add", 1.0))
        return Steering(tuple(replace(e, dictionary="long") for e in steering.edits))

    changes = tuple(Change(at, edit(at)) for at in range(1, 60))
    short = ask(steering=edit(0), changes=changes, max_tokens=4)
    engine.check(short)
    assert read == [[0, 1, 2, 3]]
    longer = replace(short, sampling=replace(short.sampling, max_tokens=60))
    engine.check(longer)  # another prompt of the same request may leave more room
    assert read[1:] == [list(range(4, 60))]
    assert len(engine._admission.ready(longer)) == 60
    with pytest.raises(Unsteerable, match="There is no feature 64"):
        engine.check(replace(short, changes=(*changes, Change(60, edit(64)))))


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


async def test_traced_tokens_carry_what_each_edit_saw(make_engine, ask, hear, steer) -> None:
    steering = steer((3, "clamp", 6.0), (9, "add", 1.0, "generated"))
    traced, plain = await hear(
        make_engine(), ask(steering=steering, trace=True), ask(steering=steering)
    )
    assert traced.ids == plain.ids
    assert not any(token.readings for token in plain.tokens)
    for i, token in enumerate(traced.tokens):
        clamp, add = token.readings
        assert (clamp.dictionary, clamp.feature, clamp.after) == ("tiny", 3, 6.0)
        assert add.after == pytest.approx(add.before + (1.0 if i else 0.0), abs=1e-5)
