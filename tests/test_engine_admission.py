"""What is let in: checked before it is queued, read and prepared once, and within the limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gated_engine
import pytest
from gated_engine import tokens

from server.engine.types import Change, Finish, Steering
from server.errors import BadRequest, Busy, TooLong, Unsteerable

gated = gated_engine.gated  # fixture


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
