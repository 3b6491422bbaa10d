"""Reading parts of a stored tensor without loading it.

An SAE's matrices are gigabytes, and a steered feature needs one row of each. A row that is
contiguous on disk costs one `pread`. One that is strided (a column of the stored matrix) costs a
single pass over the lines, which reads only the stretches that hold wanted elements. Neither maps
the file: memory stays at the size of the answer plus one bounded buffer, and cold reads touch
only the pages they need (a memory map would read ahead by megabytes a row).
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from . import absent
from .errors import DictionaryError

BUFFER = 8 * 2**20  # bytes read before they are cut down to what is wanted
GAP = 64 * 2**10  # wanted elements this close on disk are read in one go


class Stored(ABC):
    """A tensor on disk. All values come out float32, on the CPU."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype

    @abstractmethod
    def load(self) -> Tensor:
        """All of it, in its own shape."""

    @abstractmethod
    def gather(self, axis: int, ids: Sequence[int]) -> Tensor:
        """[len(ids), other axis]: chosen rows (axis 0) or columns (axis 1) of a matrix."""

    @abstractmethod
    def block(self, axis: int, start: int, stop: int) -> Tensor:
        """[stop - start, other axis]: neighbouring rows or columns of a matrix."""

    @abstractmethod
    def raw(self, axis: int, start: int, stop: int) -> Tensor:
        """`block` in the stored type, and in whatever order of memory it was read."""

    @abstractmethod
    def contiguous(self, axis: int) -> bool:
        """Whether a row (axis 0) or column (axis 1) of a matrix lies in one piece."""

    @abstractmethod
    def span(self, start: int, stop: int) -> Tensor:
        """[stop - start]: neighbouring numbers of a vector."""

    @abstractmethod
    def flattened(self) -> Stored:
        """The same numbers as a matrix [first axis, all the others]."""


class File:
    """An open file read only at given places, so that many threads may share it.

    Of one that is elsewhere (see `absent`), what is read is fetched first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._absent = absent.at(path)
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY)
            self.size = os.fstat(self._fd).st_size
        except OSError as error:
            raise DictionaryError(f"{path} cannot be opened: {error.strerror}.") from error

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer from a place in the file."""
        if self._absent is not None:
            self._absent.fetch(offset, offset + len(buffer))
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise DictionaryError(f"{self.path} cannot be read: {error.strerror}.") from error
            if count == 0:
                raise DictionaryError(
                    f"{self.path} ends before byte {offset + len(buffer)}: it was cut short, or "
                    "changed while in use. Download it again."
                )
            done += count

    def read(self, offset: int, count: int) -> bytes:
        buffer = bytearray(count)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class FileTensor(Stored):
    """A tensor whose bytes lie in one piece at `offset` of a file.

    fortran: stored column by column (numpy's fortran_order), a matrix at most.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        file: File,
        offset: int,
        fortran: bool = False,
    ) -> None:
        super().__init__(name, shape, dtype)
        self._file, self._offset, self._fortran = file, offset, fortran

    def load(self) -> Tensor:
        flat = self._elements(0, math.prod(self.shape)).float()
        return flat.view(self.shape[::-1]).T if self._fortran else flat.view(self.shape)

    def gather(self, axis: int, ids: Sequence[int]) -> Tensor:
        if not ids:
            return torch.empty(0, self.shape[1 - axis])
        if self.contiguous(axis):
            width = self.shape[1 - axis]
            return torch.stack([self._elements(i * width, width).float() for i in ids])
        spans, pick = _spans(ids, GAP // self.dtype.itemsize)
        return self._columns(axis, spans, torch.tensor(pick))

    def block(self, axis: int, start: int, stop: int) -> Tensor:
        return self.raw(axis, start, stop).float().contiguous()

    def raw(self, axis: int, start: int, stop: int) -> Tensor:
        line, lines, count = self.shape[axis], self.shape[1 - axis], stop - start
        if self.contiguous(axis):
            return self._elements(start * lines, count * lines).view(count, lines)
        if count * lines == 0:
            return torch.empty(count, lines, dtype=self.dtype)
        size = self.dtype.itemsize
        buffer = bytearray(lines * count * size)
        view = memoryview(buffer)
        for i in range(lines):
            place = self._offset + (i * line + start) * size
            self._file.read_into(view[i * count * size : (i + 1) * count * size], place)
        return torch.frombuffer(buffer, dtype=self.dtype).view(lines, count).T

    def span(self, start: int, stop: int) -> Tensor:
        return self._elements(start, stop - start).float()

    def flattened(self) -> Stored:
        shape = (self.shape[0], math.prod(self.shape[1:]))
        return FileTensor(self.name, shape, self.dtype, self._file, self._offset, self._fortran)

    def contiguous(self, axis: int) -> bool:
        return (axis == 0) != self._fortran

    def _columns(self, axis: int, spans: list[tuple[int, int]], pick: Tensor) -> Tensor:
        """One pass over the lines, reading `spans` of each and keeping elements `pick` of those."""
        line, lines = self.shape[axis], self.shape[1 - axis]
        size = self.dtype.itemsize
        width = sum(stop - start for start, stop in spans)
        out = torch.empty(len(pick), lines)
        at_once = max(1, BUFFER // (width * size))
        buffer = bytearray(at_once * width * size)
        view, block = memoryview(buffer), torch.frombuffer(buffer, dtype=self.dtype)
        for first in range(0, lines, at_once):
            count = min(at_once, lines - first)
            at = 0
            for i in range(first, first + count):
                for start, stop in spans:
                    end = at + (stop - start) * size
                    self._file.read_into(view[at:end], self._offset + (i * line + start) * size)
                    at = end
            out[:, first : first + count] = block.view(at_once, width)[:count, pick].T
        return out

    def _elements(self, start: int, count: int) -> Tensor:
        if count == 0:
            return torch.empty(0, dtype=self.dtype)
        buffer = bytearray(count * self.dtype.itemsize)
        self._file.read_into(memoryview(buffer), self._offset + start * self.dtype.itemsize)
        return torch.frombuffer(buffer, dtype=self.dtype)


class MappedTensor(Stored):
    """A torch tensor over a memory-mapped file (what `torch.load(mmap=True)` returns)."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        super().__init__(name, tuple(tensor.shape), tensor.dtype)
        self._tensor = tensor

    def load(self) -> Tensor:
        return self._tensor.to(torch.float32, copy=True)

    def gather(self, axis: int, ids: Sequence[int]) -> Tensor:
        picked = self._tensor.index_select(axis, torch.tensor(ids, dtype=torch.long)).float()
        return picked if axis == 0 else picked.T.contiguous()

    def block(self, axis: int, start: int, stop: int) -> Tensor:
        return self.raw(axis, start, stop).to(torch.float32, copy=True).contiguous()

    def raw(self, axis: int, start: int, stop: int) -> Tensor:
        part = self._tensor.narrow(axis, start, stop - start)
        return part if axis == 0 else part.T

    def contiguous(self, axis: int) -> bool:
        return self._tensor.stride(1 - axis) == 1

    def span(self, start: int, stop: int) -> Tensor:
        return self._tensor[start:stop].to(torch.float32, copy=True)

    def flattened(self) -> Stored:
        return MappedTensor(self.name, self._tensor.flatten(1))


def _spans(ids: Sequence[int], gap: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Stretches [start, stop) covering all ids, and where in the joined stretches each id lies."""
    spans: list[tuple[int, int]] = []
    place: dict[int, int] = {}
    width = 0  # of all closed stretches
    for i in sorted(set(ids)):
        if spans and i - spans[-1][1] <= gap:
            spans[-1] = (spans[-1][0], i + 1)
        else:
            width += spans[-1][1] - spans[-1][0] if spans else 0
            spans.append((i, i + 1))
        place[i] = width + i - spans[-1][0]
    return spans, [place[i] for i in ids]
