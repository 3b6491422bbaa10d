"""Batches composed by processes of their own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

from dictionaries.making.feeders import fed
from dictionaries.making.packing import Batch


def packed(worker: int) -> Iterator[Batch]:
    """Each number of a process' own: 100 a process."""
    for number in itertools.count(100 * worker):
        yield Batch(*(torch.full((2, 3), number) for _ in Batch._fields))


def numbers(workers: int, n: int = 8) -> list[int]:
    return [int(batch.ids[0, 0]) for batch in itertools.islice(fed(packed, workers), n)]


# Newer Pythons warn of any fork beside torch's threads, and torch where there are few cores.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*worker:UserWarning")
def test_processes_take_turns_and_deal_the_same_again() -> None:
    assert numbers(2) == [0, 100, 1, 101, 2, 102, 3, 103]
    assert numbers(2) == numbers(2)


def test_without_processes_it_deals_itself() -> None:
    assert numbers(0) == list(range(8))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*worker:UserWarning")
def test_a_batch_comes_whole() -> None:
    batch = next(fed(packed, 1))
    assert isinstance(batch, Batch)
    assert all(one.shape == (2, 3) for one in batch)
