"""What samples are dealt from: shuffled decks, and turns put together."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Role = Literal["system", "user", "assistant"]
Turns = tuple[tuple[Role, str], ...]


class Deck(Generic[T]):
    """Deals every card once, in random order, before any comes again. Falsy when it has none."""

    def __init__(self, cards: Sequence[T], rng: random.Random) -> None:
        self._cards, self._rng = tuple(cards), rng
        self._left: list[T] = []

    def __bool__(self) -> bool:
        return bool(self._cards)

    def deal(self) -> T:
        if not self._left:
            self._left = self._rng.sample(self._cards, len(self._cards))
        return self._left.pop()


def alternate(texts: Sequence[str]) -> Turns:
    roles: tuple[Role, Role] = ("user", "assistant")
    return tuple((roles[i % 2], text) for i, text in enumerate(texts))


def joined(parts: Iterable[Turns]) -> Turns:
    return tuple(turn for part in parts for turn in part)
