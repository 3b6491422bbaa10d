"""Keys and values that outlive their row, in blocks: one pair of tensors a layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import SteerdeckError
from .cache import SlotCache
from .prefix import BLOCK


class Pool:
    """As many blocks as fit `budget` bytes. Every layer of `cache` must have been written once.

    On a CPU the memory is taken as it is used, on a GPU at the start. Raises SteerdeckError where
    there is none left.
    """

    def __init__(self, cache: SlotCache, budget: int) -> None:
        rows = cache.tensors()  # [rows, kv_heads, capacity, head_dim] each
        position = sum(t.shape[1] * t.shape[3] * t.element_size() for t in rows)
        self.blocks = budget // (BLOCK * position)
        self.bytes = self.blocks * BLOCK * position
        try:
            self._pairs = [
                (t, t.new_empty(self.blocks, t.shape[1], BLOCK, t.shape[3]))
                for t in rows
                if self.bytes
            ]
        except (RuntimeError, MemoryError) as error:
            raise SteerdeckError(
                f"the prefix cache of {self.bytes / 1e9:.2g} GB does not fit into the memory of "
                f"{rows[0].device}: lower STEERDECK_PREFIX_CACHE, --max-rows or --max-context."
            ) from error

    @property
    def positions(self) -> int:
        """How many it holds."""
        return self.blocks * BLOCK

    def save(self, row: int, start: int, ids: Sequence[int]) -> None:
        """Copy the blocks of a row from position `start` on."""
        for slots, kept in self._pairs:
            kept[self._at(ids)] = _blocks(slots, row, start, len(ids)).transpose(0, 1)

    def load(self, ids: Sequence[int], row: int) -> None:
        """Copy blocks to the beginning of a row."""
        for slots, kept in self._pairs:
            _blocks(slots, row, 0, len(ids)).copy_(kept[self._at(ids)].transpose(0, 1))

    def _at(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor(ids, device=self._pairs[0][0].device)


def _blocks(slots: Tensor, row: int, start: int, count: int) -> Tensor:
    """View [kv_heads, blocks, BLOCK, head_dim]."""
    piece = slots[row, :, start : start + count * BLOCK]
    return piece.view(len(piece), count, BLOCK, -1)
