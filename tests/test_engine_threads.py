"""How many threads a step runs on: the fastest, by a clock that the steps themselves move."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from server.engine import threads


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Steps:
    """A step that takes `costs[threads]` seconds; a list of costs is gone through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, costs: dict[int, list[float]]) -> None:
        self.costs, self.now, self.taken = costs, 0.0, dict.fromkeys(costs, 0)
        monkeypatch.setattr(threads.time, "perf_counter", lambda: self.now)

    def __call__(self) -> None:
        count = torch.get_num_threads()
        costs = self.costs[count]
        self.now += costs[min(self.taken[count], len(costs) - 1)]
        self.taken[count] += 1


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ({4: 0.004, 2: 0.002, 1: 0.003}, 2),
        ({4: 0.009, 2: 0.008, 1: 0.003}, 1),
        ({4: 0.010, 2: 0.020, 1: 0.040}, 4),
    ],
)
def test_the_fastest_number_is_chosen_and_left_set(monkeypatch, costs, expected) -> None:
    step = Steps(monkeypatch, {count: [cost] for count, cost in costs.items()})
    assert threads.fastest(step, 4) == expected
    assert torch.get_num_threads() == expected


def test_a_slow_first_step_and_a_busy_moment_do_not_decide(monkeypatch) -> None:
    step = Steps(monkeypatch, {2: [0.2, 0.09, 0.09, 0.001], 1: [0.005]})
    assert threads.fastest(step, 2) == 2


def test_a_step_of_a_large_model_is_run_once_on_all_threads(monkeypatch) -> None:
    step = Steps(monkeypatch, {8: [3.0], 4: [1.0], 2: [1.0], 1: [1.0]})
    assert threads.fastest(step, 8) == 8
    assert step.taken == {8: 1, 4: 0, 2: 0, 1: 0}
    assert torch.get_num_threads() == 8


def test_one_thread_needs_no_measuring(monkeypatch) -> None:
    step = Steps(monkeypatch, {1: [1.0]})
    assert threads.fastest(step, 1) == 1
    assert step.taken == {1: 0}
