"""What the service's coherence guard did, in a few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ASKED = {"mode": "back_off"}  # what a request says when the guard is switched on
NOTICED = {
    "repetition": "the text went in circles",
    "entropy": "the model lost its way",
    "kl": "the model was pushed too far",
}


def alarms(told: object) -> list[Mapping[str, Any]]:
    """The alarms of a chunk's `steering`, or of a receipt's `guard`."""
    found = told if isinstance(told, list) else []
    return [one for one in found if isinstance(one, Mapping) and isinstance(one.get("at"), int)]


def marked(alarm: Mapping[str, Any]) -> tuple[str, str]:
    """For a mark in the text: in full, and in a few characters."""
    noticed = NOTICED.get(str(alarm.get("signal")), "something was off")
    if alarm.get("action") != "back_off":
        return f"guard: {noticed}", "guard"
    return f"guard: {noticed}, so all strengths are at {_left(alarm)}", _left(alarm)


def footer(receipt: object) -> str:
    """A line for a reply's footer; empty where the guard had nothing to do."""
    guard = receipt.get("guard") if isinstance(receipt, Mapping) else None
    raised = alarms(guard.get("alarms")) if isinstance(guard, Mapping) else []
    steps: Sequence[Mapping[str, Any]] = [a for a in raised if a.get("action") == "back_off"]
    if not steps:
        return "guard: noticed" if raised else ""
    times = "once" if len(steps) == 1 else f"{len(steps)} times"
    return f"guard: backed off {times}, to {_left(steps[-1])} of the strengths"


def _left(alarm: Mapping[str, Any]) -> str:
    left = alarm.get("left")
    return f"{left:.0%}" if isinstance(left, (int, float)) else "less"
