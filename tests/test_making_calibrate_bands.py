"""The procedure of calibration, on curves that are known: bands lie where steering works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dictionaries.edits import FeatureRows, Op
from dictionaries.making.calibrate import CLOSE, calibrated
from dictionaries.making.fluency import Nats, Scale
from dictionaries.making.gauge import Push, Replies, Trial
from dictionaries.making.handles import Handle
from dictionaries.making.heard import Heard
from dictionaries.making.rounds import together
from dictionaries.making.tried import Table


class Known:
    """A gauge of a made-up feature: effect from `onset` on, text broken from `breaks` on."""

    length, unlike, back = 10.0, 8.0, 1.0

    def __init__(self, onset: float, breaks: float, add_breaks: float | None = None) -> None:
        self.onset, self.breaks = onset, breaks
        self.add_breaks = breaks if add_breaks is None else add_breaks
        self.asked = 0

    def mass(self, handle: Handle) -> float:
        return 0.01

    def shows(self, handle: Handle) -> float:
        return 0.0

    def sleeps(self, handle: Handle) -> bool:
        return self.add_breaks == self.breaks

    def pushes(self, trials: Sequence[Trial]) -> list[Push]:
        return [
            Push(t.op, t.strength, 0.01 + 0.02 * (t.strength / self.onset) ** 2, t.strength / 4)
            for t in trials
        ]

    def replies(self, trials: Sequence[Trial]) -> list[Replies]:
        return [self._replies(t) for t in trials]

    def _replies(self, trial: Trial) -> Replies:
        self.asked += 1
        breaks = self.add_breaks if trial.op is Op.ADD else self.breaks
        nats = 1.0 if trial.strength < breaks else 9.0
        shown = min(6, round(3 * trial.strength / self.onset))
        heard = [Heard("words", i < shown, 0.0, Nats(nats * 10, 10)) for i in range(6)]
        return Replies(trial.op, trial.strength, tuple(heard), Scale(1.0, 5.0, 1.0))


def handle_of(length: float = 1.0) -> Handle:
    rows = FeatureRows(*(torch.zeros(1) for _ in range(6)))
    return Handle("1", 1, 1.0, length, (1, 2, 3), lambda _: True, rows)


@given(onset=st.floats(0.2, 8.0), ratio=st.floats(1.3, 6.0))
@settings(deadline=None, max_examples=60)
def test_the_band_is_found_wherever_it_lies(onset: float, ratio: float) -> None:
    """Mass has doubled and more from `onset` on; KL caps the search at 16."""
    gauge = Known(onset, onset * ratio)
    (result,) = calibrated(gauge, [handle_of()])  # type: ignore[list-item,arg-type]
    band, true = result.band, min(onset * ratio, 16.0)
    assert onset * 0.7 < band.onset < onset * CLOSE
    assert band.onset <= band.strength < band.breakdown
    assert (band.op, band.strength) in {(r.op, r.strength) for r in result.replies}
    assert true / 1.35 < band.breakdown < true * 1.35
    assert gauge.asked <= 15  # what a calibration costs, in strengths at which replies are made


def test_a_band_begins_where_replies_turn_although_their_text_shows_nothing_yet() -> None:
    """As of a model that answers as ever and comes to the concept in the end."""
    gauge = Known(4.0, 10.0)
    whole = gauge._replies

    def late(trial: Trial) -> Replies:
        said = whole(trial)
        turned = trial.strength >= 2.0
        return replace(said, heard=tuple(replace(h, shows=turned) for h in said.heard))

    gauge._replies = late  # type: ignore[method-assign]
    (result,) = calibrated(gauge, [handle_of()])  # type: ignore[arg-type]
    assert 2.0 <= result.band.onset < 3.0


def test_what_shows_in_replies_has_a_band_although_no_token_of_it_ever_rises() -> None:
    """As a way of speaking does that has no words of its own."""
    gauge = Known(1.0, 10.0)
    gauge.pushes = lambda trials: [  # type: ignore[method-assign]
        Push(t.op, t.strength, 0.01, t.strength / 4) for t in trials
    ]
    (result,) = calibrated(gauge, [handle_of()])  # type: ignore[arg-type]
    assert result.band.onset <= result.band.strength < result.band.breakdown
    gauge._replies = lambda trial: Replies(  # type: ignore[method-assign]
        trial.op, trial.strength, (Heard("a", False, 0.0, Nats(10, 10)),), Scale(1.0, 5.0, 1.0)
    )
    (nothing,) = calibrated(gauge, [handle_of()])  # type: ignore[arg-type]
    assert (nothing.band, nothing.why) == (None, "its tokens never rise")


def test_what_half_of_the_replies_show_unsteered_has_a_band_where_the_others_turn() -> None:
    gauge = Known(1.0, 10.0)
    gauge.shows = lambda handle: 0.5  # type: ignore[method-assign]
    gauge.pushes = lambda trials: [  # type: ignore[method-assign]
        Push(t.op, t.strength, 0.01, t.strength / 4) for t in trials
    ]
    whole = gauge._replies

    def asking(trial: Trial) -> Replies:
        shown = 5 if trial.strength > 2.0 else 3
        heard = enumerate(whole(trial).heard)
        return replace(whole(trial), heard=tuple(replace(h, shows=i < shown) for i, h in heard))

    gauge._replies = asking  # type: ignore[method-assign]
    (result,) = calibrated(gauge, [handle_of()])  # type: ignore[arg-type]
    assert 2.0 < result.band.onset <= 4.0


def test_no_multiple_of_the_maximum_is_too_small_or_large_to_be_found() -> None:
    for length in (0.01, 1.0, 300.0):
        gauge = Known(2.0 / length, 5.0 / length)
        gauge.pushes = lambda trials, g=gauge, n=length: [  # type: ignore[method-assign]
            Push(t.op, t.strength, 0.01 + 0.02 * (t.strength / g.onset) ** 2, t.strength * n / 4)
            for t in trials
        ]
        (result,) = calibrated(gauge, [handle_of(length)])  # type: ignore[arg-type]
        assert result.band.onset * length == pytest.approx(2.0, rel=0.35)


def test_add_is_chosen_only_where_it_is_clearly_better() -> None:
    for add_breaks, op in ((4.0, Op.CLAMP), (2.0, Op.CLAMP), (1.0, Op.CLAMP)):
        (result,) = calibrated(Known(2.0, 4.0, add_breaks), [handle_of()])  # type: ignore[arg-type]
        assert result.band.op is op
    better = Known(2.0, 4.0, 8.0)
    whole = better._replies

    def clamps_badly(trial: Trial) -> Replies:
        said = whole(trial)
        if trial.op is Op.ADD:
            return said
        return replace(said, heard=tuple(replace(h, shows=i < 2) for i, h in enumerate(said.heard)))

    better._replies = clamps_badly  # type: ignore[method-assign]
    (result,) = calibrated(better, [handle_of()])  # type: ignore[arg-type]
    assert result.band.op is Op.ADD
    assert 4.0 / 1.2 < result.band.breakdown <= 9.0


def test_where_everything_breaks_at_once_there_is_no_band() -> None:
    (result,) = calibrated(Known(2.0, 0.1), [handle_of()])  # type: ignore[arg-type]
    assert result.band is None
    assert "break" in result.why


def test_a_lone_broken_setting_among_sound_ones_is_chance() -> None:
    gauge = Known(2.0, 10.0)
    whole = gauge._replies

    def unlucky(trial: Trial) -> Replies:
        said = whole(trial)
        if not 2.5 < trial.strength < 4.0:
            return said
        return replace(said, heard=tuple(replace(h, loops=1.0) for h in said.heard))

    gauge._replies = unlucky  # type: ignore[method-assign]
    (result,) = calibrated(gauge, [handle_of()])  # type: ignore[arg-type]
    assert result.band.breakdown > 7


def test_a_lone_setting_that_shows_is_chance_beside_many_that_do() -> None:
    def said(strength: float, shown: int) -> Replies:
        heard = [Heard("words", i < shown, 0.0, Nats(10.0, 10)) for i in range(6)]
        return Replies(Op.CLAMP, strength, tuple(heard), Scale(1.0, 5.0, 1.0))

    table = Table()
    table.add([said(*at) for at in ((1.5, 0), (2.0, 6), (2.7, 0), (5.0, 5), (6.0, 4), (7.0, 5))])
    best = table.best(Op.CLAMP)
    assert best is not None
    assert best.strength > 4
    assert 2.0 not in {r.strength for r in table.finalists()}


def test_generators_are_run_side_by_side_and_answered_in_order() -> None:
    seen = []

    class Counting(Known):
        def pushes(self, trials: Sequence[Trial]) -> list[Push]:
            seen.append(len(trials))
            return super().pushes(trials)

    def steps(strengths: list[float]) -> Any:
        first = yield [Trial(handle_of(), Op.ADD, s) for s in strengths]
        second = yield [Trial(handle_of(), Op.ADD, strengths[0], 1)]
        return [p.strength for p in first], second[0].strength

    asked = [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]]
    told = together(Counting(1.0, 2.0), [steps(a) for a in asked])  # type: ignore[arg-type]
    assert told == [(a, a[0]) for a in asked]
    assert seen[0] == 6


def test_where_text_is_lost_at_the_weakest_push_there_is_no_strength_to_try() -> None:
    """Nothing lies between it and 0, which is no strength: replies there show things by chance."""
    gauge = Known(1e-9, 4.0)
    gauge._replies = lambda trial: Replies(  # type: ignore[method-assign]
        trial.op, trial.strength, (Heard("a", True, 0.0, Nats(10, 10)),), Scale(1.0, 5.0, 1.0)
    )
    gauge.pushes = lambda trials: [  # type: ignore[method-assign]
        Push(t.op, t.strength, 0.9, 100.0) for t in trials
    ]
    (result,) = calibrated(gauge, [handle_of()])  # type: ignore[arg-type]
    assert (result.band, result.why) == (None, "the text is lost before its tokens rise")
    assert not result.replies
