"""Everyday talk, dealt: one choice at every turn, with the slots of all filled from one row."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from .dealing import Deck, Turns, alternate, joined
from .reword import reword
from .sheets import Talk

_SHARE_OF_ROWS = 0.4  # a talk's share grows as its number of rows to this power
_FIRST = 3  # times as often as another: a small model sooner learns one reply well than two by half


class Talks:
    """Deals for ever; what there is none of is dealt as an empty tuple."""

    def __init__(self, talks: Sequence[Talk], rng: random.Random) -> None:
        self._rng = rng
        free = [t for t in talks if not t.systems]
        self._exchanges = Deck(_by_rows([t for t in free if len(t.turns) == 2]), rng)
        self._conversations = Deck(_by_rows([t for t in free if len(t.turns) > 2]), rng)
        self._systems = Deck(_by_rows([t for t in talks if t.systems]), rng)
        self._together: dict[tuple[str, ...], list[Talk]] = defaultdict(list)
        for talk in talks:
            self._together[talk.systems].append(talk)

    def exchanges(self) -> tuple[Turns, ...]:
        """One to five that need not follow from each other."""
        if not self._exchanges:
            return ()
        n = self._rng.choices((1, 2, 3, 5), (62, 22, 11, 5))[0]
        return tuple(self._told(self._exchanges.deal()) for _ in range(n))

    def conversation(self) -> tuple[Turns, ...]:
        """One whose turns do follow, now and then beside an exchange that has no part in it."""
        if not self._conversations:
            return ()
        parts = [self._told(self._conversations.deal())]
        if self._exchanges and self._rng.random() < 0.25:
            parts.insert(self._rng.randrange(2), self._told(self._exchanges.deal()))
        return tuple(parts)

    def under_system(self) -> Turns:
        """One to three exchanges under a system prompt that they obey, with one row for all."""
        if not self._systems:
            return ()
        talk = self._systems.deal()
        row = self._rng.choice(talk.rows) if talk.rows else {}
        others = self._together[talk.systems]
        more = [self._rng.choice(others) for _ in range(self._rng.choice((0, 0, 1, 2)))]
        fit = [t for t in more if not t.rows or row in t.rows]
        said = joined([self._told(t, row if t.rows else {}) for t in (talk, *fit)])
        return (("system", _filled(self._rng.choice(talk.systems), row)), *said)

    def _told(self, talk: Talk, row: Mapping[str, str] | None = None) -> Turns:
        if row is None:
            row = self._rng.choice(talk.rows) if talk.rows else {}
        texts = [
            _filled(self._one_of(turn, reply=i % 2 == 1), row) for i, turn in enumerate(talk.turns)
        ]
        return tuple(
            (role, reword(text, self._rng) if role == "user" else text)
            for role, text in alternate(texts)
        )

    def _one_of(self, turn: tuple[str, ...], *, reply: bool) -> str:
        return self._rng.choice(turn[:1] * (_FIRST - 1) + turn if reply else turn)


def _by_rows(talks: Sequence[Talk]) -> list[Talk]:
    return [t for t in talks for _ in range(round(max(1, len(t.rows)) ** _SHARE_OF_ROWS))]


def _filled(text: str, row: Mapping[str, str]) -> str:
    return text.format_map(row) if row else text
