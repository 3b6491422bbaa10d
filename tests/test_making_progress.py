"""How far a long job of `steerdeck make` is, at a terminal and in a log."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from server.cli.making_progress import Bar, Lines

STEPS, READING, STEP = 16, 120.0, 0.5  # of a training's round


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


@pytest.mark.parametrize("earlier", [0, 5 * STEPS])
def test_the_time_left_is_by_whole_rounds_and_what_was_done_before_does_not_count(earlier, wait):
    rounds = 102
    bar, lines = (make("training", rounds * STEPS, "steps") for make in (Bar, _lines))
    done = earlier

    def tell(note: str = "") -> None:
        bar.advance(done, note)
        lines.advance(done, note)

    tell()
    assert shown(bar) == "-:--:--"
    for _ in range(2):
        for _ in range(12):
            wait(READING / 12)
            tell("reading")
        for _ in range(STEPS):
            wait(STEP)
            done += 1
            tell()
    hours, minutes, seconds = map(int, shown(bar).split(":"))
    truth = (rounds * STEPS - done) / STEPS * (READING + STEPS * STEP)
    told = 3600 * hours + 60 * minutes + seconds
    assert told == pytest.approx(truth, rel=0.2)
    assert f"{told / 60:.1f} min left" in lines._untold
    wait(60)
    assert shown(bar) != f"{hours}:{minutes:02}:{seconds:02}", "it runs on between two reports"


def test_a_job_that_tells_seldom_has_a_time_left(wait):
    bar = Bar("calibrated", 64, "features")
    bar.advance(0)
    wait(600)
    bar.advance(16)
    wait(60)
    assert shown(bar) == "0:29:00"


def _lines(what: str, total: float, unit: str) -> Lines:
    return Lines(what, total, unit, every=1e9)


def shown(bar: Bar) -> str:
    (column,) = (c for c in bar._bar.columns if type(c).__name__ == "_Left")
    return str(column(bar._bar.tasks[0]))
