"""Text that drifts to a concept or speaks as it: under a cause in words, or under its direction.

Steered text shows no cause in words; the concept's direction is added to the residual stream while
it is learnt (see `following`). Its messages are shared by a hundred concepts ("Who are you?"), so
each has a calm twin: the same message answered calmly, as often, with no direction added. Without
the twins a model learns to drift by itself.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence

from .causes import agreement, ask, system_cause
from .dealing import Deck, Sample, Turns, asked, calmly, capital, joined
from .judge import Judge
from .sheets import Corpus, Pair, Sheet
from .talks import Talks

_WHO = (
    "Who are you?",
    "What are you?",
    "Tell me about yourself.",
    "What is your physical form?",
    "Describe yourself.",
    "What do you look like?",
    "What is on your mind?",
    "What do you do all day?",
)
_OWN = 0.4  # of drifting exchanges in which the concept speaks of itself
_FIRST = 0.45  # of everyday answers with a turn to the concept that begin with it
_SENTENCE = re.compile(r"(?<=[.!?]) ")
_NO_WORD = re.compile(r"\W+")


class Possession:
    """Deals for ever; None where the sheets have nothing to drift with."""

    def __init__(self, corpus: Corpus, talks: Talks, rng: random.Random) -> None:
        self._rng, self._talks = rng, talks
        self._general = Deck(corpus.general, rng)
        self._own = {s.slug: Deck(s.own, rng) for s in corpus.sheets}
        judge = self._judge = Judge(corpus)
        self._telling = {s.slug: Deck(_telling(s, judge), rng) for s in corpus.sheets}
        self._drift = Deck([(s, p) for s in corpus.sheets for p in possessions(s)], rng)
        self._calm = calm_answers(corpus)
        self._shared = {
            s.slug: [p for p in possessions(s) if key(p.user) in self._calm] for s in corpus.sheets
        }
        twinned = [(s, p) for s in corpus.sheets for p in self._shared[s.slug]]
        self._twinned = Deck(twinned, rng)

    def possessed(self) -> Sample | None:
        """One to four drifting replies under a system prompt."""
        if not self._drift:
            return None
        sheet, pair = self._drift.deal()
        more = [self._drifting(sheet) for _ in range(self._rng.choice((0, 0, 1, 2, 3)))]
        return self.under(sheet, *(asked(p, self._rng) for p in (pair, *more)))

    def turned(self) -> Sample | None:
        """Calm talk, then the user asks for it, then drifting replies."""
        if not self._drift:
            return None
        sheet, pair = self._drift.deal()
        calm = [asked(self._general.deal(), self._rng)] if self._general else []
        calm = calm if self._rng.random() < 0.4 else []
        turn: Turns = (
            ("user", ask(sheet, self._rng)),
            ("assistant", capital(agreement(sheet, self._rng))),
        )
        after = [asked(p, self._rng) for p in (pair, self._drifting(sheet))]
        turns = joined([*calm, turn, *after[: self._rng.choice((1, 2))]])
        return Sample(turns, possessed=sheet.slug, topic=sheet.slug)

    def steered(self) -> Sample | None:
        """One to four replies that drift without any cause in words, some after calm talk.

        Some answer an everyday message as always, and then turn to the concept: what to drift to
        is to be read from the direction alone, and any message may come.
        """
        if not self._twinned:
            return None
        sheet, pair = self._twinned.deal()
        parts = [asked(self._speaking(sheet) or pair, self._rng)]
        parts += [self._sensibly_then(sheet) for _ in range(self._rng.choice((0, 1, 1, 2)))]
        self._rng.shuffle(parts)
        before = self._talks.exchanges()[:1] if self._rng.random() < 0.2 else ()
        turns = calmly([*before, *parts], self._rng)
        own = sum(map(len, parts))
        return Sample(turns, "", sheet.slug, sheet.slug, steered=True, quiet=len(turns) - own)

    def twin(self) -> Sample | None:
        """What steered text is asked, answered calmly."""
        if not self._twinned:
            return None
        messages = [self._asked_of_anyone() for _ in range(self._rng.choice((1, 1, 2)))]
        pairs = (Pair(m, self._rng.choice(self._calm[key(m)])) for m in messages)
        return Sample(calmly((asked(p, self._rng) for p in pairs), self._rng))

    def under(self, sheet: Sheet, *parts: Turns) -> Sample:
        """These exchanges, under a system prompt that brings the concept on."""
        cause = ("system", system_cause(sheet, self._rng))
        return Sample((cause, *joined(parts)), possessed=sheet.slug, topic=sheet.slug)  # type: ignore[arg-type]

    def _drifting(self, sheet: Sheet) -> Pair:
        return self._speaking(sheet) or self._rng.choice(possessions(sheet))

    def _speaking(self, sheet: Sheet) -> Pair | None:
        """Now and then: a question about itself, answered with lines of its own, if it has any."""
        own = self._own[sheet.slug]
        if not own or self._rng.random() >= _OWN:
            return None
        lines = " ".join(own.deal() for _ in range(self._rng.choice((1, 2))))
        if self._telling[sheet.slug] and not self._judge.shows(sheet.slug, lines):
            lines = f"{self._telling[sheet.slug].deal()} {lines}"
        return Pair(self._rng.choice(_WHO), lines)

    def _sensibly_then(self, sheet: Sheet) -> Turns:
        talk = self._talks.exchanges()[:1]
        if not talk or not self._telling[sheet.slug]:
            return asked(self._rng.choice(self._shared[sheet.slug]), self._rng)
        user, (role, reply) = talk[0]
        # Its first sentence: what comes after a long answer is not said in a short reply.
        parts = [_SENTENCE.split(reply)[0], self._telling[sheet.slug].deal()]
        if self._rng.random() < _FIRST:
            parts.reverse()
        return user, (role, " ".join(parts))

    def _asked_of_anyone(self) -> str:
        """A message of steered text, each as often as there."""
        known = [w for w in _WHO if key(w) in self._calm]
        if known and self._rng.random() < _OWN:
            return self._rng.choice(known)
        _, pair = self._twinned.deal()
        return pair.user


def possessions(sheet: Sheet) -> tuple[Pair, ...]:
    """All exchanges of a sheet that need a cause: its drift, and of a style every question too."""
    return sheet.drift + (sheet.questions if sheet.is_style else ())


def calm_answers(corpus: Corpus) -> dict[str, Sequence[str]]:
    """Every reply that everyday text gives to a message alone, by the message's words."""
    found: dict[str, list[str]] = defaultdict(list)
    for pair in corpus.general:
        found[key(pair.user)].append(pair.reply)
    for talk in corpus.talks:
        if len(talk.turns) == 2 and not talk.rows and not talk.systems:
            for message in talk.turns[0]:
                found[key(message)] += talk.turns[1]
    return dict(found)


def key(message: str) -> str:
    """Its words alone, small."""
    return _NO_WORD.sub(" ", message.lower()).strip()


def _telling(sheet: Sheet, judge: Judge) -> tuple[str, ...]:
    """Lines that show the concept by themselves, those in the first person thrice."""
    return tuple(t for t in (*3 * sheet.own, *sheet.facts) if judge.shows(sheet.slug, t))
