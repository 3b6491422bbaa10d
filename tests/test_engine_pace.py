"""How much of a prompt joins a step: no more than what running replies hardly notice."""

from __future__ import annotations

import pytest

from server.engine.pace import LEAST, SLOWER, Pace


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
