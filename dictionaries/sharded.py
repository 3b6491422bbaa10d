"""One tensor that lies in several pieces, each a range of its rows, of its columns, or of both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

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


class Piece(NamedTuple):
    """start: where it begins in the tensor, by axis."""

    start: tuple[int, ...]
    stored: Stored


def joined(name: str, shape: tuple[int, ...], pieces: Sequence[Piece]) -> Stored | None:
    """The tensor that the pieces make up, whatever their order: cut along one axis, or into strips
    and each of those along another, as processes of a mesh do. None where they make up no tensor of
    that shape, or are not all of one type.
    """
    if len({piece.stored.dtype for piece in pieces}) != 1:
        return None
    return _joined(name, (0,) * len(shape), shape, pieces, range(len(shape)))


def _joined(
    name: str,
    start: tuple[int, ...],
    shape: tuple[int, ...],
    pieces: Sequence[Piece],
    axes: Sequence[int],
) -> Stored | None:
    """What the pieces, cut along `axes`, make of the part of it with that start and shape."""
    if len(pieces) == 1:
        at, stored = pieces[0]
        return stored if at == start and stored.shape == shape else None
    for axis in axes:
        strips = defaultdict(list)
        for piece in pieces:
            strips[piece.start[axis]].append(piece)
        begins = sorted(strips)
        if len(begins) == 1 or begins[0] != start[axis]:
            continue
        ends = [*begins[1:], start[axis] + shape[axis]]
        others = [other for other in axes if other != axis]
        parts = []
        for begin, end in zip(begins, ends, strict=True):
            from_, size = _with(start, axis, begin), _with(shape, axis, end - begin)
            part = _joined(name, from_, size, strips[begin], others)
            if part is None:
                break
            parts.append(part)
        else:
            return ShardedTensor(name, parts, axis)
    return None


def _with(numbers: tuple[int, ...], axis: int, number: int) -> tuple[int, ...]:
    return (*numbers[:axis], number, *numbers[axis + 1 :])
