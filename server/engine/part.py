"""The tokens of a pass that are steered together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .tables import Phase


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


def clock(
    timed: Sequence[bool],
    positions: Sequence[Sequence[int]],
    thinking: Sequence[bool],
    conditions: int,
    device: torch.device,
) -> Clock:
    """A new one for tokens at these positions, a list a row. timed, thinking: by row; thinking may
    be empty for none.
    """
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
