"""Feature-major rows on disk, with what else is known of a feature behind each row.

A record is a matrix row in its stored type, then float32 numbers (bias, threshold, …): everything
one side of a feature takes is a single `pread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import DictionaryError
from .tensors import FileTensor


class Records:
    """The records of one matrix: `Rows` for `Weights`, and a `PerFeature` for each number.

    The last records read are kept, because a row and its numbers are asked for one after another.
    """

    def __init__(
        self,
        stored: FileTensor,  # uint8 [d_sae, bytes of a record]
        width: int,
        dtype: torch.dtype,
        numbers: Sequence[str],
        path: Path,
    ) -> None:
        self.features, size = stored.shape
        self.width = width
        self.dtype = dtype
        self._row = width * dtype.itemsize
        self.names = tuple(numbers)
        self._stored, self._path = stored, path
        self._last: tuple[tuple[int, ...], Tensor] | None = None
        if size != self._row + 4 * len(self.names):
            raise DictionaryError(
                f"{path} contradicts itself: a record of {width} numbers of {dtype} and "
                f"{', '.join(self.names) or 'nothing else'} does not take {size} bytes. Pack it "
                "again."
            )

    contiguous = True

    def rows(self, ids: Sequence[int]) -> Tensor:
        """[len(ids), width] float32."""
        return self._matrix(self._read(tuple(ids)))

    def block(self, start: int, stop: int) -> Tensor:
        """[stop - start, width] float32."""
        return self._matrix(self._read(tuple(range(start, stop))))

    def raw(self, start: int, stop: int) -> Tensor:
        """[stop - start, width] as stored."""
        records = self._read(tuple(range(start, stop)))
        return records[:, : self._row].contiguous().view(self.dtype)

    def numbers(self, name: str) -> Number:
        """One number of every record, read with it."""
        return Number(self, self._row + 4 * self.names.index(name), name, self._path)

    def _matrix(self, records: Tensor) -> Tensor:
        return records[:, : self._row].contiguous().view(self.dtype).float()

    def _read(self, ids: tuple[int, ...]) -> Tensor:
        """[len(ids), bytes of a record]."""
        last = self._last
        if last is not None and last[0] == ids:
            return last[1]
        if ids and ids == tuple(range(ids[0], ids[0] + len(ids))):
            found = self._stored.raw(0, ids[0], ids[0] + len(ids))
        else:
            parts = [self._stored.raw(0, i, i + 1) for i in ids]
            found = torch.cat(parts) if parts else torch.empty(0, self._stored.shape[1]).byte()
        self._last = (ids, found)
        return found


@dataclass(frozen=True, slots=True)
class Number:
    """One float32 of every record: see `per_feature.PerFeature`."""

    records: Records
    at: int  # its first byte
    name: str
    path: Path

    def __len__(self) -> int:
        return self.records.features

    def __getitem__(self, ids: Tensor) -> Tensor:
        wanted = tuple(ids.tolist())
        read = self.records._read(wanted)[:, self.at : self.at + 4]
        # Copied: of one record they are contiguous where they lie, and that is at any byte.
        aligned = read.clone(memory_format=torch.contiguous_format)
        values = aligned.view(torch.float32).flatten()
        bad = ~values.isfinite()
        if bad.any():
            raise DictionaryError(
                f"the {self.name} of feature {int(ids[bad][0])} in {self.path} is NaN or infinity: "
                "the file is damaged. Pack it again."
            )
        return values
