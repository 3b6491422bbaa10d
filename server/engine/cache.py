"""Keys and values of the running rows: one pair of tensors a layer, one slot a row.

Tensors are made when a layer first writes, in the shape that layer has, so models whose layers
differ in heads or head size need nothing special. They start as zeros, and what may not be finite
is zeroed: a masked position still enters the attention as 0 * value, and 0 * nan would be nan.
"""

from __future__ import annotations

import torch
from torch import Tensor


class SlotCache:
    def __init__(self, rows: int, capacity: int) -> None:
        self.rows = rows
        self.capacity = capacity  # positions a row
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [rows, kv_heads, capacity, head_dim], shaped like `key` and `value`."""
        pair = self._layers.get(index)
        if pair is None:
            pair = self._zeros(key), self._zeros(value)
            self._layers[index] = pair
        return pair

    def tensors(self) -> list[Tensor]:
        """Those of all layers that have written."""
        return [tensor for pair in self._layers.values() for tensor in pair]

    def _zeros(self, like: Tensor) -> Tensor:
        shape = (self.rows, like.shape[1], self.capacity, like.shape[-1])
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one row to another."""
        for tensor in self.tensors():
            tensor[target, :, :length] = tensor[source, :, :length]

    def clear(self, row: int, length: int) -> None:
        """Zero its first `length` positions."""
        for tensor in self.tensors():
            tensor[row, :, :length].zero_()
