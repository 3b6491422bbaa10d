"""Samples into rows of equal length that do not see each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from .tokenizer import Encoded

_NEVER = -30_000.0  # added to what must not be looked at; within bfloat16 and float16


class Batch(NamedTuple):
    """ids, weights, positions: [rows, length]; segment: [rows, length], 0 = padding.

    marks: [rows, length], of each token its sample's mark.
    """

    ids: Tensor
    weights: Tensor
    positions: Tensor
    segment: Tensor
    marks: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(one.to(device, non_blocking=True) for one in self))

    def mask(self) -> Tensor:
        """[rows, 1, length, length], true where a token (row) may look (column)."""
        same = self.segment[:, :, None] == self.segment[:, None, :]
        return same.tril()[:, None]

    def mask_for(self, model: LlamaForCausalLM) -> Tensor:
        """`mask`, as the model's attention takes it: transformers' plain one adds it to scores."""
        mask = self.mask()
        if model.config._attn_implementation != "eager":
            return mask
        return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, _NEVER)


def batches(
    encoded: Iterable[Encoded], *, rows: int, length: int, pad: int, waiting: int = 96
) -> Iterator[Batch]:
    """Best fit: each row takes the longest waiting sample that still fits. Longer ones are cut."""
    source = iter(encoded)
    pool: list[Encoded] = []
    packed: list[list[Encoded]] = []
    while True:
        row: list[Encoded] = []
        room = length
        while True:
            while len(pool) < waiting and (new := next(source, None)) is not None:
                pool.append(Encoded(new.ids[:length], new.weights[:length], new.mark))
            fitting = [e for e in pool if len(e.ids) <= room]
            if not fitting:
                break
            # Start a row with the oldest, so that a long sample never waits for ever.
            best = pool[0] if not row else max(fitting, key=lambda e: len(e.ids))
            pool.remove(best)
            row.append(best)
            room -= len(best.ids)
        if not row:
            return
        packed.append(row)
        if len(packed) == rows:
            yield _batch(packed, length, pad)
            packed = []


def _batch(packed: list[list[Encoded]], length: int, pad: int) -> Batch:
    shape = (len(packed), length)
    ids = torch.full(shape, pad)
    weights = torch.zeros(shape)
    positions = torch.zeros(shape, dtype=torch.long)
    segment = torch.zeros(shape, dtype=torch.long)
    marks = torch.zeros(shape, dtype=torch.long)
    for r, row in enumerate(packed):
        at = 0
        for s, e in enumerate(row, start=1):
            end = at + len(e.ids)
            ids[r, at:end] = torch.tensor(e.ids)
            weights[r, at:end] = torch.tensor(e.weights)
            positions[r, at:end] = torch.arange(len(e.ids))
            segment[r, at:end] = s
            marks[r, at:end] = e.mark
            at = end
    return Batch(ids, weights, positions, segment, marks)
