"""The coherence guard in replies: what follows an alarm, and that a replay is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from server.engine import engine as engines
from server.engine.guard import Guard, Mode, Signal
from server.engine.mount import Mount
from server.engine.types import Change, Delta, Finish, FinishReason, Steering
from server.errors import BadRequest

TEXT = "The bridge is red."
NEVER = Guard(Mode.WARN, repetition=None, low=None)  # watches, and finds nothing
LOUD = 60.0


@pytest.fixture
def loud(steer: Callable[..., Steering]) -> Steering:
    """Strong enough that the tiny model says the same thing over and over."""
    return steer((3, "add", LOUD), (9, "ablate", 0.0))


async def test_back_off_is_a_live_change_that_replays_without_a_guard(
    make_engine, ask, hear, loud
) -> None:
    engine = make_engine(chunk=5)
    guard = Guard(Mode.BACK_OFF, low=None, window=6, factor=0.5)
    request = replace(ask(TEXT, steering=loud, max_tokens=48), guard=guard)
    [reply, beside] = await hear(engine, request, ask(TEXT, max_tokens=48))
    steps = [alarm for alarm in reply.end.alarms if alarm.action is Mode.BACK_OFF]
    assert len(steps) >= 2
    assert [alarm.left for alarm in steps] == [0.5 ** (i + 1) for i in range(len(steps))]
    assert [alarm for delta in reply.deltas for alarm in delta.alarms] == list(reply.end.alarms)
    assert [change.at for change in reply.end.timeline] == [0, *(alarm.at + 1 for alarm in steps)]
    for change, alarm in zip(reply.end.timeline[1:], steps, strict=True):
        assert [e.strength for e in change.steering.edits] == [LOUD * alarm.left, 0.0]
    changes = reply.end.timeline[1:]
    again, _ = await hear(
        engine,
        ask(TEXT, steering=loud, changes=changes, max_tokens=len(reply.ids)),
        ask("another", max_tokens=9),
    )
    assert again.ids == reply.ids
    assert again.end.timeline == reply.end.timeline
    assert beside.ids == (await hear(engine, ask(TEXT, max_tokens=48)))[0].ids


async def test_warn_only_tells_and_stop_ends(make_engine, ask, hear, loud) -> None:
    engine = make_engine()
    request = ask(TEXT, steering=loud, max_tokens=40)
    guard = Guard(Mode.WARN, low=None, window=6)
    [plain] = await hear(engine, request)
    [told] = await hear(engine, replace(request, id="told", guard=guard))
    assert told.ids == plain.ids
    assert [alarm.action for alarm in told.end.alarms]
    assert {alarm.left for alarm in told.end.alarms} == {1.0}
    [ended] = await hear(engine, replace(request, id="ended", guard=replace(guard, mode=Mode.STOP)))
    [alarm] = ended.end.alarms
    assert alarm == replace(told.end.alarms[0], action=Mode.STOP)
    assert ended.end.reason is FinishReason.GUARD
    assert ended.ids == plain.ids[: alarm.at + 1]
    assert engine.stats().running == 0


async def test_where_nothing_is_left_to_lower_the_reply_ends(make_engine, ask, hear, steer) -> None:
    """Alarms that strengths have nothing to do with: any entropy is too high here."""
    guard = Guard(Mode.BACK_OFF, repetition=None, high=1e-9, low=None, window=4, factor=0.5)
    engine = make_engine()
    request = ask(TEXT, steering=steer((3, "add", 1.0)), max_tokens=60)
    [reply] = await hear(engine, replace(request, guard=guard))
    assert [a.left for a in reply.end.alarms] == [0.5, 0.25, 0.125, 0.0625, 0.0, 0.0]
    assert reply.end.alarms[-1].action is Mode.STOP
    assert reply.end.reason is FinishReason.GUARD
    assert reply.end.timeline[-1].steering.edits == ()


async def test_changes_from_outside_begin_anew_and_stay_scheduled(
    make_engine, ask, hear, steer
) -> None:
    guard = Guard(Mode.BACK_OFF, repetition=None, high=1e-9, low=None, window=4, factor=0.5)
    change = Change(7, steer((5, "add", 2.0)))
    request = ask(TEXT, steering=steer((3, "add", 1.0)), changes=(change,), max_tokens=13)
    [reply] = await hear(make_engine(), replace(request, guard=guard))
    told = [
        (change.at, [(e.feature, e.strength) for e in change.steering.edits])
        for change in reply.end.timeline
    ]
    assert told == [
        (0, [(3, 1.0)]), (4, [(3, 0.5)]), (7, [(5, 2.0)]), (8, [(5, 1.0)]), (12, [(5, 0.5)])
    ]  # fmt: skip


async def test_a_step_back_that_another_change_overtakes_is_only_a_warning(
    make_engine, ask, hear, steer
) -> None:
    guard = Guard(Mode.BACK_OFF, repetition=None, high=1e-9, low=None, window=4, factor=0.5)
    change = Change(4, steer((3, "add", 0.5)))  # what the guard itself would go down to
    request = ask(TEXT, steering=steer((3, "add", 1.0)), changes=(change,), max_tokens=9)
    [reply] = await hear(make_engine(), replace(request, guard=guard))
    assert [(a.at, a.action, a.left) for a in reply.end.alarms] == [
        (3, Mode.WARN, 1.0), (7, Mode.BACK_OFF, 0.5)
    ]  # fmt: skip
    assert [c.steering.edits[0].strength for c in reply.end.timeline] == [1.0, 0.5, 0.25]


async def test_an_alarm_on_the_token_that_ends_a_reply_by_itself_is_only_told(
    make_engine, ask, hear, steer
) -> None:
    guard = Guard(Mode.WARN, repetition=None, high=1e-9, low=None, window=4)
    request = ask(TEXT, steering=steer((3, "add", 1.0)), max_tokens=guard.window)
    guarded = [replace(request, id=mode, guard=replace(guard, mode=mode)) for mode in Mode]
    for reply in await hear(make_engine(), *guarded):
        [alarm] = reply.deltas[-1].alarms
        assert reply.end.alarms == (alarm,)
        assert (alarm.at, alarm.action, alarm.left) == (3, Mode.WARN, 1.0)
        assert reply.end.reason is FinishReason.LENGTH
        assert len(reply.end.timeline) == 1


async def test_a_step_back_that_a_live_change_overtakes_is_a_warning_in_the_end(
    make_engine, ask, hear, steer, monkeypatch
) -> None:
    """Its chunk was sent: the change comes between two steps, to what the guard goes down to."""
    guard = Guard(Mode.BACK_OFF, repetition=None, high=1e-9, low=None, window=4, factor=0.5)
    request = ask(TEXT, steering=steer((3, "add", 1.0)), max_tokens=9)
    engine, own, held = make_engine(), engines.deliver, []

    def deliver(posts: Any) -> None:
        if not held and any(isinstance(e, Delta) and e.alarms for _, e in posts):
            held.append(engine.steer(request.id, steer((3, "add", 0.5))))
        own(posts)

    monkeypatch.setattr(engines, "deliver", deliver)
    [reply] = await hear(engine, replace(request, guard=guard))
    assert held == [4]
    [sent, _] = [alarm for delta in reply.deltas for alarm in delta.alarms]
    assert sent.action is Mode.BACK_OFF
    assert [(a.at, a.action, a.left) for a in reply.end.alarms] == [
        (3, Mode.WARN, 1.0), (7, Mode.BACK_OFF, 0.5)
    ]  # fmt: skip
    assert [c.steering.edits[0].strength for c in reply.end.timeline] == [1.0, 0.5, 0.25]


async def test_a_step_back_reads_nothing(make_engine, ask, hear, loud, monkeypatch) -> None:
    """The step that it is in would wait for a disk, and everybody with it."""
    engine = make_engine()
    guard = Guard(Mode.BACK_OFF)
    request = replace(ask(TEXT, steering=loud, max_tokens=48), guard=guard)
    engine.check(request)  # its own rows

    def unread(*_: Any) -> None:
        raise AssertionError("rows are read in a step")

    for read in ("prepare", "watched"):
        monkeypatch.setattr(Mount, read, unread)
    [reply] = await hear(engine, request)
    assert isinstance(reply.end, Finish)
    assert any(alarm.left < 1 for alarm in reply.end.alarms)


async def test_kl_comes_from_a_second_row_and_guards_alike(make_engine, ask, hear, loud) -> None:
    engine = make_engine(max_rows=2)
    request = ask(TEXT, steering=loud, max_tokens=20)
    guard = replace(NEVER, kl=0.5, window=4)
    [reply] = await hear(engine, replace(request, guard=guard))
    assert {alarm.signal for alarm in reply.end.alarms} == {Signal.KL}
    measured = [token.contrast.kl for token in reply.tokens[:4]]
    assert reply.end.alarms[0].value == pytest.approx(sum(measured) / 4)
    [calm] = await hear(engine, replace(ask(TEXT, max_tokens=20), guard=guard))
    assert calm.end.alarms == ()
    with pytest.raises(BadRequest, match="kl out of guard"):
        make_engine(max_rows=1).check(replace(request, guard=guard))
