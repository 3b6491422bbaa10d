"""The strength to recommend: the gentlest at which nearly every reply shows the concept.

A band is found on a few short replies, which do not tell 0.8 of them from 0.95. So strengths around
the one that was best are asked for replies of full length to other messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..edits import Op
from .calibrate import CLOSE, Calibrated
from .gauge import Gauge, Replies, Trial
from .handles import Handle
from .rounds import Steps, together
from .tried import Table

PARTS = (0.4, 0.6, 0.85, 1.1, 1.45)  # of the strength that was best on few replies
BESIDE = 0.2  # as `tried.NEAR`, where a setting has twenty replies and not six
ENOUGH = 0.94
"""Share of replies that is enough, their neighbours' counted in. Asking for more costs fluency, and
wins little: of foghorn's 113 concepts 99 were shown by nine replies in ten at the strengths that
0.92 chose, and at those that 0.98 did."""


def settled(gauge: Gauge, found: Sequence[Calibrated]) -> list[Calibrated]:
    """Each with its band's strength settled, on the gauge's messages."""
    return together(gauge, [_settled(calibrated) for calibrated in found])


def _settled(found: Calibrated) -> Steps[Calibrated]:
    """What breaks here, of full length, is out of the band too."""
    band = found.band
    if band is None:
        return found
    tried = yield from settling(
        found.handle, band.op, band.strength, low=band.onset, high=band.breakdown
    )
    found = replace(found, settling=tuple(tried))
    best = gentlest(tried)
    if best is None:
        return replace(found, band=None, why="replies break as soon as they are of full length")
    broken = _table(tried).first_broken(band.op) or math.inf
    return replace(
        found,
        band=replace(
            band,
            breakdown=min(band.breakdown, broken),
            strength=best.strength,
            shows=best.shows,
            fluency=best.fluency,
        ),
    )


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


def gentlest(tried: Sequence[Replies]) -> Replies | None:
    """Of strengths of one op, the first that is sound and shows enough, neighbours counted in; else
    the best sound one, if any is.
    """
    table, op = _table(tried), tried[0].op
    enough = (r for r in table.sound(op) if table.shown(r) >= ENOUGH)
    return next(enough, None) or table.best(op)


def _table(tried: Sequence[Replies]) -> Table:
    table = Table(BESIDE)
    table.add(tried)
    return table
