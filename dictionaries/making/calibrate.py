"""How far a feature can be turned up: from where it shows to where text breaks.

One feature's calibration is written as a generator that asks for measurements and is sent them, so
that it reads in order, and `calibrated` runs many side by side: every round of questions is one
batch for the model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ..edits import Op
from .gauge import Gauge, Push, Replies, Trial
from .handles import Handle

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
FLUENT = 0.7  # of `fluency.Scale`: below, as if more than every sixth token were out of place
LOOPS = 0.2  # share of replies that may loop, or be empty, beyond that of the unsteered ones

GRID = 4  # strengths from the onset to the limit at which replies are made ..
BELOW = (
    0.4,
    0.55,
    0.75,
)  # .. and of the onset: a model may turn to the concept only after the text
TURNED = 0.34  # share of replies more than of the unsteered ones that then says where it begins
EDGE_STEPS = 2  # bisections of the breakdown by replies, which are also candidates
ADDED = (0.8, 1.0)  # of the best clamp, at which add is tried: it piles up where a feature fires
ADD_BETTER = 0.05  # of the score; with less, clamp: what it does depends on the text least
FINALISTS = 2  # settings that are asked once more, because the best of many is partly luck
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
}
"""What bands depend on, for files: curves of other bounds are not to be mixed."""

_T = TypeVar("_T")
Steps = Generator[list[Trial], list[Any], _T]


@dataclass(frozen=True, slots=True)
class Band:
    """In multiples of the maximum: where a feature acts and text is sound, and what to do in it.

    shows, fluency: of the replies at the recommended strength.
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
        }


def calibrated(gauge: Gauge, handles: Sequence[Handle]) -> list[Calibrated]:
    """Calibrate the handles side by side; what it holds grows with their number, not the model's
    work, which is batched by memory.
    """
    return together(gauge, [_calibration(gauge, handle) for handle in handles])


def together(gauge: Gauge, steps: Sequence[Steps[_T]]) -> list[_T]:
    """Run generators in step: all they ask for in a round is measured at once."""
    done: dict[int, _T] = {}
    asked: dict[int, list[Trial]] = {}

    def go_on(i: int, answers: list[Any] | None) -> None:
        try:
            asked[i] = next(steps[i]) if answers is None else steps[i].send(answers)
        except StopIteration as stop:
            done[i] = stop.value

    for i in range(len(steps)):
        go_on(i, None)
    while asked:
        round, asked = asked, {}
        trials = [trial for wanted in round.values() for trial in wanted]
        pushes = iter(gauge.pushes([t for t in trials if t.seed is None]))
        replies = iter(gauge.replies([t for t in trials if t.seed is not None]))
        for i, wanted in round.items():
            go_on(i, [next(pushes if t.seed is None else replies) for t in wanted])
    return [done[i] for i in range(len(steps))]


def _calibration(gauge: Gauge, handle: Handle) -> Steps[Calibrated]:
    op = Op.CLAMP if handle.reads else Op.ADD
    mass = gauge.mass(handle)
    pushes = yield from _pushed(gauge, handle, op, mass)
    onset, limit = _span(pushes, mass, gauge)
    if onset is None:
        return Calibrated(handle, mass, None, "its tokens never rise", tuple(pushes), ())
    table, usual = Table(), gauge.shows(handle)
    grid = (
        [onset * (limit / onset) ** (k / GRID) for k in range(GRID)] if onset < limit else [limit]
    )
    low = [grid[0] * part for part in BELOW]
    table.add((yield [Trial(handle, op, s, 1) for s in (*low, *grid)]))
    turned = table.first_turned(op, usual)
    if turned is None and onset >= limit:
        why = "the text is lost before its tokens rise"
        return Calibrated(handle, mass, None, why, tuple(pushes), table.told())
    onset = min(onset, turned or onset)
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
    band = Band(onset, breakdown, op, best.strength, best.shows, best.fluency) if best else None
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


def broken(replies: Replies) -> bool:
    return replies.unsound > LOOPS or replies.fluency < FLUENT


def score(replies: Replies) -> float:
    """Showing counts twice: a weighted harmonic mean with fluency, 0 to 1."""
    if not replies.shows or not replies.fluency:
        return 0.0
    return 3 / (2 / replies.shows + 1 / replies.fluency)


class Table:
    """The replies of one handle at every op and strength tried."""

    def __init__(self) -> None:
        self._found: dict[tuple[Op, float], Replies] = {}

    def add(self, replies: Sequence[Replies]) -> None:
        for r in replies:
            old = self._found.get((r.op, r.strength))
            self._found[r.op, r.strength] = old.plus(r) if old else r

    def told(self) -> tuple[Replies, ...]:
        return tuple(self._found[key] for key in sorted(self._found))

    def first_broken(self, op: Op) -> float | None:
        """The first of two neighbours that are broken, or the strongest if it is: a single one in
        the middle of sound ones is chance, with so few replies.
        """
        tried = [r for r in self.told() if r.op is op]
        lost = [broken(r) for r in tried]
        both = zip(lost, [*lost[1:], True], strict=True)
        return next((r.strength for r, two in zip(tried, both, strict=False) if all(two)), None)

    def first_turned(self, op: Op, usual: float) -> float | None:
        """The first of two neighbours at which sound replies show the concept, more than `usual`:
        a single one is chance, with so few replies.
        """
        tried = [r for r in self.told() if r.op is op]
        turned = [r.shows >= usual + TURNED and not broken(r) for r in tried]
        both = zip(turned, [*turned[1:], True], strict=True)
        return next((r.strength for r, two in zip(tried, both, strict=False) if all(two)), None)

    def sound(self, op: Op) -> list[Replies]:
        """Rising in strength, up to where they break."""
        end = self.first_broken(op) or math.inf
        return [r for r in self.told() if r.op is op and r.strength < end and not broken(r)]

    def best(self, op: Op, low: float = 0.0, high: float = math.inf) -> Replies | None:
        """Of the sound ones from low to below high; where nothing shows, the strongest."""
        sound = [r for r in self.sound(op) if low <= r.strength < high]
        return max(sound, key=lambda r: (score(r), r.strength), default=None)

    def finalists(self) -> list[Replies]:
        sound = [r for op in (Op.CLAMP, Op.ADD) for r in self.sound(op)]
        return sorted(sound, key=score, reverse=True)[:FINALISTS]

    def adds_better(self) -> bool:
        clamped, added = self.best(Op.CLAMP), self.best(Op.ADD)
        if clamped is None or added is None:
            return False
        return score(added) > score(clamped) + ADD_BETTER


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
