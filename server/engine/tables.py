"""The steering tables of one dictionary: for every row, the edits it has there.

Everything is allocated once, [rows, edits, ..]. A row that is not steered, and the entries a row
does not use, are neutral: their features never fire and their edits change nothing, so the same
arithmetic over all rows adds an exact zero to them. Admitting a reply and steering it live write
one row in place; a step only looks at views of the first rows and entries, kept while their
number stays the same, and gathers nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import torch
from torch import Tensor

from dictionaries.edits import UNTOUCHED, Edit, EditTable, FeatureRows

from .native.edits import Edits, laid_out
from .types import FeatureEdit, Where


class Phase(IntEnum):
    PROMPT = 0
    GENERATED = 1


# The numbers of an entry: four of its feature (gain, offset, gate, threshold: this one never
# fires), then the four of its edit for each phase.
_NEUTRAL = (0.0, 0.0, 0.0, math.inf, *UNTOUCHED, *UNTOUCHED)


@dataclass(frozen=True, slots=True)
class Entries:
    """What one reply edits of one dictionary: k features, ready to be written to a row."""

    features: FeatureRows
    numbers: Tensor  # [12, k], in the order of _NEUTRAL
    adds: Tensor  # bool [2, k], by phase
    acts: Tensor  # bool [2, k], likewise
    reads: bool  # whether any edit depends on its activation

    def __len__(self) -> int:
        return self.numbers.shape[1]


@dataclass(frozen=True)
class View:
    """The tables of some rows, for one phase, as dictionaries.edits takes them.

    adds: true where the edit adds `shift` whatever the activation is. acts: where there is an edit.
    """

    features: FeatureRows
    edits: EditTable
    adds: Tensor  # bool [rows, 1, k]
    acts: Tensor  # bool [rows, 1, k]

    @cached_property
    def laid_out(self) -> Edits:
        """As our own code reads it."""
        return laid_out(self)


def only_adds(edit: Edit) -> bool:
    return edit.scale == 1.0 and edit.floor == -math.inf and edit.ceiling == math.inf


def acts_in(edit: FeatureEdit, phase: Phase) -> bool:
    if phase is Phase.PROMPT:
        return edit.where is not Where.GENERATED and not edit.timing.skips_prompt
    return edit.where is not Where.PROMPT


def entries(features: FeatureRows, edits: Sequence[FeatureEdit]) -> Entries:
    """Lay the k edits out beside the rows of their features."""
    own = torch.stack([features.gain, features.offset, features.gate, features.threshold])
    numbers, adds = [own.float().cpu()], []
    acts = [[acts_in(edit, phase) for edit in edits] for phase in Phase]
    for acting in acts:
        fours = [e.edit if a else UNTOUCHED for e, a in zip(edits, acting, strict=True)]
        numbers.append(torch.tensor(fours, dtype=torch.float32).T)
        adds.append([only_adds(four) for four in fours])
    reads = any(not only_adds(edit.edit) for edit in edits)
    return Entries(features, torch.cat(numbers), torch.tensor(adds), torch.tensor(acts), reads)


class Table:
    """reads: whether activations are read here; if not, the encoder's rows are not held."""

    def __init__(
        self, rows: int, width: int, d: int, device: torch.device, *, reads: bool = True
    ) -> None:
        self.enc = torch.zeros(rows, width, d if reads else 0, device=device)
        self.dec = torch.zeros(rows, width, d, device=device)
        neutral = torch.tensor(_NEUTRAL, device=device)
        self.numbers = neutral[:, None, None, None].repeat(1, rows, 1, width)  # [12, rows, 1, k]
        self.adds = torch.zeros(2, rows, 1, width, dtype=torch.bool, device=device)
        self.acts = torch.zeros_like(self.adds)
        self.rows: list[Entries | None] = [None] * rows
        self.width = 0  # entries in use by the row that has most
        self._neutral = neutral[:, None]
        self._views: dict[tuple[int, int, int, Phase], View] = {}

    def write(self, row: int, new: Entries | None) -> None:
        """Replace what a row edits, in place; None makes it neutral."""
        old, self.rows[row] = self.rows[row], new
        used = 0 if old is None else len(old)
        k = 0 if new is None else len(new)
        if new is not None:
            self.enc[row, :k].copy_(new.features.enc[:, : self.enc.shape[-1]])
            self.dec[row, :k].copy_(new.features.dec)
            self.numbers[:, row, 0, :k].copy_(new.numbers)
            self.adds[:, row, 0, :k].copy_(new.adds)
            self.acts[:, row, 0, :k].copy_(new.acts)
        if used > k:
            self.enc[row, k:used].zero_()
            self.dec[row, k:used].zero_()
            self.numbers[:, row, 0, k:used] = self._neutral
            self.adds[:, row, 0, k:used] = False
            self.acts[:, row, 0, k:used] = False
        width = max((len(entry) for entry in self.rows if entry is not None), default=0)
        if width != self.width:
            self.width = width
            self._views.clear()

    def steers(self, rows: slice) -> bool:
        return any(entry is not None for entry in self.rows[rows])

    def view(self, rows: slice, phase: Phase) -> View:
        """The tables of consecutive rows, cut to the entries in use."""
        key = (rows.start, rows.stop, self.width, phase)
        view = self._views.get(key)
        if view is None:
            if len(self._views) > 256:
                self._views.clear()
            view = self._views[key] = self._cut(rows, phase)
        return view

    def _cut(self, rows: slice, phase: Phase) -> View:
        used = slice(0, self.width)
        gain, offset, gate, threshold, *edits = self.numbers[:, rows, :, used].unbind(0)
        return View(
            FeatureRows(self.enc[rows, used], gain, offset, gate, threshold, self.dec[rows, used]),
            EditTable(*edits[4 * phase : 4 * phase + 4]),
            self.adds[phase, rows, :, used],
            self.acts[phase, rows, :, used],
        )
