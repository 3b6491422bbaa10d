"""The coherence guard as a reply tells of it: its settings, and each of its alarms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .engine.guard import Alarm, Guard
from .schemas.replies import AlarmTold
from .trace import finite


def alarms(raised: Sequence[Alarm]) -> list[AlarmTold]:
    return [_alarm(alarm) for alarm in raised]


def wire_guard(guard: Guard) -> dict[str, Any]:
    """As a request may send it."""
    entropy = {"low": guard.low, "high": guard.high}
    return {
        "mode": str(guard.mode),
        "repetition": guard.repetition,
        "entropy": entropy if guard.low is not None or guard.high is not None else None,
        "kl": guard.kl,
        "window": guard.window,
        "factor": guard.factor,
    }


def _alarm(alarm: Alarm) -> AlarmTold:
    return {
        "at": alarm.at,
        "signal": str(alarm.signal),
        "value": finite(alarm.value),
        "bound": alarm.bound,
        "action": str(alarm.action),
        "left": alarm.left,
    }
