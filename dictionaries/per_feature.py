"""One number a feature (a bias, a threshold), for as many features as there are.

Tens of millions of them take longer to read than all that a steered reply needs, so a vector is
read where it is asked for: `numbers[ids]`. A plain tensor serves as well where it is small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .errors import DictionaryError
from .tensors import Stored

HELD = 2**20  # numbers; a vector of no more is read and checked when its dictionary is opened


class PerFeature(Protocol):
    """What `Weights` asks of its vectors; tensors [d_sae] have it."""

    def __len__(self) -> int: ...

    def __getitem__(self, ids: Tensor, /) -> Tensor:
        """[len(ids)] float32, for ids in any order (int64, within range)."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The same number for every feature."""

    features: int
    value: float

    def __len__(self) -> int:
        return self.features

    def __getitem__(self, ids: Tensor) -> Tensor:
        return torch.full((len(ids),), self.value)


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A stored vector, read number by number; neighbouring features cost one read together."""

    stored: Stored
    path: Path  # of its file, for the error

    def __len__(self) -> int:
        return self.stored.shape[0]

    def __getitem__(self, ids: Tensor) -> Tensor:
        if len(ids) == 0:
            return torch.empty(0)
        first, last = int(ids[0]), int(ids[-1])
        if last - first == len(ids) - 1 and bool((ids.diff() == 1).all()):
            read = self.stored.span(first, last + 1)
        else:
            read = torch.cat([self.stored.span(i, i + 1) for i in ids.tolist()])
        bad = ~read.isfinite()
        if bad.any():
            raise DictionaryError(
                f"tensor {self.stored.name!r} of {self.path} holds NaN or infinity at feature "
                f"{int(ids[bad][0])}: the file is damaged. Download it again."
            )
        return read


@dataclass(frozen=True, slots=True)
class _Mapped:
    numbers: PerFeature
    change: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, ids: Tensor) -> Tensor:
        return self.change(self.numbers[ids])


def mapped(numbers: PerFeature, change: Callable[[Tensor], Tensor]) -> PerFeature:
    """The numbers with an elementwise change; it is made when they are read, if they are not."""
    return change(numbers) if isinstance(numbers, Tensor) else _Mapped(numbers, change)
