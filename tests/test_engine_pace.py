"""How much of a prompt joins a step: no more than what running replies hardly notice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from server.engine.pace import LEAST, SLOWER, Pace
from server.engine.passes import Job
from server.engine.scheduler import Chunk, Scheduler, Ticket
from server.engine.steps import Steps
from server.engine.types import Request, Sampling


def run(pace: Pace, steps: int, alone: float, token: float, decoding: int = 8) -> list[float]:
    """Steps of a machine that takes `alone` to decode and `token` for a prompt token; seconds."""
    took = []
    for _ in range(steps):
        prompt = pace.chunk(decoding)
        took.append(alone + token * prompt)
        pace.took(decoding, prompt, took[-1])
    return took


def test_a_prompt_that_is_alone_comes_in_full_chunks() -> None:
    pace = Pace(256)
    assert pace.chunk(0) == 256
    pace.took(8, 0, 0.01)
    pace.took(8, 16, 1.0)
    assert pace.chunk(0) == 256


@pytest.mark.parametrize(("alone", "token"), [(0.064, 0.0012), (0.003, 0.00002), (0.02, 0.0009)])
def test_steps_with_a_chunk_soon_take_what_is_allowed(alone, token) -> None:
    pace = Pace(256)
    pace.took(0, 12, alone)  # a short prompt, which reads all weights for a few tokens
    for _ in range(5):
        pace.took(8, 0, alone)
    took = run(pace, 30, alone, token)
    assert max(took) <= SLOWER * alone + 1e-9
    full = min(256 * token, (SLOWER - 1) * alone - token)
    assert took[-1] - alone >= full - 1e-9  # and no less is taken than would fit


def test_a_prompt_gets_on_however_slow_the_machine() -> None:
    pace = Pace(256)
    pace.took(8, 0, 0.01)
    run(pace, 10, 0.01, 1.0)
    assert pace.chunk(8) == LEAST
    assert Pace(4).chunk(8) == 4


def test_a_crowd_that_comes_at_once_does_not_wait_for_a_step_without_prompts() -> None:
    pace = Pace(256)
    pace.took(0, 256, 0.3)
    run(pace, 1, 0.06, 0.001)
    assert LEAST < pace.chunk(8) < 256


@pytest.mark.parametrize("base", [0.02, 0.1])
def test_a_crowd_is_let_in_at_the_pace_of_the_crowd(base) -> None:
    """Of a machine on which a row, or a prompt token, makes a step longer by `token` seconds."""
    token, prompt, rows = 0.002, 32, 32
    pace = Pace(256)
    pace.took(0, 256, base + 256 * token)
    decoding, left, steps = 8, 24 * prompt, 0
    while left:
        taken = min(left, pace.chunk(decoding, rows - decoding))
        seconds = base + token * (decoding + taken)
        assert seconds <= 2 * (base + token * rows)
        pace.took(decoding, taken, seconds)
        left, steps = left - taken, steps + 1
        decoding = rows - -(-left // prompt)
    assert steps <= 24 * prompt / ((SLOWER - 1) * base / token + rows / 2)


def test_a_crowd_that_nobody_runs_before_begins_together() -> None:
    """In a step of a few seconds at most, and once it is known what a prompt token takes."""
    pace = Pace(256)
    assert pace.chunk(0, coming=32) == 256
    pace.took(0, 256, 0.75)
    assert [pace.chunk(0, coming=rows) for rows in (0, 1, 2, 4, 32)] == [256, 256, 512, 1024, 1024]
    slow = Pace(256)
    slow.took(0, 256, 2.56)
    assert slow.chunk(0, coming=32) == 400
    slower = Pace(256)
    slower.took(0, 256, 60.0)
    assert slower.chunk(0, coming=32) == 256


def test_no_prompt_has_more_of_such_a_step_than_a_full_chunk() -> None:
    scheduler: Scheduler[Ticket] = Scheduler(8, 8, 16)
    scheduler.add([Ticket(100)], [Ticket(10)], [Ticket(40)])
    scheduler.chunk = 64
    assert scheduler.next_step().chunks == (Chunk(0, 0, 16), Chunk(1, 0, 10), Chunk(2, 0, 16))


def test_what_rows_take_is_told_from_what_prompts_take() -> None:
    """So many rows more do not make a prompt token seem slower, nor rows that left quicker."""
    base, token = 0.03, 0.001
    pace = Pace(256)
    for decoding in (8, 8, 8):
        pace.took(decoding, 0, base + token * decoding)
        pace.took(decoding, 16, base + token * (decoding + 16))
    for decoding in (32, 2, 20):
        fits = (SLOWER - 1) * (base + token * decoding) / token
        assert pace.chunk(decoding) == pytest.approx(fits, abs=1)
        run(pace, 5, base + token * decoding, token, decoding)
        assert pace.chunk(decoding) == pytest.approx(fits, abs=1)


def test_a_step_that_a_busy_moment_made_long_is_forgotten() -> None:
    pace = Pace(256)
    for _ in range(5):
        pace.took(8, 0, 0.05)
    run(pace, 10, 0.05, 0.0005)
    before = pace.chunk(8)
    pace.took(8, before, 5.0)
    assert pace.chunk(8) < before
    run(pace, 25, 0.05, 0.0005)
    assert pace.chunk(8) >= 0.9 * before


def test_a_step_lasts_until_the_device_has_computed_it(monkeypatch) -> None:
    """Of one that computes part of a prompt nothing is read, and its pass returns at once."""
    now, queued = [0.0], [0.0]

    def forward(batch: Any) -> torch.Tensor:
        queued[0] += 0.001 * sum(len(span.tokens) for span in batch.spans)
        return torch.zeros(0, 8)

    def synchronize(device: torch.device) -> None:
        assert device.type == "cuda"
        now[0], queued[0] = now[0] + queued[0], 0.0

    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("server.engine.steps.time", clock)
    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    runner: Any = SimpleNamespace(
        device=torch.device("cuda"),
        arithmetic="eager",
        pool=SimpleNamespace(blocks=0),
        steerer=SimpleNamespace(seen=dict, observed=dict),
        scorer=SimpleNamespace(scores={}),
        forward=forward,
    )
    prompt: Any = Ticket(length=64)
    prompt.request = Request("a", (1,) * 64, (True,) * 64, Sampling())
    steps = Steps(runner, Scheduler(2, 2, 256), frozenset())
    steps.compute([Job(prompt, Chunk(0, 0, 32))])
    steps._pace.took(8, 0, 0.04)
    assert steps._pace.chunk(8) == pytest.approx((SLOWER - 1) * 0.04 / 0.001, abs=1)
