"""Batches from processes of their own, where a device learns faster than one of them composes.

A process deals, encodes and packs some 150,000 tokens a second; a GPU takes in a small model's
several times as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .packing import Batch

Packed = Callable[[int], Iterator[Batch]]
"""Batches without end, for a number that says whose they are: 0 to `workers` - 1."""

APART = 7919  # between the seeds of two processes
_AHEAD = 4  # batches that each process has ready


def fed(packed: Packed, workers: int) -> Iterator[Batch]:
    """Batches of all processes in turn, so that as many deal the same again; 0: of this process."""
    if not workers:
        return packed(0)
    return iter(
        DataLoader(
            _Composed(packed),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=_AHEAD,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="fork",  # they read the sheets that are in memory already
        )
    )


class _Composed(IterableDataset[Batch]):
    def __init__(self, packed: Packed) -> None:
        self._packed = packed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        return self._packed(0 if worker is None else worker.id)
