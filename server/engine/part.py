"""The tokens of a pass that are steered together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .batch import Batch
from .tables import Phase

if TYPE_CHECKING:
    from .preparing import Prepared


@dataclass(frozen=True, slots=True)
class Clock:
    """What edits that do not always act need to know of a part's tokens. Sites write into it.

    timed: bool [rows, 1, 1], whose edits do not always act. positions: long [rows, tokens, 1].
    thinking: bool, alike; None for nowhere.
    met: bool [rows, tokens, 1 + conditions], which of its row's conditions hold at a token; the
    first is always true. touched: bool [rows, tokens, 1], whether any edit acted there.
    """

    timed: Tensor
    positions: Tensor
    thinking: Tensor | None
    met: Tensor
    touched: Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """The decoding rows, or a chunk of one prompt.

    rows: those of the tables. steerable: bool [rows, tokens, 1], None for all.
    keep_norm: bool [rows, 1, 1], None for none. clock: None where every edit always acts.
    observed: the dictionary whose reading of a chunk is kept; empty for none.
    """

    tokens: slice
    rows: slice
    phase: Phase
    steerable: Tensor | None
    keep_norm: Tensor | None
    traced: bool
    clock: Clock | None = None
    observed: str = ""

    @property
    def apart(self) -> bool:
        """Whether each token is of a row of its own."""
        return self.phase is Phase.GENERATED


def parted(
    batch: Batch, rows: Sequence[Prepared | None], keep: Tensor, flags: Tensor | None
) -> list[Part]:
    """Those of a batch. rows, and keep [rows, 1, 1]: of all rows, how each is steered, and whether
    it keeps its norm. flags: bool [decoding, 1, 1], which of these may be steered, where that is on
    the device already.
    """
    count, offsets = len(batch.tokens), batch.offsets()
    parts = []
    if count:
        if flags is None:
            flags = _flags(batch.steerable, (count, 1, 1), keep.device)
        own = slice(0, count), batch.rows, Phase.GENERATED, flags, keeping(rows, keep, batch.rows)
        at = [[position] for position in batch.positions]
        ticking = _clock(rows[batch.rows], at, batch.thinking, keep.device)
        parts.append(Part(*own, batch.traced, ticking))
    for number, span in enumerate(batch.spans):
        flags = _flags(span.steerable, (1, len(span.tokens), 1), keep.device)
        tokens, row = slice(*offsets[number : number + 2]), slice(span.row, span.row + 1)
        own = tokens, row, Phase.PROMPT, flags, keeping(rows, keep, row)
        ticking = _clock(rows[row], [range(span.start, span.stop)], (), keep.device)
        parts.append(Part(*own, batch.traced, ticking, span.observed))
    return parts


def keeping(rows: Sequence[Prepared | None], keep: Tensor, some: slice) -> Tensor | None:
    """Of some rows, `Part.keep_norm`."""
    keeps = any(row is not None and row.steering.keep_norm for row in rows[some])
    return keep[some] if keeps else None


def _flags(
    flags: Sequence[bool], shape: tuple[int, int, int], device: torch.device
) -> Tensor | None:
    return None if all(flags) else torch.tensor(flags, device=device).view(shape)


def _clock(
    rows: Sequence[Prepared | None],
    positions: Sequence[Sequence[int]],
    thinking: Sequence[bool],
    device: torch.device,
) -> Clock | None:
    """For tokens at these positions, a list a row. thinking: by row, or empty for none."""
    timed = [row is not None and row.timed for row in rows]
    if not any(timed):
        return None
    conditions = max(len(row.steering.conditions) for row in rows if row is not None and row.timed)
    at = torch.tensor(positions, device=device)[..., None]
    met = torch.zeros(*at.shape[:2], 1 + conditions, dtype=torch.bool, device=device)
    met[..., 0] = True
    flags = torch.tensor(thinking, device=device).view(-1, 1, 1) if any(thinking) else None
    own = torch.tensor(timed, device=device).view(-1, 1, 1)
    return Clock(own, at, flags, met, torch.zeros_like(at, dtype=torch.bool))


def by_token(call: Callable[..., Tensor], *given: Tensor | None) -> Tensor:
    """`call` of a part's tensors [rows, tokens, ..]; a prompt's chunk as if its tokens were rows.

    On a CPU torch rounds a product by how many tokens it is made for. So each gets the bits that it
    would get in any other chunk.
    """
    first = given[0]
    assert first is not None
    if first.device.type != "cpu" or len(first) != 1:
        return call(*given)
    return call(*(None if one is None else one.transpose(0, 1) for one in given)).transpose(0, 1)
