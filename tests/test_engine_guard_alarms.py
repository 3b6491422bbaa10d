"""The coherence guard without a model: what raises an alarm, and what is weaker steering."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from dictionaries.edits import Op
from server.engine.guard import Alarm, Guard, Mode, Signal
from server.engine.prefix import NEUTRAL
from server.engine.preparing import Prepared
from server.engine.types import FeatureEdit, Steering
from server.engine.warden import Warden, weaker


def heard(
    guard: Guard, tokens: Iterable[int], entropy: float = 1.0, kl: float = 0.0
) -> list[Alarm]:
    plain = Prepared(Steering(), {}, (False, False), (NEUTRAL, NEUTRAL), {}, False)
    warden = Warden(guard, lambda before, steering: replace(before, steering=steering))
    verdicts = [warden.hear(token, entropy, kl, plain) for token in tokens]
    return [verdict.alarm for verdict in verdicts if verdict is not None]


def test_a_loop_is_an_alarm_however_long_it_is_and_plain_text_is_none() -> None:
    guard = Guard(Mode.WARN)
    assert heard(guard, range(500)) == []
    said_twice = [*range(100), *range(3), *range(100, 200)]
    assert heard(guard, said_twice) == [], "a phrase of three comes again"
    for period in (1, 2, 7, 60):
        [alarm, *_] = heard(guard, [i % period for i in range(200)])
        assert alarm.signal is Signal.REPETITION
        assert alarm.at <= max(period + 2 + 10, guard.window), "within ten tokens of the loop"
        assert alarm.value >= 0.55
    assert heard(guard, [i % 300 for i in range(900)]) == [], "too long ago to be a loop"
    assert heard(replace(guard, repetition=None), [7] * 200) == []


def test_entropy_is_bounded_on_both_sides_and_kl_from_above() -> None:
    guard, tokens = Guard(Mode.WARN, repetition=None, high=4.0, kl=3.0), range(40)
    low, high = heard(guard, tokens, 0.001), heard(guard, tokens, 4.1)
    assert [a.at for a in low] == [a.at for a in high] == [15, 31], "a full window each"
    assert {a.signal for a in (*low, *high)} == {Signal.ENTROPY}
    assert (low[0].bound, high[0].bound) == (0.002, 4.0)
    assert heard(guard, tokens, 2.0, 2.9) == []
    [first, _] = heard(guard, tokens, 2.0, 3.1)
    assert (first.signal, first.value) == (Signal.KL, pytest.approx(3.1))
    assert heard(replace(guard, low=None), tokens, 0.0) == []
    assert heard(replace(guard, high=1.0, window=4), range(4), 1.5)[0].bound == 1.0


def test_a_weaker_steering_is_nearer_to_none_for_every_op() -> None:
    strengths = {"add": -4.0, "clamp": 6.0, "at_least": 2.0, "scale": 5.0, "ablate": 0.0}
    edits = [
        FeatureEdit("d", i, Op(op), s, Op(op).edit(s))
        for i, (op, s) in enumerate({**strengths, "at_most": 1.0}.items())
    ]
    half = weaker(Steering(tuple(edits), keep_norm=True), 0.5)
    assert [edit.strength for edit in half.edits] == [-2.0, 3.0, 1.0, 3.0, 0.0, 1.0]
    assert all(edit.edit == edit.op.edit(edit.strength) for edit in half.edits)
    assert half.keep_norm
