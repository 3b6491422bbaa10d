"""The most of something over a whole dictionary, read a block of features at a time.

Memory stays at one block and the answer, whatever the number of features.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .edits import FeatureRows, topk_cutoff

Blocks = Iterable[tuple[int, Tensor]]  # (id of its first feature, [.., features])

_REMEMBERED = 256  # answers: whoever looks at features goes back and forth


def largest(blocks: Blocks, n: int) -> tuple[Tensor, Tensor]:
    """The n largest numbers of each row and their features, [.., n], largest first.

    Fewer than n where there are fewer features. Among equals any may come.
    """
    found = largest_of_each(((start, (block,)) for start, block in blocks), n)
    return found[0] if found else (torch.empty(0), torch.empty(0))


def largest_of_each(
    blocks: Iterable[tuple[int, Iterable[Tensor]]], n: int
) -> list[tuple[Tensor, Tensor]]:
    """`largest` of several sets of rows, of which a block each comes in turn: one pass for all."""
    found: list[tuple[Tensor, Tensor]] = []
    for start, sets in blocks:
        found = [
            _larger(known, start, block, n)
            for known, block in zip(found or itertools.repeat(None), sets, strict=False)
        ]
    return found


def _larger(
    known: tuple[Tensor, Tensor] | None, start: int, block: Tensor, n: int
) -> tuple[Tensor, Tensor]:
    """The n largest of those that are known and of a block, whose first feature is `start`."""
    top = block.topk(min(n, block.shape[-1]), dim=-1)
    if known is None:
        return top.values, start + top.indices
    values, ids = (
        torch.cat([known[0], top.values], -1),
        torch.cat([known[1], start + top.indices], -1),
    )
    best = values.topk(min(n, values.shape[-1]), dim=-1)
    return best.values, ids.gather(-1, best.indices)


def cutoffs(
    encoder: Iterable[tuple[int, FeatureRows]], hs: Sequence[Tensor], k: int
) -> list[Tensor]:
    """`topk_cutoff` [.., 1] of each h [.., d_in], of an encoder that comes once, block by block."""
    z = ((start, (h @ rows.enc.T + rows.gate for h in hs)) for start, rows in encoder)
    return [topk_cutoff(values, k) for values, _ in largest_of_each(z, k + 1)]


def nearest(
    blocks: Blocks, own: Tensor, features: Sequence[int], n: int
) -> list[list[tuple[int, float]]]:
    """For each feature the n others with the largest cosines: (id, cosine), nearest first.

    blocks: every decoder row, [features, d_out] a block. own: those of `features`, on the device
    that is to compute. One pass for all of them: ask for many in one call.
    """
    own = normalize(own, dim=-1)
    ids = torch.tensor(features, dtype=torch.long, device=own.device)
    found, which = largest(_cosines(blocks, own, ids), n + 1)  # itself, at -2, may be among them
    return [
        sorted(
            ((i, c) for i, c in zip(near, cosines, strict=True) if c > -2.0),
            key=lambda pair: (-pair[1], pair[0]),
        )[:n]
        for near, cosines in zip(which.tolist(), found.tolist(), strict=True)
    ]


class Nearest:
    """`nearest` for one feature after another of one dictionary, each by a scan of the disk.

    One scan at a time: two would take from each other, and whoever clicks twice wants the same.
    """

    def __init__(self) -> None:
        self._scanning = threading.Lock()
        self._kept: dict[tuple[int, int], list[tuple[int, float]]] = {}

    def of(
        self, directions: Callable[[], Blocks], own: Tensor, feature: int, n: int
    ) -> list[tuple[int, float]]:
        """The n nearest of a feature. own: its direction, [1, d_out]."""
        key = feature, n
        if (known := self._kept.get(key)) is not None:
            return list(known)
        with self._scanning:
            if key not in self._kept:
                (found,) = nearest(directions(), own, [feature], n)
                if len(self._kept) >= _REMEMBERED:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = found
            return list(self._kept[key])


def _cosines(blocks: Blocks, own: Tensor, ids: Tensor) -> Blocks:
    """[len(ids), features] a block. A dead feature's zero row has cosine 0 with every other."""
    for start, rows in blocks:
        cosines = own @ normalize(rows.to(own.device), dim=-1).T
        mine = ((ids >= start) & (ids < start + len(rows))).nonzero()[:, 0]
        cosines[mine, ids[mine] - start] = -2.0
        yield start, cosines
