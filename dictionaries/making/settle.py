"""The strength to recommend: the gentlest at which nearly every reply shows the concept.

A band is found on a few short replies, which do not tell 0.8 of them from 0.95. So strengths around
the one that was best are asked for replies of full length to other messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..edits import Op
from .calibrate import CLOSE, Band, Calibrated
from .gauge import Gauge, Replies, Trial
from .handles import Handle
from .rounds import Steps, together
from .tried import Table

PARTS = (0.4, 0.6, 0.85, 1.1, 1.45)  # of the strength that was best on few replies
ENOUGH = 0.92
"""Share of replies that is enough. Over 80 of the sixth foghorn's concepts, at 0.85 of the best on
few replies 51 showed in nine of ten, at the gentlest with enough 67, in text as fluent and as much
to its message; asking for more costs both and wins next to nothing."""


def settled(gauge: Gauge, found: Sequence[Calibrated]) -> list[Calibrated]:
    """Each with its band's strength settled, on the gauge's messages."""
    return together(gauge, [_settled(calibrated) for calibrated in found])


def _settled(found: Calibrated) -> Steps[Calibrated]:
    band = found.band
    if band is None:
        return found
    tried = yield from settling(
        found.handle, band.op, band.strength, low=band.onset, high=band.breakdown
    )
    best = gentlest(tried, band.op)
    band = Band(
        band.onset, band.breakdown, band.op, best.strength, shows=best.shows, fluency=best.fluency
    )
    return replace(found, band=band, settling=tuple(tried))


def settling(
    handle: Handle, op: Op, best: float, *, low: float = 0.0, high: float = math.inf
) -> Steps[list[Replies]]:
    """Replies around the best strength, from low on and below high, rising."""
    strengths: list[float] = []
    for strength in (max(low, best * part) for part in PARTS):
        if not strengths or strengths[-1] * CLOSE < strength < high:
            strengths.append(strength)
    tried: list[Replies] = yield [Trial(handle, op, strength, 1) for strength in strengths]
    return tried


def gentlest(tried: Sequence[Replies], op: Op) -> Replies:
    """The first that is sound and shows enough, neighbours counted in; else the best sound one;
    where none is sound, the weakest.
    """
    table = Table()
    table.add(tried)
    enough = (r for r in table.sound(op) if table.shown(r) >= ENOUGH)
    return next(enough, None) or table.best(op) or tried[0]
