"""A runner and its passes one by one: a prompt, in chunks or whole, and the tokens after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from torch import Tensor

from dictionaries.dictionary import Dictionary
from server.engine.batch import Batch, Span
from server.engine.runner import Runner
from server.engine.types import Steering

PROMPT = tuple(range(3, 23))


def runner(model: Any, *dictionaries: Dictionary, **options: Any) -> Runner:
    options = {"rows": 4, "capacity": 64, "max_edits": 8} | options
    return Runner(model, {one.info.id: one for one in dictionaries}, **options)


def prefill(
    made: Runner, row: int, ids: Sequence[int] = PROMPT, *, cut: int = 99, flags: Any = None
) -> Tensor:
    """Logits after the prompt, computed in chunks of `cut`."""
    flags = (True,) * len(ids) if flags is None else flags
    for start in range(0, len(ids), cut):
        stop = min(start + cut, len(ids))
        part = slice(start, stop)
        span = Span(row, start, tuple(ids[part]), tuple(flags[part]), stop == len(ids))
        logits = made.forward(Batch(0, [], [], [], (span,)))
    return logits[0]


def decode(made: Runner, tokens: list[int], position: int, *, traced: bool = False) -> Tensor:
    count = len(tokens)
    batch = Batch(0, tokens, [position] * count, [True] * count, (), traced)
    return made.forward(batch)


@pytest.fixture
def some(steer: Callable[..., Steering]) -> Steering:
    return steer((3, "clamp", 6.0), (9, "ablate", 0.0), (17, "scale", 3.0), (20, "add", 2.0))
