"""How far a feature can be turned up: from where it shows to where text breaks.

One feature's calibration is written as a generator (rounds.py), so that it reads in order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..edits import Op
from .gauge import Gauge, Push, Replies, Trial
from .handles import Handle
from .rounds import Steps, together
from .tried import ADD_BETTER, FINALISTS, FLUENT, LOOPS, NEAR, TURNED, Table

LADDER = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Where looking begins, in lengths of a typical residual: features differ tenfold in their maximum,
so no few multiples of it would suit them all. A tenth is lost among the others, more than one and
a half drowns them."""
EXTENSIONS = 4  # doublings or halvings beyond the ladder where its ends have not found the band's
ONSET_STEPS, LIMIT_STEPS = 3, 2  # bisections: the onset to 9 %, and the limit is only a loose cap

RISEN = 2.0  # times the unsteered odds of the tokens ..
RISEN_BY = 0.005  # .. and one token in two hundred: in replies of its own it then feeds itself
KL_LOST = 0.5
"""Of the KL divergence between predictions at unrelated places: halfway there, a prediction has to
do with its place no more than with another. It caps the search; replies usually break before."""

GRID = 4  # strengths from the onset to the limit at which replies are made ..
BELOW = (0.4, 0.55, 0.75)  # .. and of the onset: a model may turn only after the text does
EDGE_STEPS = 2  # bisections of the breakdown by replies, which are also candidates
ADDED = (0.8, 1.0)  # of the best clamp, at which add is tried: it piles up where a feature fires
CLOSE = 1.1  # strengths nearer than this factor are the same to people

BOUNDS = {
    "ladder": LADDER,
    "risen": (RISEN, RISEN_BY),
    "kl_lost": KL_LOST,
    "fluent": FLUENT,
    "loops": LOOPS,
    "grid": (GRID, EDGE_STEPS, FINALISTS),
    "below": (*BELOW, TURNED),
    "added": (*ADDED, ADD_BETTER),
    "near": NEAR,
}
"""What bands depend on, for files: curves of other bounds are not to be mixed."""


@dataclass(frozen=True, slots=True)
class Band:
    """In multiples of the maximum: where a feature acts and text is sound, and what to do in it:
    at first what shows most, then what `settle` finds. shows, fluency: of the replies there.
    """

    onset: float
    breakdown: float
    op: Op
    strength: float
    shows: float
    fluency: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What was measured of one handle. band None: it has none, and `why`, in words."""

    handle: Handle
    mass: float  # unsteered probability of its tokens
    band: Band | None
    why: str
    pushes: tuple[Push, ...]
    replies: tuple[Replies, ...]
    settling: tuple[Replies, ...] = ()  # those that the strength was settled on

    def told(self) -> dict[str, Any]:
        """For a file."""
        return {
            "key": self.handle.key,
            "maximum": self.handle.maximum,
            "band": asdict(self.band) if self.band else None,
            "why": self.why,
            "unsteered_mass": self.mass,
            "curve": [asdict(p) for p in self.pushes],
            "replies": [r.told() for r in self.replies],
            "settling": [r.told() for r in self.settling],
        }


def calibrated(gauge: Gauge, handles: Sequence[Handle]) -> list[Calibrated]:
    """Calibrate the handles side by side; what it holds grows with their number, not the model's
    work, which is batched by memory.
    """
    return together(gauge, [_calibration(gauge, handle) for handle in handles])


def _calibration(gauge: Gauge, handle: Handle) -> Steps[Calibrated]:
    op = Op.CLAMP if handle.reads else Op.ADD
    mass = gauge.mass(handle)
    pushes = yield from _pushed(gauge, handle, op, mass)
    onset, limit = _span(pushes, mass, gauge)
    lost = "the text is lost before its tokens rise"
    if not limit:
        return Calibrated(handle, mass, None, lost, tuple(pushes), ())
    table, usual = Table(), gauge.shows(handle)
    first = pushes[0].strength if onset is None else onset  # what has no word of its own may show
    grid = (
        [first * (limit / first) ** (k / GRID) for k in range(GRID)] if first < limit else [limit]
    )
    low = [grid[0] * part for part in BELOW]
    table.add((yield [Trial(handle, op, s, 1) for s in (*low, *grid)]))
    turned = table.first_turned(op, usual)
    if turned is None and (onset is None or onset >= limit):
        why = "its tokens never rise" if onset is None else lost
        return Calibrated(handle, mass, None, why, tuple(pushes), table.told())
    onset = min(o for o in (onset, turned) if o is not None)
    yield from _edge(handle, op, table, onset, limit)
    if handle.reads and (clamped := table.best(op)):
        table.add((yield [Trial(handle, Op.ADD, clamped.strength * f, 1) for f in ADDED]))
    table.add((yield [Trial(handle, r.op, r.strength, 2) for r in table.finalists()]))
    if op is Op.CLAMP and table.adds_better():
        op = Op.ADD
        if not gauge.sleeps(handle):
            pushes = [*pushes, *(yield from _pushed(gauge, handle, op, mass))]
            onset, limit = _span([p for p in pushes if p.op is op], mass, gauge)
            onset = min(onset or limit, table.first_turned(op, usual) or limit)
        yield from _edge(handle, op, table, onset, limit, steps=2 * EDGE_STEPS)  # it had no grid
    breakdown = max(onset, table.first_broken(op) or limit)
    best = table.best(op, onset, breakdown)
    band = None
    if best:
        band = Band(onset, breakdown, op, best.strength, best.shows, best.fluency)
    why = "" if band else "replies break as soon as it acts"
    return Calibrated(handle, mass, band, why, tuple(pushes), table.told())


def _pushed(gauge: Gauge, handle: Handle, op: Op, mass: float) -> Steps[list[Push]]:
    """The curve from below the onset to beyond the limit, rising in strength."""
    unit = gauge.length / handle.length
    pushes: list[Push] = yield [Trial(handle, op, unit * reach) for reach in LADDER]
    for _ in range(EXTENSIONS):
        further = []
        if _risen(pushes[0], mass):
            further.append(pushes[0].strength / 2)
        if not _lost(pushes[-1], gauge):
            further.append(pushes[-1].strength * 2)
        if not further:
            break
        pushes += yield [Trial(handle, op, s) for s in further]
        pushes.sort(key=lambda p: p.strength)
    yield from _narrowed(handle, op, pushes, lambda p: _risen(p, mass), ONSET_STEPS)
    yield from _narrowed(handle, op, pushes, lambda p: _lost(p, gauge), LIMIT_STEPS)
    return pushes


def _narrowed(
    handle: Handle, op: Op, pushes: list[Push], past: Callable[[Push], bool], steps: int
) -> Steps[None]:
    """Add points around the first one that is `past`, halving its distance from the one before."""
    for _ in range(steps):
        at = next((i for i, p in enumerate(pushes) if past(p)), 0)
        if at == 0:
            return
        middle = math.sqrt(pushes[at - 1].strength * pushes[at].strength)
        pushes += yield [Trial(handle, op, middle)]
        pushes.sort(key=lambda p: p.strength)


def _span(pushes: Sequence[Push], mass: float, gauge: Gauge) -> tuple[float | None, float]:
    """(onset or None, the last strength before the text is lost)."""
    onset = next((p.strength for p in pushes if _risen(p, mass)), None)
    kept = itertools.takewhile(lambda p: not _lost(p, gauge), pushes)
    return onset, max((p.strength for p in kept), default=0.0)


def _risen(push: Push, mass: float) -> bool:
    return _odds(push.mass) >= RISEN * _odds(mass) + RISEN_BY


def _odds(mass: float) -> float:
    return mass / max(1e-9, 1 - mass)


def _lost(push: Push, gauge: Gauge) -> bool:
    return push.kl > KL_LOST * max(gauge.unlike, 1.0)


def _edge(
    handle: Handle, op: Op, table: Table, onset: float, limit: float, steps: int = EDGE_STEPS
) -> Steps[None]:
    """Bisect where replies break: between the last sound strength and the first broken one."""
    for _ in range(steps):
        sound = table.sound(op)
        low = max(onset, sound[-1].strength if sound else onset)
        high = table.first_broken(op) or limit
        if high <= low * CLOSE:
            return
        table.add((yield [Trial(handle, op, math.sqrt(low * high), 1)]))
