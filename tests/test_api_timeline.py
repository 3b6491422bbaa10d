"""How much a timeline may hold, so that every reply's receipt can be sent back."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from api_talk import BRIDGE, LATCH
from pydantic import ValidationError

from dictionaries.edits import Op
from server.engine.conditions import ALWAYS, Condition, Crossing, Timing
from server.engine.guard import NOTHING_LEFT, Alarm, Guard, Mode, Signal
from server.engine.types import (
    Change,
    Delta,
    FeatureEdit,
    Finish,
    FinishReason,
    Request,
    Sampling,
    Steering,
    Token,
)
from server.engine.warden import weaker
from server.errors import BadRequest
from server.receipt import _entry
from server.schemas.conditions import MAX_ABORTS
from server.schemas.guard import WireGuard
from server.schemas.steering import MAX_EDITS, WireSteering
from server.timeline import Timeline, check_replayable


@pytest.mark.parametrize(
    ("entry", "entries", "told"),
    [
        ({"edits": [{"feature": i, "op": "ablate"} for i in range(16)]}, 599, 9584),
        ({"edits": [{**BRIDGE, "when": LATCH}]}, 4096, 8192),
        ({"edits": [{**BRIDGE, "when": LATCH, "abort": LATCH}]}, 2731, 8193),
        ({"abort": [LATCH] * 8}, 1025, 8200),
    ],
)
def test_a_timeline_may_hold_so_many_edits_and_conditions(
    entry: Any, entries: int, told: int
) -> None:
    """Each has rows of its dictionary, which are held until the reply ends."""
    steering = {"timeline": [{"at": at, **entry} for at in range(1, entries + 1)]}
    if told <= 8192:
        assert WireSteering.model_validate(steering).timeline
        return
    with pytest.raises(ValidationError, match=f"{told} edits and conditions in all entries; 8192"):
        WireSteering.model_validate(steering)


def test_what_live_changes_let_through_a_request_may_carry() -> None:
    timeline = Timeline(())
    held: dict[int, Steering] = {}
    for at in (0, *(token for token in range(1, 2000) for _ in range(2))):
        when = Condition("tiny", at % 64, Crossing.ABOVE, 0.5)
        edits = [edit_of(i, Timing(when if i % 2 else None)) for i in range(at % 17)]
        steering = Steering(tuple(edits), aborts=(when,) * (at % 3 == 0))
        try:
            timeline.check(steering)
        except BadRequest:
            break
        timeline.note(at, steering)
        held[at] = steering
    assert len(held) > 300
    entries = [_entry(Change(at, steering)) for at, steering in held.items() if at > 0]
    assert WireSteering.model_validate({"timeline": entries}).timeline


def test_a_change_counts_beside_all_that_acted_and_nothing_that_it_discards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.timeline.MAX_ENTRIES", 3)
    some = Steering((edit_of(1, ALWAYS),))
    timeline = Timeline([Change(at, some) for at in (0, 2, 20, 21, 22)])
    timeline.check(some)
    for at in (3, 7):
        timeline.hear(Delta("", (Token(1, "a"),) * 4))
        timeline.hear(Delta("", (), (Alarm(at, Signal.KL, 2.0, 1.0, Mode.WARN),)))
        timeline.check(some)
        timeline.hear(Delta("", (), (Alarm(at, Signal.KL, 2.0, 1.0, Mode.BACK_OFF, 0.4),)))
    with pytest.raises(BadRequest, match="4 changes with 4 edits"):
        timeline.check(some)
    timeline.hear(Finish(FinishReason.STOP, 1, 8, 0, ()))
    timeline.check(some)  # a row that has ended takes no change, and refuses none to the others


def test_all_steps_that_a_guard_may_take_back_can_be_replayed() -> None:
    when = Condition("tiny", 1, Crossing.ABOVE, 0.5)
    asked = Steering(
        tuple(edit_of(i, Timing(when)) for i in range(MAX_EDITS)), aborts=(when,) * MAX_ABORTS
    )
    most = next(f / 1000 for f in range(999, 0, -1) if _allowed(f / 1000))
    timeline, left = Timeline(()), 1.0
    for step in itertools.count(1):
        left *= most
        lowered = weaker(asked, left)
        timeline.check(lowered)
        timeline.note(4 * step, lowered)
        if left < NOTHING_LEFT:
            break
    assert step > 30


@pytest.mark.parametrize(
    ("entries", "tokens", "factor", "told"),
    [
        (1000, 300, 0.4, None),
        (1024, 15, 0.4, None),  # for a step back there must be a window
        (1024, 16, 0.4, "1025 changes with 8200 edits"),
        (900, 2000, 0.4, "1025 changes with 8200 edits"),
        (1, 10_000, 0.95, None),
        (30, 100_000, 0.95, "1859 changes with 14872 edits"),  # 59 from each, and the beginning
    ],
)
def test_a_reply_whose_guard_may_do_more_than_can_be_replayed_is_refused_before_it_begins(
    entries: int, tokens: int, factor: float, told: str | None
) -> None:
    eight = Steering(tuple(edit_of(i, ALWAYS) for i in range(8)))
    changes = [Change(at, eight) for at in range(1, entries + 1)]
    guard = Guard(Mode.BACK_OFF, factor=factor)
    request = Request("r", (1, 2), (True, True), Sampling(max_tokens=tokens), eight, (*changes,))
    check_replayable(request)
    check_replayable(replace(request, guard=replace(guard, mode=Mode.STOP)))
    if told is None:
        return check_replayable(replace(request, guard=guard))
    with pytest.raises(BadRequest, match=told):
        check_replayable(replace(request, guard=guard))


def test_a_live_change_leaves_room_for_what_the_guard_may_do_to_it(monkeypatch) -> None:
    monkeypatch.setattr("server.timeline.MAX_TIMELINE", 16)
    some = Steering((edit_of(1, ALWAYS),))
    timeline = Timeline([Change(0, some)], steps=4)
    for at in range(3, 15):
        timeline.check(some)
        timeline.note(at, some)
    with pytest.raises(BadRequest, match="17 changes with 17 edits"):
        timeline.check(some)


def _allowed(factor: float) -> bool:
    try:
        return bool(WireGuard.model_validate({"factor": factor}))
    except ValidationError:
        return False


def edit_of(feature: int, timing: Timing) -> FeatureEdit:
    return FeatureEdit("tiny", feature, Op.CLAMP, 1.0, Op.CLAMP.edit(1.0), timing=timing)
