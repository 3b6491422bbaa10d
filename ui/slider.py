"""How far a slider of the rack goes, and in which steps."""

from __future__ import annotations

import math

FURTHEST = 1e6  # strengths are finite and below this
ROOM = 1.6  # the slider goes on to this many times the strength that came


def ends(
    band: tuple[float, float | None] | None, unit: str, reach: float | None
) -> tuple[float, float, float]:
    """The slider's (lo, hi, step): wide enough to leave the safe band on both sides."""
    if reach is not None:
        step = float(f"{reach / 100:.0e}")
        end = near(2 * reach, step)
        return -end, end, step
    if unit == "raw":
        return -20.0, 40.0, 0.5
    if band is None:
        return -5.0, 10.0, 0.25
    end = band[1] or 1.5 * band[0]
    hi = float(math.ceil(min(max(1.6 * end, 2.0), 100.0)))
    step = 0.05 if end - band[0] < 0.6 else 0.1 if hi <= 6 else 0.25  # several in the band
    return -float(math.ceil(hi / 2)), hi, step


def room(lo: float, hi: float, strength: float) -> tuple[float, float]:
    """The slider's ends, so that this strength can be turned further up."""
    end = max(-FURTHEST, min(FURTHEST, ROOM * strength))
    return (
        float(math.floor(end)) if end < lo else lo,
        float(math.ceil(end)) if end > hi else hi,
    )


def near(value: float, step: float) -> float:
    """The multiple of the step that is nearest, without the last digits of its arithmetic."""
    return float(f"{step * round(value / step):.6g}")
