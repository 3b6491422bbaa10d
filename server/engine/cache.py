"""Keys and values of the running rows: one pair of tensors a layer, one slot a row.

Tensors are made when a layer first writes, in the shape that layer has, so models whose layers
differ in heads or head size need nothing special. They start as zeros, and what may not be finite
is zeroed: a masked position still enters the attention as 0 * value, and 0 * nan would be nan.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import SteerdeckError

_LINE = 64  # bytes of a cache line, at which torch's own memory begins


class SlotCache:
    def __init__(self, rows: int, capacity: int) -> None:
        self.rows = rows
        self.capacity = capacity  # positions a row
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [rows, kv_heads, capacity, head_dim], shaped like `key` and `value`.

        Raises SteerdeckError where the device has no memory left for them.
        """
        pair = self._layers.get(index)
        if pair is None:
            try:
                pair = self._zeros(key), self._zeros(value)
            except (RuntimeError, MemoryError) as error:  # a Mac's GPU has no type of its own
                raise self._too_large(index, key, value) from error
            self._layers[index] = pair
        return pair

    def tensors(self) -> list[Tensor]:
        """Those of all layers that have written."""
        return [tensor for pair in self._layers.values() for tensor in pair]

    def _zeros(self, like: Tensor) -> Tensor:
        shape = (self.rows, like.shape[1], self.capacity, like.shape[-1])
        if like.device.type == "cpu":
            return _untouched(shape, like.dtype)
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def _too_large(self, index: int, key: Tensor, value: Tensor) -> SteerdeckError:
        held = sum(tensor.nbytes for tensor in self.tensors())
        each = sum(like.shape[1] * like.shape[-1] * like.element_size() for like in (key, value))
        more = each * self.rows * self.capacity
        return SteerdeckError(
            f"the keys and values of {self.rows} rows x {self.capacity} tokens do not fit into the "
            f"memory of {key.device}: {held / 1e9:.2g} GB are reserved for {len(self._layers)} "
            f"layers, and layer {index} needs {more / 1e9:.2g} GB more. Give fewer rows "
            "(--max-rows) or a shorter context (--max-context)."
        )

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one row to another."""
        for tensor in self.tensors():
            tensor[target, :, :length] = tensor[source, :, :length]

    def clear(self, row: int, length: int) -> None:
        """Zero its first `length` positions."""
        for tensor in self.tensors():
            tensor[row, :, :length].zero_()


def _untouched(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory of the machine until they are written to, which torch's do at once:
    it writes them itself.
    """
    size = math.prod(shape) * dtype.itemsize
    raw = np.zeros(size + _LINE, dtype=np.uint8)
    first = -raw.ctypes.data % _LINE
    return torch.from_numpy(raw[first : first + size]).view(dtype).view(shape)
