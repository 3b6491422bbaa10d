"""The conditions that read one dictionary: since which position each has held, row by row.

A condition that latches holds at every position from the first at which it was met. What is kept is
that position, so that computing tokens again, or a prompt in chunks, gives the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dictionaries.dictionary import Dictionary
from dictionaries.edits import FeatureRows, read

from .conditions import CONDITIONS, Condition, Crossing
from .part import Part, by_token

NEVER = 2**31  # no position is as large
# gain, offset, gate, threshold (this one never fires), value (nothing is above it)
_IDLE = (0.0, 0.0, 0.0, math.inf, math.inf)


class Watch:
    def __init__(self, dictionary: Dictionary, rows: int, device: torch.device) -> None:
        self.dictionary = dictionary
        self.since = torch.full((rows, 1, CONDITIONS), NEVER, dtype=torch.long, device=device)
        width = dictionary.info.d_in if dictionary.info.reads_exactly else 0  # nothing can watch
        self._enc = torch.zeros(rows, CONDITIONS, width, device=device)
        idle = torch.tensor(_IDLE, device=device)[:, None, None, None]
        self._numbers = idle.repeat(1, rows, 1, CONDITIONS)  # [5, rows, 1, conditions]
        self._below = torch.zeros(rows, 1, CONDITIONS, dtype=torch.bool, device=device)
        self._latch = torch.zeros_like(self._below)
        self._rows: list[frozenset[int]] = [frozenset()] * rows  # the slots in use

    def write(self, row: int, features: FeatureRows | None, slots: Mapping[int, Condition]) -> None:
        """Replace what a row watches. features: of the conditions of `slots`, in their order."""
        for slot in self._rows[row]:
            self._enc[row, slot] = 0.0
            self._numbers[:, row, 0, slot] = torch.tensor(_IDLE, device=self._enc.device)
            self._below[row, 0, slot] = self._latch[row, 0, slot] = False
        self.since[row] = NEVER
        self._rows[row] = frozenset(slots)
        for i, (slot, condition) in enumerate(slots.items()):
            assert features is not None
            self._enc[row, slot] = features.enc[i]
            own = (features.gain, features.offset, features.gate, features.threshold)
            value = condition.value
            numbers = torch.tensor([*(one[i].item() for one in own), value])
            self._numbers[:, row, 0, slot] = numbers.to(self._enc.device)
            self._below[row, 0, slot] = condition.op is Crossing.BELOW
            self._latch[row, 0, slot] = condition.latch

    @property
    def busy(self) -> bool:
        return any(self._rows)

    def watches(self, rows: slice) -> bool:
        return any(self._rows[rows])

    def look(self, h: Tensor, part: Part) -> None:
        """Note in the part's clock which conditions hold. h: [rows, tokens, d_in], see `frame`."""
        assert part.clock is not None
        rows, at, met = part.rows, part.clock.positions, part.clock.met
        gain, offset, gate, threshold, value = self._numbers[:, rows].unbind(0)
        enc = self._enc[rows]
        features = FeatureRows(enc, gain, offset, gate, threshold, enc)
        watching = (i for i, slots in enumerate(self._rows[rows]) if slots)
        cutoff = cutoffs(self.dictionary, h, watching)
        f = by_token(lambda h, cutoff: read(h, features, cutoff), h, cutoff)
        below, latch = self._below[rows], self._latch[rows]
        holds = torch.where(below, f < value, f > value)
        if part.steerable is not None:
            holds &= part.steerable
        found = torch.where(holds, at, NEVER).amin(1, keepdim=True)
        since = torch.minimum(found, self.since[rows])
        self.since[rows] = since
        held = torch.where(latch, at >= since, holds)
        met[..., 1:] |= held[..., : met.shape[-1] - 1]


def cutoffs(dictionary: Dictionary, h: Tensor, rows: Iterable[int]) -> Tensor | None:
    """TopK: each token's own threshold [rows, tokens, 1], found for some rows only; infinite for
    the others. None for other dictionaries.
    """
    if dictionary.info.k is None:
        return None
    cutoff = torch.full_like(h[..., :1], torch.inf)
    if own := list(rows):
        found = dictionary.cutoff(h[own])
        assert found is not None
        cutoff[own] = found
    return cutoff
