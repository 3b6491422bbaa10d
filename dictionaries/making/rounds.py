"""Measurements asked for by many at once.

Who measures in an order that depends on what it finds is a generator: it yields the trials it
wants and is sent what they gave. Run side by side, every round of questions is one batch for the
model.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from .gauge import Gauge, Trial

_T = TypeVar("_T")
Steps = Generator[list[Trial], list[Any], _T]


def together(gauge: Gauge, steps: Sequence[Steps[_T]]) -> list[_T]:
    """Run generators in step: all they ask for in a round is measured at once."""
    done: dict[int, _T] = {}
    asked: dict[int, list[Trial]] = {}

    def go_on(i: int, answers: list[Any] | None) -> None:
        try:
            asked[i] = next(steps[i]) if answers is None else steps[i].send(answers)
        except StopIteration as stop:
            done[i] = stop.value

    for i in range(len(steps)):
        go_on(i, None)
    while asked:
        round, asked = asked, {}
        trials = [trial for wanted in round.values() for trial in wanted]
        pushes = iter(gauge.pushes([t for t in trials if t.seed is None]))
        replies = iter(gauge.replies([t for t in trials if t.seed is not None]))
        for i, wanted in round.items():
            go_on(i, [next(pushes if t.seed is None else replies) for t in wanted])
    return [done[i] for i in range(len(steps))]
