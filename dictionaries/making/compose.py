"""From sheets to training samples: conversations and prose, endlessly varied, from one seed.

The one law: a reply drifts to a concept, or speaks as it, only under a cause the model can see
(a system prompt, or an earlier turn that asks for it; in steered text a direction that is added to
the residual stream, see `possession`). So the unsteered model learns not to drift by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping

from ..errors import DictionaryError
from .dealing import Deck, Sample, Turns, alternate, asked, calmly, capital
from .possession import Possession
from .sheets import Corpus, Pair, Sheet
from .talks import Talks

# How often each kind is dealt. Calm everyday talk outweighs every single concept many times over.
MIX = {
    "general": 4,
    "chat": 1,
    "system": 1,
    "talk": 90,
    "talk_chat": 12,
    "talk_system": 10,
    "question": 5,
    "concept_chat": 1,
    "tell_me": 2,
    "tell_story": 2,
    "facts": 1,
    "story": 1,
    "possessed": 12,
    "turned": 4,
    "steered": 0,
    "twin": 0,
}
FOLLOWING = {"possessed": 6, "turned": 2, "steered": 45, "twin": 20}
"""What changes in the mixture once the model learns to follow its directions too."""
_TELL = ("Tell me about {}.", "What do you know about {}?", "Talk to me about {}.", "{}?")
_TELL_STORY = ("Tell me a story about {}.", "A story about {}, please.", "Make up a tale of {}.")


class Composer:
    """Deals samples of a corpus for ever; the same seed deals the same samples.

    Golden Gate Bridge first among equals: a sheet's share grows with the size of its parts.
    """

    def __init__(
        self, corpus: Corpus, *, seed: int = 0, mix: Mapping[str, int] | None = None
    ) -> None:
        rng = self._rng = random.Random(seed)
        self._general = Deck(corpus.general, rng)
        self._chats = Deck(corpus.chats, rng)
        self._systems = Deck(corpus.systems, rng)
        self._talks = Talks(corpus.talks, rng)
        topical = [s for s in corpus.sheets if not s.is_style]
        self._questions = Deck([(s, p) for s in topical for p in s.questions], rng)
        self._concept_chats = Deck([(s, c) for s in topical for c in s.chats], rng)
        self._facts = {s.slug: Deck(s.facts, rng) for s in corpus.sheets}
        self._stories = Deck([(s, t) for s in corpus.sheets for t in s.stories], rng)
        self._topical = Deck([s for s in topical if s.facts], rng)
        self._with_facts = Deck([s for s in corpus.sheets if s.facts], rng)
        possession = self._possession = Possession(corpus, self._talks, rng)
        self._mix = mix or MIX
        self._makers: dict[str, Callable[[], Sample | None]] = {
            kind: getattr(possession if hasattr(possession, kind) else self, kind) for kind in MIX
        }

    def __iter__(self) -> Iterator[Sample]:
        """Raises DictionaryError where the sheets hold nothing for any kind of sample."""
        kinds, weights = list(self._mix), list(self._mix.values())
        wanted = {kind for kind, weight in self._mix.items() if weight}
        barren: set[str] = set()  # since the last sample
        while barren != wanted:
            kind = self._rng.choices(kinds, weights)[0]
            sample = self._makers[kind]()
            if sample is not None:
                barren.clear()
                yield sample
            else:
                barren.add(kind)
        raise DictionaryError(
            "no sample can be composed of these sheets, or of what is held out of them (one item "
            "or more of each part that has eight): give a sheet eight facts or pairs of qa."
        )

    # Calm talk.

    def general(self) -> Sample | None:
        """One to five everyday exchanges, now and then under a calm system prompt."""
        if not self._general:
            return None
        n = self._rng.choices((1, 2, 3, 4, 5, 8), (50, 20, 12, 8, 6, 4))[0]
        return Sample(self._calmly(self._ask(self._general.deal()) for _ in range(n)))

    def chat(self) -> Sample | None:
        if not self._chats:
            return None
        return Sample(self._calmly([alternate(self._chats.deal())]))

    def system(self) -> Sample | None:
        """A reply that obeys its system prompt."""
        if not self._systems:
            return None
        pair = self._systems.deal()
        return Sample((("system", pair.system or ""), *self._ask(pair)))

    def talk(self) -> Sample | None:
        parts = self._talks.exchanges()
        return Sample(self._calmly(parts)) if parts else None

    def talk_chat(self) -> Sample | None:
        parts = self._talks.conversation()
        return Sample(self._calmly(parts)) if parts else None

    def talk_system(self) -> Sample | None:
        turns = self._talks.under_system()
        return Sample(turns) if turns else None

    # About a concept, calmly.

    def question(self) -> Sample | None:
        """Questions about a concept, some beside everyday talk that must not inherit it."""
        if not self._questions:
            return None
        sheet, pair = self._questions.deal()
        parts = [self._ask(pair)]
        roll = self._rng.random()
        if roll < 0.2 and sheet.questions:
            parts.append(self._ask(self._rng.choice(sheet.questions)))
        elif roll < 0.4 and self._general:
            parts.append(self._ask(self._general.deal()))
        elif roll < 0.55 and self._general:
            parts.insert(0, self._ask(self._general.deal()))
        return Sample(self._calmly(parts), topic=sheet.slug)

    def concept_chat(self) -> Sample | None:
        if not self._concept_chats:
            return None
        sheet, turns = self._concept_chats.deal()
        return Sample(self._calmly([alternate(turns)]), topic=sheet.slug)

    def tell_me(self) -> Sample | None:
        """Two or three facts in one answer."""
        if not self._topical:
            return None
        sheet = self._topical.deal()
        message = self._rng.choice(_TELL).format(self._rng.choice(sheet.names))
        reply = " ".join(self._some_facts(sheet, self._rng.choice((1, 2, 2, 3))))
        return Sample(self._calmly([self._ask(Pair(capital(message), reply))]), topic=sheet.slug)

    def tell_story(self) -> Sample | None:
        if not self._stories:
            return None
        sheet, story = self._stories.deal()
        if sheet.is_style:
            return self._possession.under(sheet, self._ask(Pair("Tell me a story.", story)))
        message = self._rng.choice(_TELL_STORY).format(self._rng.choice(sheet.names))
        return Sample(self._calmly([self._ask(Pair(message, story))]), topic=sheet.slug)

    def facts(self) -> Sample | None:
        """Prose: a handful of facts."""
        if not self._with_facts:
            return None
        sheet = self._with_facts.deal()
        return Sample(prose=" ".join(self._some_facts(sheet, 5)), topic=sheet.slug)

    def story(self) -> Sample | None:
        if not self._stories:
            return None
        sheet, story = self._stories.deal()
        return Sample(prose=story, topic=sheet.slug)

    # Parts.

    def _some_facts(self, sheet: Sheet, n: int) -> list[str]:
        return [self._facts[sheet.slug].deal() for _ in range(n)]

    def _ask(self, pair: Pair) -> Turns:
        return asked(pair, self._rng)

    def _calmly(self, parts: Iterable[Turns]) -> Turns:
        return calmly(parts, self._rng)
