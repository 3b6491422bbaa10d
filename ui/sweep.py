"""A strength sweep: one question answered at several strengths of the rack, as columns."""

from __future__ import annotations

from . import rack as racks
from .columns import Way
from .errors import RackError
from .rack import Rack
from .slider import FURTHEST
from .transcript import Lane

UNSCALED = ("ablate", "at_most")  # no strength; a cap is the stronger the lower it is
PARTS: dict[Lane, float] = {"half": 0.5, "steered": 1.0, "more": 1.5, "double": 2.0}


def ways(rack: Rack) -> list[Way]:
    """The features that act, at several parts of their strengths.

    RackError where nothing in the rack has a strength to sweep.
    """
    if not able(rack):
        raise RackError(
            "A sweep needs a feature that is switched on and has a strength to turn up: one that is"
            " ablated or held at most at a level has none."
        )
    return [Way(lane, scaled(rack, part)) for lane, part in PARTS.items()]


def able(rack: Rack) -> bool:
    return any(held.on and held.op not in UNSCALED for held in rack)


def scaled(rack: Rack, part: float) -> Rack:
    """The features that act, each moved to `part` of the way from its neutral strength where it has
    one.
    """
    return tuple(held.model_copy(update={"strength": _at(held, part)}) for held in rack if held.on)


def _at(held: racks.Entry, part: float) -> float:
    if held.op in UNSCALED:
        return held.strength
    neutral = 1.0 if held.op == "scale" else 0.0
    strength = neutral + part * (held.strength - neutral)
    return max(-FURTHEST, min(FURTHEST, round(strength, 6)))
