"""When the edits of one dictionary act: a table beside theirs, for every row and edit.

It is only computed with while some row has an edit that does not always act; the other rows' edits
are then open everywhere and at full weight, which changes none of their bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .conditions import ALWAYS, Condition, Thinking, Timing
from .part import Clock

# first and last position, the position at which a decay begins, and its rate
_OPEN = (-math.inf, math.inf, 0.0, 0.0)


class Opening(NamedTuple):
    """acts: bool [rows, tokens, k]. weight: the part of each edit's change that is made."""

    acts: Tensor
    weight: Tensor | None  # float32 [rows, tokens, k], None for all of it


class Gates:
    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self._times = torch.tensor(_OPEN, device=device)[:, None, None, None].repeat(
            1, rows, 1, width
        )  # [4, rows, 1, k]
        # The column of Clock.met that must be true, and whether it acts outside thinking, inside.
        self._needs = torch.zeros(rows, 1, width, dtype=torch.long, device=device)
        self._sides = torch.ones(2, rows, 1, width, dtype=torch.bool, device=device)
        self._rows: list[Sequence[Timing]] = [()] * rows

    def write(
        self, row: int, timings: Sequence[Timing], columns: Mapping[Condition, int], start: int
    ) -> None:
        """Replace what a row has. start: the position of its first reply token."""
        timings = timings if any(timing != ALWAYS for timing in timings) else ()
        used = len(self._rows[row])
        self._rows[row] = timings
        if used:
            self._times[:, row, 0, :used] = torch.tensor(_OPEN, device=self._times.device)[:, None]
            self._needs[row, 0, :used] = 0
            self._sides[:, row, 0, :used] = True
        for k, timing in enumerate(timings):
            times = torch.tensor(_times(timing, start), device=self._times.device)
            self._times[:, row, 0, k] = times
            if timing.when is not None:
                self._needs[row, 0, k] = columns[timing.when]
            if timing.thinking is not None:
                self._sides[int(timing.thinking is Thinking.AFTER), row, 0, k] = False

    def timed(self, rows: slice) -> bool:
        return any(self._rows[rows])

    def opening(self, rows: slice, width: int, clock: Clock) -> Opening:
        """What of the first `width` edits of these rows acts at the tokens of `clock`."""
        first, last, begins, rate = self._times[:, rows, :, :width].unbind(0)
        at = clock.positions
        acts = (at >= first) & (at <= last)
        needs = self._needs[rows, :, :width]
        acts &= clock.met.gather(-1, needs.expand(-1, at.shape[1], -1))
        outside, inside = self._sides[:, rows, :, :width].unbind(0)
        thinking = clock.thinking
        acts &= outside if thinking is None else torch.where(thinking, inside, outside)
        decays = any(timing.half_life for timings in self._rows[rows] for timing in timings)
        weight = torch.exp2(-rate * (at - begins).clamp_min(0.0)) if decays else None
        return Opening(acts, weight)


def _times(timing: Timing, start: int) -> tuple[float, float, float, float]:
    first = -math.inf if timing.first is None else start + timing.first
    last = math.inf if timing.last is None else start + timing.last
    begins = start + (timing.first or 0)
    return first, last, begins, 1.0 / timing.half_life if timing.half_life else 0.0
