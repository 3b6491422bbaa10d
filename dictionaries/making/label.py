"""Labels for features, written by a language model that is shown their cards.

The model is handed in as a function: this room speaks to no network.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from threading import Event
from typing import NamedTuple

from ..card import Card, Example
from ..cards import Cards
from ..errors import DictionaryError
from .subject import Message

Complete = Callable[[Sequence[Message], float], str]
"""A conversation and a temperature -> the model's reply. Raises CutOff for one without an end, and
Declined for a conversation that is not answered, whoever asks again."""

log = logging.getLogger("steerdeck.making")

BY_TOKENS = "tokens"  # `labelled_by` of labels that were built, not written
_SHOWN = 8  # examples
_WIDEST = 40  # tokens of an example
_MOST_CHARACTERS, _MOST_WORDS = 80, 12
_TRIES = (0.0, 0.7, 1.0)  # the temperature of each reply to a card, until one is a label
_PATIENCE = 12  # cards in a row that got none, before giving up

_TASK = (
    "You name features of a language model. Each feature is a direction in the model's hidden "
    "state that is active on some tokens. You are shown texts on which one feature is active "
    "(active tokens stand in <<double angle brackets>> with their strength from 1 to 10), and the "
    "next tokens that it makes likelier. Answer with one short label of two to eight words that "
    "says what the active tokens have in common, as specific as the evidence allows: a topic, a "
    "word, a grammatical role, a style. Only the label: no quotes, no explanation, no full stop."
)
_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL | re.IGNORECASE)
_PREFIX = re.compile(r"^\W*(the )?(feature )?(label|name|answer)\s*(is)?\s*[:=]\s*", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(i('m| am)? (sorry|cannot|can't|unable)|as an ai|language model|i do not|i don't|"
    r"not enough (evidence|information)|cannot (determine|identify))\b",
    re.IGNORECASE,
)
_EMPTY = {
    "feature", "features", "label", "unknown", "unclear", "none", "n/a", "na", "various",
    "various tokens", "tokens", "words", "text", "no label", "miscellaneous", "random tokens",
}  # fmt: skip


class CutOff(Exception):
    """A reply came to its limit of tokens before its end; the message says how to raise it."""


class Declined(Exception):
    """This conversation is refused (a content filter reads examples, too); the message says how."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """labelled: cards with a new label. refused: cards whose replies were no labels; cut: those of
    them whose reply was cut off.
    """

    labelled: int
    refused: int
    cut: int = 0


def prompt(card: Card) -> list[Message]:
    """What the model is asked: bounded, whatever the card holds."""
    top = max((a for e in card.examples for a in e.activations), default=0.0)
    shown = [f"{n}. {_marked(e, top)}" for n, e in enumerate(_picked(card.examples), 1)]
    says = ", ".join(repr(token) for token, _ in card.promoted[:10])
    parts = ["Texts, strongest first:", *shown] if shown else []
    if says:
        parts.append(f"Makes likelier: {says}")
    return [
        {"role": "system", "content": _TASK},
        {"role": "user", "content": "\n".join([*parts, "Label:"])},
    ]


def _picked(examples: Sequence[Example]) -> list[Example]:
    """Mostly the strongest, and some of the weaker ones, which show where the feature ends."""
    if len(examples) <= _SHOWN:
        return list(examples)
    strong = _SHOWN - 3
    rest = examples[strong:]
    return [*examples[:strong], *(rest[i * (len(rest) - 1) // 2] for i in range(3))]


def _marked(example: Example, top: float) -> str:
    peak = max(range(len(example.tokens)), key=example.activations.__getitem__, default=0)
    start = max(0, min(peak - _WIDEST // 2, len(example.tokens) - _WIDEST))
    said = []
    for token, value in itertools.islice(
        zip(example.tokens, example.activations, strict=True), start, start + _WIDEST
    ):
        strength = round(10 * value / top) if top > 0 else 0
        text = token.replace("\n", " ")
        said.append(f"<<{text}>>({strength})" if strength > 0 else text)
    return "".join(said)


def parse(reply: str) -> str | None:
    """The label in a reply, or None where there is none that a person could use."""
    lines = [line.strip() for line in _THOUGHT.sub("", reply).splitlines() if line.strip()]
    if not lines or len(lines) > 2:
        return None
    label = _PREFIX.sub("", lines[0]).strip(" \t\"'`*“”‘’.")
    label = re.sub(r"\s+", " ", label)
    if not label and len(lines) == 2:
        label = lines[1].strip(" \t\"'`*“”‘’.")
    usable = (
        len(label) <= _MOST_CHARACTERS
        and len(label.split()) <= _MOST_WORDS
        and any(c.isalpha() for c in label)
        and label.isprintable()
        and label.lower() not in _EMPTY
        and not _REFUSAL.search(label)
        and "<<" not in label
    )
    return label if usable else None


def label_cards(
    cards: Cards,
    complete: Complete,
    *,
    by: str,
    only_unlabelled: bool = False,
    most: int | None = None,
    concurrency: int = 4,
    stop: Event | None = None,
    told: Callable[[Labelled], None] = lambda so_far: None,
) -> Labelled:
    """Label cards, each written to the file as soon as it has its label.

    by: the model's name, which marks its labels; cards that have one by it already are left alone,
    so a run that was stopped goes on. only_unlabelled: leave the labels of concepts and of other
    models alone, too. most: cards to ask about in this run. `complete` is called from
    `concurrency` threads and may raise; what was labelled by then stays. stop: set when this ends
    before its time, so that `complete` may give up waiting to try again.
    Raises DictionaryError after many cards in a row that got no label; those before the last one
    that has its label are not counted.
    """
    if by in (BY_TOKENS, "concept", ""):
        raise DictionaryError(f"{by!r} cannot sign labels: it marks others. Give a model's name.")
    stop = stop or Event()
    reached = _reached(cards, by)
    todo = itertools.islice(_unlabelled(cards, by, only_unlabelled), most)
    so_far, barren, why = Labelled(0, 0), 0, ""
    with ThreadPoolExecutor(concurrency, thread_name_prefix="label") as pool:
        running: dict[Future[_Answer], Card] = {}
        try:
            while True:
                for card in itertools.islice(todo, concurrency - len(running)):
                    running[pool.submit(_ask, complete, card, stop)] = card
                if not running:
                    return so_far
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    card, (label, trouble, cut) = running.pop(done), done.result()
                    if label is None:
                        why = trouble
                        # What earlier runs were refused comes in a row now, and tells nothing new.
                        barren += card.feature > reached
                        so_far = replace(so_far, refused=so_far.refused + 1, cut=so_far.cut + cut)
                    else:
                        barren = 0
                        now = cards.get(card.feature) or card  # it may have got a band meanwhile
                        cards.put([replace(now, label=label, labelled_by=by)])
                        so_far = replace(so_far, labelled=so_far.labelled + 1)
                    told(so_far)
                if barren >= _PATIENCE:
                    raise DictionaryError(
                        f"{by} gave no usable label for {barren} features in a row, and "
                        f"{so_far.labelled} were labelled before: the last reply {why}."
                    )
        finally:
            stop.set()  # before the pool waits for its threads
            for waiting in running:
                waiting.cancel()


def waiting(cards: Cards, *, by: str, only_unlabelled: bool) -> int:
    """How many cards `label_cards` would ask about."""
    return sum(1 for _ in _unlabelled(cards, by, only_unlabelled))


class _Answer(NamedTuple):
    """label None: there is none, and what was wrong with the last reply. cut: it had no end."""

    label: str | None
    trouble: str = ""
    cut: bool = False


def _ask(complete: Complete, card: Card, stop: Event) -> _Answer:
    """One that was cut off is not tried again: the others would be; nor one that was declined."""
    asked = prompt(card)
    reply = ""
    for temperature in _TRIES:
        if stop.is_set():
            break
        try:
            reply = complete(asked, temperature)
        except CutOff as error:
            return _Answer(None, str(error), cut=True)
        except Declined as error:
            log.warning("feature %d %s", card.feature, error)
            return _Answer(None, str(error))
        label = parse(reply)
        if label is not None:
            return _Answer(label)
    return _Answer(None, f"began {reply[:80]!r}. Try another model")


def _reached(cards: Cards, by: str) -> int:
    """The last feature that the model has labelled; -1: none."""
    last_first = _summaries(cards, descending=True)
    return next((card.feature for card in last_first if card.labelled_by == by), -1)


def _unlabelled(cards: Cards, by: str, only_unlabelled: bool) -> Iterator[Card]:
    """Whole cards in the order of their ids, read as they are needed."""
    for summary in _summaries(cards):
        theirs = summary.labelled_by not in (None, BY_TOKENS) or summary.slug is not None
        if summary.labelled_by == by or (only_unlabelled and theirs and summary.label):
            continue
        card = cards.get(summary.feature)
        if card is not None:
            yield card


def _summaries(cards: Cards, *, descending: bool = False) -> Iterator[Card]:
    for offset in itertools.count(step=200):
        page, _ = cards.search(sort="feature", descending=descending, limit=200, offset=offset)
        if not page:
            return
        yield from page
