"""A row's bits are its own affair: beside anybody, on any number of threads, in any chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from fused_models import WHOLE, halved
from runner_passes import prefill, runner

from server.engine import linear
from server.engine.batch import Batch, Span
from server.engine.native import layers
from server.engine.runner import Runner

pytestmark = pytest.mark.skipif(not layers.able(), reason="our own code cannot be compiled here")
ROW = range(3, 27)


@pytest.fixture(autouse=True)
def _small_products_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "WORTH", 0)


@pytest.fixture
def on_two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def steered(family: str, dictionary: Any, steer: Any) -> Runner:
    """Rows 0 and 2 steered, each otherwise; row 1 not."""
    made = runner(halved(family), dictionary, threads=1)
    for row, edits in enumerate(([(3, "clamp", 6.0), (9, "ablate", 0.0)], [], [(17, "add", 3.0)])):
        prepared = made.steerer.prepare(steer(*edits)) if edits else None
        made.steerer.write(row, prepared, 6 + 6 * row)
    return made


@pytest.mark.parametrize("family", WHOLE)
def test_a_row_that_decodes_gets_the_same_bits_in_any_company(
    family: str, dictionary: Any, steer: Any
) -> None:
    """Beside rows of other lengths and steering, beside a prompt that is admitted, on one thread
    or on two; steered itself or not.
    """
    made = steered(family, dictionary, steer)
    for row in range(3):
        prefill(made, row, range(3, 9 + 6 * row), cut=7)
    tokens, positions = [4, 9, 70], [6, 12, 18]

    def logits_of(first: int, stop: int, *spans: Span) -> torch.Tensor:
        rows = slice(first, stop)
        batch = Batch(first, tokens[rows], positions[rows], [True] * (stop - first), spans)
        return made.forward(batch)[: stop - first].clone()

    together = logits_of(0, 3)
    assert torch.equal(
        logits_of(0, 3, Span(3, 0, tuple(range(20, 33)), (True,) * 13, True)), together
    )
    torch.set_num_threads(2)
    try:
        assert torch.equal(logits_of(0, 3), together)
    finally:
        torch.set_num_threads(1)
    for row, own in enumerate(together):
        assert torch.equal(logits_of(row, row + 1)[0], own)


def kept(made: Runner, row: int) -> list[torch.Tensor]:
    """The keys and values of a row's prompt."""
    return [one[row, :, : len(ROW)].clone() for one in made.cache.tensors()]


def prompts(made: Runner, cuts: Sequence[int]) -> list[torch.Tensor]:
    """Logits after the same prompt in row 0, cut at these places, and what is kept of it."""
    for start, stop in pairwise(cuts):
        part = tuple(ROW[start:stop])
        span = Span(0, start, part, (True,) * len(part), stop == len(ROW))
        found = made.forward(Batch(0, [], [], [], (span,)))
    return [found[0].clone(), *kept(made, 0)]


@pytest.mark.parametrize("family", WHOLE)
def test_a_prompt_gets_the_same_bits_however_it_is_cut(
    family: str, dictionary: Any, steer: Any, on_two_threads: None
) -> None:
    """And beside others: what is kept of it too, so that replies do not depend on the load."""
    made = steered(family, dictionary, steer)
    expected = prompts(made, [0, 24])
    for cuts in ([0, 1, 24], [0, 7, 14, 21, 24], [*range(25)]):
        assert all(map(torch.equal, prompts(made, cuts), expected))
    others = [Span(row, 0, tuple(range(40, 60)), (True,) * 20, True) for row in (1, 2)]
    own = Span(0, 0, tuple(ROW), (True,) * len(ROW), True)
    found = made.forward(Batch(0, [], [], [], (others[0], own, others[1])))
    assert torch.equal(found[1], expected[0])
    assert all(map(torch.equal, kept(made, 0), expected[1:]))
