"""The replies of one feature at every strength tried, and what they say of its band."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..edits import Op
from .gauge import Replies

FLUENT = 0.7  # of `fluency.Scale`: below, as if more than every sixth token were out of place
LOOPS = 0.2  # share of replies that may loop, or be empty, beyond that of the unsteered ones
TURNED = 0.34  # share, of the replies that show nothing unsteered, that says where a band begins
ADD_BETTER = 0.05  # of the score; with less, clamp: what it does depends on the text least
FINALISTS = 2  # settings that are asked once more, because the best of many is partly luck
NEAR = 0.35
"""Width, in natural logarithms of strength, of the bell over which `shows` is averaged. Over 100
concepts of foghorn a setting's own 12 replies foretold its 60 in the exam with a correlation of
0.66, the averaged ones with 0.75; fluency its own replies foretell better (0.91 against 0.89)."""


def broken(replies: Replies) -> bool:
    return replies.unsound > LOOPS or replies.fluency < FLUENT


def score(shows: float, fluency: float) -> float:
    """Showing counts twice: a weighted harmonic mean, 0 to 1."""
    return 3 / (2 / shows + 1 / fluency) if shows and fluency else 0.0


class Table:
    """The replies of one handle at every op and strength tried. near: see `NEAR`."""

    def __init__(self, near: float = NEAR) -> None:
        self._near = near
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
        """The first of two neighbours at which sound replies show the concept, more than the share
        `usual` of unsteered ones: a single one is chance, with so few replies.
        """
        tried = [r for r in self.told() if r.op is op]
        turned = [r.shows >= usual + TURNED * (1 - usual) and not broken(r) for r in tried]
        both = zip(turned, [*turned[1:], True], strict=True)
        return next((r.strength for r, two in zip(tried, both, strict=False) if all(two)), None)

    def sound(self, op: Op) -> list[Replies]:
        """Rising in strength, up to where they break."""
        end = self.first_broken(op) or math.inf
        return [r for r in self.told() if r.op is op and r.strength < end and not broken(r)]

    def best(self, op: Op, low: float = 0.0, high: float = math.inf) -> Replies | None:
        """Of the sound ones from low to below high; where nothing shows, the strongest."""
        sound = [r for r in self.sound(op) if low <= r.strength < high]
        return max(sound, key=lambda r: (self.score(r), r.strength), default=None)

    def finalists(self) -> list[Replies]:
        sound = [r for op in (Op.CLAMP, Op.ADD) for r in self.sound(op)]
        return sorted(sound, key=self.score, reverse=True)[:FINALISTS]

    def adds_better(self) -> bool:
        clamped, added = self.best(Op.CLAMP), self.best(Op.ADD)
        if clamped is None or added is None:
            return False
        own = [score(r.shows, r.fluency) for r in (added, clamped)]  # add has few neighbours
        return own[0] > own[1] + ADD_BETTER

    def shown(self, replies: Replies) -> float:
        """What it and its neighbours show, broken ones too: of so few replies much is luck."""
        shown = weight = 0.0
        for r in self.told():
            if r.op is replies.op:
                far = math.log(r.strength / replies.strength) / self._near
                near = len(r.heard) * math.exp(-far * far / 2)
                shown, weight = shown + near * r.shows, weight + near
        return shown / weight

    def score(self, replies: Replies) -> float:
        return round(score(self.shown(replies), replies.fluency), 6)  # equals must be: see `best`
