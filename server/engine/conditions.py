"""When an edit acts, beyond `where`: values without torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

CONDITIONS = 8  # different ones in one reply
SHORTEST = 0.01  # half-life in tokens: after one token nothing is left


class Crossing(StrEnum):
    ABOVE = "above"
    BELOW = "below"


class Thinking(StrEnum):
    """The part of a reply an edit acts on: its thinking blocks, or all that is outside of them."""

    ONLY = "only"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Condition:
    """A feature's activation lies strictly above (below) `value`, in plain activations.

    It is read from the residual at the feature's own site, before anything is edited there, on the
    tokens that an edit may touch. latch: once it held, it holds for the rest of the reply.
    """

    dictionary: str
    feature: int
    op: Crossing
    value: float
    latch: bool = False


@dataclass(frozen=True, slots=True)
class Met:
    """A condition of a reply and the token at which it first held: 0 is the reply's first, -1 the
    prompt's last; None for never.
    """

    condition: Condition
    at: int | None


@dataclass(frozen=True, slots=True)
class Timing:
    """On which tokens an edit acts, of those that `where` leaves.

    first, last: reply tokens, counted from 0, both included. A prompt token comes before any
    `first`. half_life: reply tokens after which half of the edit's change is left, counted from
    token `first`, else 0.
    """

    when: Condition | None = None
    first: int | None = None
    last: int | None = None
    half_life: float | None = None
    thinking: Thinking | None = None

    @property
    def skips_prompt(self) -> bool:
        return self.first is not None or self.thinking is not None


ALWAYS = Timing()


class Seen(NamedTuple):
    """What a pass showed of a row whose steering is timed.

    touched: the pass' tokens at which an edit acted. since: the position at which each of
    `Steering.conditions` first held, NEVER (watch.py) or later for those that did not yet.
    Behind the token that aborts the reply nothing counts: how far a chunk goes on is chance.
    """

    touched: int
    since: tuple[int, ...]
