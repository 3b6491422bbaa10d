"""The recommended strength: on curves that are known, the gentlest that shows enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from dictionaries.edits import FeatureRows, Op
from dictionaries.making.calibrate import Band, Calibrated
from dictionaries.making.fluency import Nats, Scale
from dictionaries.making.gauge import Replies, Trial
from dictionaries.making.handles import Handle
from dictionaries.making.heard import Heard
from dictionaries.making.neutral import CALIBRATION, EVALUATION, PRESET_QUESTIONS, SETTLING
from dictionaries.making.settle import ENOUGH, PARTS, settled

HANDLE = Handle(
    "1", 1, 1.0, 1.0, (1,), lambda _: True, FeatureRows(*(torch.zeros(1) for _ in range(6)))
)


class Asked:
    """A gauge of which shares of replies show a feature, and from which strength they break."""

    def __init__(self, shows: Callable[[float], float], breaks: float = 100.0) -> None:
        self._shows, self._breaks = shows, breaks
        self.tried: list[Trial] = []

    def pushes(self, trials: Sequence[Trial]) -> list[Any]:
        return []

    def replies(self, trials: Sequence[Trial]) -> list[Replies]:
        self.tried += trials
        return [self._replies(t) for t in trials]

    def _replies(self, trial: Trial) -> Replies:
        shown, nats = round(100 * self._shows(trial.strength)), 1.0 + 8 * self._broken(trial)
        heard = [Heard("words", i < shown, 0.0, Nats(nats * 10, 10)) for i in range(100)]
        return Replies(trial.op, trial.strength, tuple(heard), Scale(1.0, 5.0, 1.0))

    def _broken(self, trial: Trial) -> bool:
        return trial.strength >= self._breaks


def band_of(onset: float, strength: float, breakdown: float, op: Op = Op.CLAMP) -> Calibrated:
    band = Band(onset, breakdown, op, strength, 1.0, 1.0)
    return Calibrated(HANDLE, 0.0, band, "", (), ())


def settle(gauge: Asked, found: Calibrated) -> Calibrated:
    (result,) = settled(gauge, [found])  # type: ignore[arg-type]
    return result


def test_it_is_the_gentlest_of_the_strengths_that_show_enough() -> None:
    """The best on few replies was 4: half as much does as well."""
    result = settle(Asked(lambda s: 1.0 if s > 1.5 else 0.9), band_of(0.5, 4.0, 20.0))
    assert result.band.strength == 4.0 * PARTS[0]
    rises = settle(Asked(lambda s: min(1.0, s / 4)), band_of(0.5, 4.0, 20.0))
    assert 4.0 * PARTS[1] < rises.band.strength <= 4.0 * PARTS[3]
    assert rises.band.shows == pytest.approx(min(1.0, rises.band.strength / 4), abs=0.01)


def test_more_is_recommended_where_more_shows() -> None:
    result = settle(Asked(lambda s: 0.95 if s > 5 else 0.5), band_of(0.5, 4.0, 20.0))
    assert result.band.strength == 4.0 * PARTS[-1]
    assert result.band.shows == 0.95


def test_where_nothing_shows_enough_it_is_the_best_in_sound_text() -> None:
    gauge = Asked(lambda s: 0.6 if s < 4 else 0.1)
    result = settle(gauge, band_of(0.5, 4.0, 20.0))
    assert result.band.strength < 4.0
    assert result.band.shows == 0.6 < ENOUGH


def test_what_is_broken_is_not_recommended_however_much_it_shows() -> None:
    result = settle(Asked(lambda s: 0.95 if s > 3 else 0.3, breaks=3.0), band_of(0.5, 4.0, 20.0))
    assert result.band.strength < 3.0


def test_what_breaks_only_at_full_length_is_out_of_the_band() -> None:
    result = settle(Asked(lambda s: 0.5, breaks=3.0), band_of(0.5, 4.0, 20.0))
    assert 3.0 <= result.band.breakdown <= 4.0
    kept = settle(Asked(lambda s: 0.5, breaks=50.0), band_of(0.5, 4.0, 20.0))
    assert kept.band.breakdown == 20.0
    none = settle(Asked(lambda s: 1.0, breaks=0.0), band_of(0.5, 4.0, 20.0))
    assert none.band is None
    assert "full length" in none.why


@pytest.mark.parametrize(("onset", "strength", "breakdown"), [(3.0, 4.0, 4.3), (2.0, 2.0, 2.0)])
def test_nothing_outside_the_band_is_tried(onset: float, strength: float, breakdown: float) -> None:
    gauge = Asked(lambda s: 0.5)
    result = settle(gauge, band_of(onset, strength, breakdown))
    tried = [t.strength for t in gauge.tried]
    assert tried[0] == onset
    assert all(onset <= s < breakdown for s in tried[1:])
    assert onset <= result.band.strength <= breakdown
    assert [r.strength for r in result.settling] == tried


def test_a_feature_without_a_band_is_asked_nothing_and_the_op_is_kept() -> None:
    gauge = Asked(lambda s: 1.0)
    none = Calibrated(HANDLE, 0.0, None, "breaks", (), ())
    added = band_of(0.5, 4.0, 20.0, Op.ADD)
    assert settled(gauge, [none, added])[0] is none  # type: ignore[arg-type]
    assert {t.op for t in gauge.tried} == {Op.ADD}


def test_what_strengths_are_settled_on_is_asked_nowhere_else() -> None:
    """Else they would be chosen on the exam."""
    sets = CALIBRATION, SETTLING, EVALUATION, PRESET_QUESTIONS
    assert len({message for one in sets for message in one}) == sum(map(len, sets))
