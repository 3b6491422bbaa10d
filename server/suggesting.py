"""A wish in words -> edits: features that are called so, or that fire on it, and were measured."""

from __future__ import annotations

import math
import re
from typing import Any

from dictionaries.cards import Card

from .deck import Deck, FeatureName
from .prepare import Ask, rendered
from .reading import CANDIDATES, Reader, ask
from .schemas.messages import Message
from .schemas.reading import SuggestBody
from .summaries import summary

_SAID = re.compile(r"[^\W_]{3,}")
_EMPTY = re.compile(  # words of a wish that are no subject
    r"(about|always|and|any|are|but|can|for|from|get|give|has|have|him|her|his|how|its|just|like|make"
    r"|more|much|not|only|out|please|she|should|some|speak|talk|than|that|the|them|then|they|this"
    r"|very|was|were|want|what|when|will|with|you|your)",
    re.I,
)


def prepare_suggest(deck: Deck, body: SuggestBody) -> Ask:
    """As a user's message: of one word that is text itself the first token would not be read."""
    return ask(deck, body, [rendered(deck, [Message(role="user", content=body.wish)])])


def subjects(wish: str) -> list[str]:
    """The words of a wish that features may be called by."""
    return [word for word in _SAID.findall(wish) if not _EMPTY.fullmatch(word)]


class SuggestReader(Reader[SuggestBody]):
    """Of features with a recommended strength alone: how to turn up others nobody has measured."""

    def whole(self) -> dict[str, Any]:
        cards = self._deck.cards.get(self._dictionary.info.id)
        most = self._fired(0, 1).most
        words = " ".join(subjects(self.body.wish))
        listed = cards.search(words, some=True, limit=CANDIDATES)[0] if cards and words else []
        place = {card.feature: i for i, card in enumerate(filter(_measured, listed))}
        fires = most.topk(min(CANDIDATES, len(most))).indices.tolist()
        names = [n for n in self._names({*place, *fires}) if _measured(n.card)]

        def score(name: FeatureName) -> float:
            """Up to 1 for the place among those that the words find, and 1 for firing fully."""
            assert name.card is not None
            worded = 1 / (1 + place[name.feature]) if name.feature in place else 0.0
            return worded + min(float(most[name.feature]) / (name.card.maximum or math.inf), 1.0)

        best = sorted(names, key=score, reverse=True)[: self.body.limit]
        return self._head("suggestions") | {
            "data": [
                {
                    **(told := summary(self._deck, name)),
                    "edit": {"feature": name.ref, **(told["recommended"] or {})},
                    "matched": name.feature in place,
                    "activation": float(most[name.feature]),
                }
                for name in best
                if score(name) > 0
            ]
        }


def _measured(card: Card | None) -> bool:
    return card is not None and card.op is not None and card.strength is not None
