"""The guard at work on one reply: it hears of every token, and lowers the strengths step by step.

Three tokens in a row that came before tell a loop, and a token that was among the last four tells
stuttering; plain text has little of either. A mean over a window is not alarmed by a name that is
said twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from dictionaries.edits import Op

from .guard import NOTHING_LEFT, Alarm, Guard, Mode, Signal
from .preparing import Prepared
from .types import FeatureEdit, Steering

_GRAM, _MEMORY = 3, 128  # so many tokens, said again within so many
_STUTTER = 4


class Verdict(NamedTuple):
    """An alarm, and the steering to go on with if that changes."""

    alarm: Alarm
    lowered: Prepared | None = None


class Warden:
    """lower: makes a lowered steering ready, of what was ready before (`Steerer.lowered`)."""

    def __init__(self, guard: Guard, lower: Callable[[Prepared, Steering], Prepared]) -> None:
        self.guard = guard
        self._lower = lower
        self._count = 0
        self._last: deque[int] = deque(maxlen=max(_GRAM - 1, _STUTTER))
        self._came: dict[tuple[int, ...], int] = {}
        # of the last tokens, since the last alarm: repeats, entropy, kl
        self._fresh: deque[tuple[float, float, float]] = deque(maxlen=guard.window)
        self._asked = Steering()
        self._lowered: Steering | None = None
        self._left = 1.0

    def hear(self, token: int, entropy: float, kl: float, steered: Prepared) -> Verdict | None:
        """The reply goes on with this token, which `steered` led to. kl: 0 where none is known."""
        self._fresh.append((self._repeats(token), entropy, kl))
        self._count += 1
        if len(self._fresh) < self.guard.window:
            return None
        crossed = next(self._crossed(), None)
        if crossed is None:
            return None
        self._fresh.clear()
        alarm = Alarm(self._count - 1, *crossed, self.guard.mode)
        return self._back_off(alarm, steered) if alarm.action is Mode.BACK_OFF else Verdict(alarm)

    def forget(self) -> None:
        """The lowered steering of the last verdict did not come to hold."""
        self._lowered = None

    def _repeats(self, token: int) -> float:
        gram = (*list(self._last)[1 - _GRAM :], token)
        before = self._came.get(gram, -_MEMORY - 1)
        self._came[gram] = self._count
        loops = len(gram) == _GRAM and self._count - before <= _MEMORY
        stutters = token in self._last
        self._last.append(token)
        return float(loops or stutters)

    def _crossed(self) -> Iterator[tuple[Signal, float, float]]:
        """Each bound that the window crosses, with its mean."""
        guard, size = self.guard, len(self._fresh)
        repeats, entropy, kl = (sum(column) / size for column in zip(*self._fresh, strict=True))
        if guard.repetition is not None and repeats >= guard.repetition:
            yield Signal.REPETITION, repeats, guard.repetition
        if guard.low is not None and entropy < guard.low:
            yield Signal.ENTROPY, entropy, guard.low
        if guard.high is not None and entropy > guard.high:
            yield Signal.ENTROPY, entropy, guard.high
        if guard.kl is not None and kl > guard.kl:
            yield Signal.KL, kl, guard.kl

    def _back_off(self, alarm: Alarm, prepared: Prepared) -> Verdict:
        """One step down from what is in force; a change from outside since the last begins anew."""
        steered = prepared.steering
        if steered != self._lowered:
            self._asked, self._left = steered, 1.0
        if not steered.edits:
            return Verdict(replace(alarm, action=Mode.STOP, left=0.0))
        self._left *= self.guard.factor
        lowered = weaker(self._asked, self._left)
        if self._left < NOTHING_LEFT or lowered == steered:
            self._left, lowered = 0.0, replace(steered, edits=())
        self._lowered = lowered
        return Verdict(replace(alarm, left=self._left), self._lower(prepared, lowered))


def weaker(steering: Steering, part: float) -> Steering:
    """With this part of every strength. What only holds a feature down has none to lower."""
    return replace(steering, edits=tuple(_weaker(edit, part) for edit in steering.edits))


def _weaker(edit: FeatureEdit, part: float) -> FeatureEdit:
    if edit.op in (Op.ABLATE, Op.AT_MOST):
        return edit
    neutral = 1.0 if edit.op is Op.SCALE else 0.0
    strength = neutral + part * (edit.strength - neutral)
    return replace(edit, strength=strength, edit=edit.op.edit(strength))
