"""One tensor that lies in several pieces, each a range of its rows or of its columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .tensors import Stored


class ShardedTensor(Stored):
    """parts: the pieces in their order along `axis`; along any other they are as long as it."""

    def __init__(self, name: str, parts: Sequence[Stored], axis: int) -> None:
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        super().__init__(name, tuple(shape), parts[0].dtype)
        self._parts, self._axis = list(parts), axis

    def load(self) -> Tensor:
        return torch.cat([part.load() for part in self._parts], dim=self._axis)

    def gather(self, axis: int, ids: Sequence[int]) -> Tensor:
        if axis != self._axis:
            return torch.cat([part.gather(axis, ids) for part in self._parts], dim=1)
        out = torch.empty(len(ids), self.shape[1 - axis])
        for part, start in self._placed():
            wanted = [at for at, i in enumerate(ids) if 0 <= i - start < part.shape[axis]]
            if wanted:
                out[wanted] = part.gather(axis, [ids[at] - start for at in wanted])
        return out

    def block(self, axis: int, start: int, stop: int) -> Tensor:
        return self.raw(axis, start, stop).float().contiguous()

    def raw(self, axis: int, start: int, stop: int) -> Tensor:
        if axis != self._axis:
            return torch.cat([part.raw(axis, start, stop) for part in self._parts], dim=1)
        return self._range(start, stop, lambda part, *span: part.raw(axis, *span))

    def span(self, start: int, stop: int) -> Tensor:
        return self._range(start, stop, lambda part, *span: part.span(*span))

    def contiguous(self, axis: int) -> bool:
        return axis == self._axis and all(part.contiguous(axis) for part in self._parts)

    def flattened(self) -> Stored:
        if self._axis != 0:
            raise ValueError("only what is split along its first axis can be flattened")
        return ShardedTensor(self.name, [part.flattened() for part in self._parts], 0)

    def _placed(self) -> Iterator[tuple[Stored, int]]:
        """Each part, and where it begins."""
        start = 0
        for part in self._parts:
            yield part, start
            start += part.shape[self._axis]

    def _range(self, start: int, stop: int, read: Callable[[Stored, int, int], Tensor]) -> Tensor:
        """[start, stop) along the axis that is split, of the parts that have something of it."""
        found = []
        for part, first in self._placed():
            begin, end = max(start - first, 0), min(stop - first, part.shape[self._axis])
            if begin < end:
                found.append(read(part, begin, end))
        return torch.cat(found) if found else read(self._parts[0], 0, 0)
