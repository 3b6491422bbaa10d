"""Calibrates the features of a cards file: the curves go beside it, the bands onto the cards."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..card import Card
from ..cards import Cards
from ..dictionary import Dictionary
from ..errors import DictionaryError
from .calibrate import BOUNDS, Calibrated, calibrated
from .gauge import Gauge
from .handles import feature_handle
from .judge import Judge
from .ledger import Ledger
from .neutral import CALIBRATION, SETTLING
from .settle import BESIDE, ENOUGH, PARTS, settled
from .subject import Speaker, Subject

_CHUNK = 16  # features side by side: enough to fill batches, few to lose when stopped
_PAGE = 200
GAUGE = "gauge"  # the record that says what everything was measured against


@dataclass(frozen=True, slots=True)
class Plan:
    """prompts: how many of the neutral ones; tokens: of a reply. settling: prompts on which the
    strength is settled, with replies of settling_tokens.
    """

    prompts: int = 6
    tokens: int = 24
    seed: int = 0
    settling: int = len(SETTLING)
    settling_tokens: int = 40

    def messages(self) -> tuple[str, ...]:
        return _some(CALIBRATION, self.prompts, "prompts")

    def settled_on(self) -> tuple[str, ...]:
        return _some(SETTLING, self.settling, "prompts to settle the strength on")

    def settings(self) -> dict[str, Any]:
        """What strengths depend on, for a ledger."""
        return {
            "prompts": self.messages(),
            "tokens": self.tokens,
            "seed": self.seed,
            "bounds": BOUNDS,
            "settled": [self.settled_on(), self.settling_tokens, PARTS, BESIDE, ENOUGH],
        }

    def gauges(
        self, subject: Subject, speaker: Speaker, dictionary: Dictionary
    ) -> tuple[Gauge, Gauge]:
        """For finding a band, and for settling the strength."""

        def on(messages: Sequence[str], tokens: int) -> Gauge:
            return Gauge(subject, speaker, dictionary, messages, tokens=tokens, seed=self.seed)

        return on(self.messages(), self.tokens), on(self.settled_on(), self.settling_tokens)


def _some(messages: tuple[str, ...], wanted: int, what: str) -> tuple[str, ...]:
    if not 1 <= wanted <= len(messages):
        raise DictionaryError(f"{wanted} {what} were asked for: there are 1 to {len(messages)}.")
    return messages[:wanted]


class Outcome(NamedTuple):
    """asked: features; fresh: those measured by this run; steerable: those that have a band."""

    asked: int
    fresh: int
    steerable: int


def curves_file(cards: Path) -> Path:
    """Where the curves of a cards file lie: cards.sqlite -> cards.calibration.jsonl."""
    return cards.with_name(f"{cards.stem}.calibration.jsonl")


def chosen(cards: Cards, which: str, judge: Judge | None = None) -> list[int]:
    """Features by words: "concepts" (whose slug the judge knows), "all", "top:N" (by output
    score), or ids: "3,17". Only features with a maximum can be calibrated.

    Raises DictionaryError for other words, for an id whose card has no maximum, and where nothing
    is left.
    """
    top = re.fullmatch(r"top:(\d+)", which)
    by_id = re.fullmatch(r"\d+(,\d+)*", which)
    named: Iterable[Card]
    if which == "all":
        named = _pages(cards, sort="feature")
    elif which == "concepts":
        by_slug = (cards.by_slug(s, examples=False) for s in (judge.slugs if judge else ()))
        named = (card for card in by_slug if card is not None)
    elif top:
        best = _pages(cards, sort="output_score", most=int(top[1]))
        named = (card for card in best if card.output_score is not None)
    elif by_id:
        ids = map(int, which.split(","))
        named = (cards.get(i, examples=False) or Card(i, "") for i in ids)
    else:
        raise DictionaryError(
            f"{which!r} names no features: say concepts, all, top:N, or ids such as 3,17."
        )
    found = {card.feature: bool(card.maximum) for card in named}
    measured = [feature for feature, usable in found.items() if usable]
    if not measured:
        raise DictionaryError(
            f"{cards.path} has no card with a maximum among the features {which!r}: "
            "`steerdeck make describe` makes them; concepts also need their sheets."
        )
    if by_id and len(measured) < len(found):
        without = ", ".join(str(f) for f, usable in found.items() if not usable)
        raise DictionaryError(
            f"{cards.path} has no card with a maximum for {without}: leave them out, or let "
            "`steerdeck make describe` read more text; features that fire on none have no card."
        )
    return measured


def _pages(cards: Cards, *, sort: Any, most: int | None = None) -> Iterator[Card]:
    total = len(cards) if most is None else min(most, len(cards))
    for offset in range(0, total, _PAGE):
        yield from cards.search(sort=sort, offset=offset, limit=min(_PAGE, total - offset))[0]


def calibrate_cards(
    subject: Subject,
    speaker: Speaker,
    dictionary: Dictionary,
    cards: Cards,
    features: Sequence[int],
    *,
    judge: Judge | None = None,
    plan: Plan | None = None,
    facts: Mapping[str, Any] | None = None,
    told: Callable[[int, int], None] = lambda done, steerable: None,
) -> Outcome:
    """Measure what has not been measured yet, and put every band onto its card.

    A feature counts as measured while its card has the same maximum and the same concept, and the
    judge knows that by the same words.
    facts: more settings that must be the same to go on. told: hears how many are done, and have a
    band.
    """
    plan = plan or Plan()
    settings = {
        **(facts or {}),
        "dictionary": [dictionary.info.id, dictionary.info.revision],
        **plan.settings(),
    }
    ledger = Ledger(curves_file(cards.path), settings)
    todo: list[int] = []
    done: list[int] = []
    unsaid: list[int] = []  # measured by a run that was stopped before the card had its band
    for feature in features:
        card = _summary(cards, feature)
        if not _known(ledger, card, judge):
            todo.append(feature)
            continue
        done.append(feature)
        if _banded(ledger, card) != card:
            unsaid.append(feature)
    _put(cards, ledger, unsaid)
    if todo:
        gauge, settling = plan.gauges(subject, speaker, dictionary)
        if GAUGE not in ledger.records:
            ledger.add({"key": GAUGE, **gauge.told(), "settling": settling.told()})
    for start in range(0, len(todo), _CHUNK):
        told(len(done), _steerable(ledger, done))
        now = todo[start : start + _CHUNK]
        known = [_summary(cards, feature) for feature in now]
        results = settled(settling, _measured(gauge, subject, dictionary, known, judge))
        for card, result in zip(known, results, strict=True):
            ledger.add({**result.told(), **_judged(card, judge)})
        _put(cards, ledger, now)
        done += now
    told(len(done), _steerable(ledger, done))
    return Outcome(len(features), len(todo), _steerable(ledger, done))


def _measured(
    gauge: Gauge,
    subject: Subject,
    dictionary: Dictionary,
    known: Sequence[Card],
    judge: Judge | None,
) -> list[Calibrated]:
    """In the order of the cards."""
    handles = [
        feature_handle(
            subject,
            dictionary,
            card.feature,
            card.maximum or 0.0,
            back=gauge.back,
            judge=judge,
            slug=_watched(card, judge),
        )
        for card in known
    ]
    return calibrated(gauge, handles)


def _summary(cards: Cards, feature: int) -> Card:
    card = cards.get(feature, examples=False)
    assert card is not None
    return card


def _watched(card: Card, judge: Judge | None) -> str | None:
    """The concept by whose words the feature is watched, if any."""
    slug = card.slug
    return slug if judge is not None and slug is not None and slug in judge else None


def _known(ledger: Ledger, card: Card, judge: Judge | None) -> bool:
    record = ledger.records.get(str(card.feature))
    if record is None:
        return False
    same = math.isclose(record["maximum"], card.maximum or 0.0, rel_tol=1e-4)
    judged = _judged(card, judge)
    return same and {key: record.get(key) for key in judged} == judged


def _judged(card: Card, judge: Judge | None) -> dict[str, str | None]:
    slug = _watched(card, judge)
    return {"concept": slug, "words": judge.digest(slug) if judge and slug else None}


def _put(cards: Cards, ledger: Ledger, features: Sequence[int]) -> None:
    """Whole cards, as they are by now: a label may have come meanwhile."""
    if whole := [card for feature in features if (card := cards.get(feature)) is not None]:
        cards.put([_banded(ledger, card) for card in whole])


def _banded(ledger: Ledger, card: Card) -> Card:
    """The card with what the ledger says of its feature."""
    band = ledger.records[str(card.feature)]["band"] or {}
    onset, breakdown, strength = map(_four, map(band.get, ("onset", "breakdown", "strength")))
    return replace(card, onset=onset, breakdown=breakdown, op=band.get("op"), strength=strength)


def _four(value: float | None) -> float | None:
    """Four digits that count: a card is for reading."""
    return None if value is None else float(f"{value:.4g}")


def _steerable(ledger: Ledger, features: Sequence[int]) -> int:
    return sum(ledger.records[str(f)]["band"] is not None for f in features)
