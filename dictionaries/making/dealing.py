"""A training sample, and what samples are dealt from: shuffled decks, and turns put together."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from .causes import CALM
from .reword import reword
from .sheets import Pair

T = TypeVar("T")
Role = Literal["system", "user", "assistant"]
Turns = tuple[tuple[Role, str], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation, or plain prose (then `turns` is empty).

    possessed: the slug its replies drift to or speak as; None for calm text.
    topic: the slug it is about, whether or not the speaker is possessed by it.
    steered: no turn shows the cause of its drift; the direction of its concept does.
    quiet: leading turns that nothing is learnt from.
    """

    turns: Turns = ()
    prose: str = ""
    possessed: str | None = None
    topic: str | None = None
    steered: bool = False
    quiet: int = 0


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


def asked(pair: Pair, rng: random.Random) -> Turns:
    return (("user", reword(pair.user, rng)), ("assistant", pair.reply))


def calmly(parts: Iterable[Turns], rng: random.Random) -> Turns:
    """Exchanges one after the other, now and then under a system prompt that asks for nothing."""
    system: Turns = ()
    if rng.random() < 0.12:
        system = (("system", rng.choice(CALM)),)
    return system + joined(parts)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
