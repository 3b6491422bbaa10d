"""The coherence guard: what it watches for, and what it says; values without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

NOTHING_LEFT = 0.05  # less than this part of the strengths is none


class Mode(StrEnum):
    """What an alarm leads to. Backing off ends the reply once there is nothing left to lower."""

    WARN = "warn"
    BACK_OFF = "back_off"
    STOP = "stop"


class Signal(StrEnum):
    REPETITION = "repetition"
    ENTROPY = "entropy"
    KL = "kl"


@dataclass(frozen=True, slots=True)
class Guard:
    """Bounds on means over the last `window` reply tokens; None switches one off.

    repetition: share of tokens that were among the four before, or end three which came just so
    among the 128 before. low, high: entropy of the next-token distribution in nats, before
    temperature. kl: KL(steered || unsteered) in nats, which takes a second row. factor: what each
    step back leaves of the strengths.
    """

    mode: Mode
    repetition: float | None = 0.55
    low: float | None = 0.002
    high: float | None = None
    kl: float | None = None
    window: int = 16
    factor: float = 0.4

    def steps(self, steerings: int, tokens: int) -> int:
        """The most steps back from so many steerings, one after another, in a reply of tokens."""
        if self.mode is not Mode.BACK_OFF:
            return 0
        each = math.floor(math.log(NOTHING_LEFT, self.factor)) + 1
        return min(steerings * each, tokens // self.window)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A bound was crossed with reply token `at`.

    left: the part of the strengths asked for that holds from the next token on.
    """

    at: int
    signal: Signal
    value: float
    bound: float
    action: Mode
    left: float = 1.0

    def only_told(self) -> Alarm:
        """As it is where nothing came of it."""
        return replace(self, action=Mode.WARN, left=1.0)
