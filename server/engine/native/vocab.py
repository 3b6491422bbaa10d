"""What `vocab.cpp` says of rows of logits, of which all are as long: see `..vocabulary`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .build import INT, POINTER, SIZE, function

_LIKELIEST = POINTER, POINTER, SIZE, SIZE, SIZE, POINTER, POINTER, POINTER, INT
_EXPECTED = POINTER, POINTER, POINTER, SIZE, SIZE, POINTER, INT


def likeliest(
    logits: Iterable[Tensor], count: int, divisors: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    rows = _Rows(logits)
    values = torch.zeros(rows.count, count)
    ids = torch.zeros(rows.count, count, dtype=torch.long)
    totals = torch.empty(rows.count, dtype=torch.float64)
    divide = torch.tensor(divisors, dtype=torch.float32)
    function("likeliest", _LIKELIEST)(
        rows.address,
        divide.data_ptr(),
        rows.count,
        rows.vocab,
        count,
        values.data_ptr(),
        ids.data_ptr(),
        totals.data_ptr(),
        torch.get_num_threads(),
    )
    return values, ids, totals


def expected(logits: Iterable[Tensor], others: Iterable[Tensor] | None, totals: Tensor) -> Tensor:
    rows, beside = _Rows(logits), None if others is None else _Rows(others)
    means = torch.empty(rows.count, dtype=torch.float64)
    function("expected", _EXPECTED)(
        rows.address,
        None if beside is None else beside.address,
        totals.data_ptr(),
        rows.count,
        rows.vocab,
        means.data_ptr(),
        torch.get_num_threads(),
    )
    return means


class _Rows:
    """Where each lies, as long as this is there."""

    def __init__(self, logits: Iterable[Tensor]) -> None:
        self._kept: list[Any] = [row.float().contiguous() for row in logits]
        self.count, self.vocab = len(self._kept), len(self._kept[0])
        self._at = (POINTER * self.count)(*(row.data_ptr() for row in self._kept))
        self.address = ctypes.addressof(self._at)
