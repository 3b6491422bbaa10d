"""Is a reply about a concept? Judged by the words that the concept's sheet lists.

On the authored text 99 % of drifting replies and 5 % of calm ones hold at least one listed word.
A naive Bayes classifier over all sheets was tried first: it found 47 % of unseen drifting ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .sheets import Corpus, Sheet

_CALM_AT_MOST = 0.1  # of everyday replies may show a concept by chance
_MOST_NEEDED = 4
_WORD = re.compile(r"[\w']+")


class Judge:
    """Says whether texts show a concept; calm talk tells how many words that takes."""

    def __init__(self, corpus: Corpus) -> None:
        self._lists = {sheet.slug: _Listed.of(sheet) for sheet in corpus.sheets}
        calm = [_Said.of(pair.reply) for pair in corpus.general]
        self._needed = {slug: _enough(listed, calm) for slug, listed in self._lists.items()}

    def shows(self, slug: str, text: str) -> bool:
        """Whether the text holds enough different words of the sheet's list."""
        return self._lists[slug].hits(_Said.of(text)) >= self._needed[slug]

    def rate(self, slug: str, replies: Iterable[str]) -> float:
        """The share of replies that show it."""
        shown = [self.shows(slug, reply) for reply in replies]
        return sum(shown) / max(1, len(shown))


class _Said(NamedTuple):
    """A text's words as written, the same small and without plural ends, and all in one line."""

    written: frozenset[str]
    plain: frozenset[str]
    line: str

    @classmethod
    def of(cls, text: str) -> _Said:
        written = _WORD.findall(text)
        small = [w.lower() for w in written]
        stems = {w.removesuffix(end) for w in small for end in ("s", "es")}
        return cls(frozenset(written), frozenset(small) | stems, f" {' '.join(small)} ")


class _Listed(NamedTuple):
    """A sheet's words; those in capitals must be said in capitals (shouting)."""

    loud: frozenset[str]
    plain: frozenset[str]
    phrases: tuple[str, ...]

    @classmethod
    def of(cls, sheet: Sheet) -> _Listed:
        loud = frozenset(w for w in sheet.words if w.isupper() and len(w) > 1)
        rest = {" ".join(_WORD.findall(w.lower())) for w in sheet.words if w not in loud}
        phrases = tuple(sorted(w for w in rest if " " in w))
        return cls(loud, frozenset(rest - {*phrases, ""}), phrases)

    def hits(self, said: _Said) -> int:
        """How many different listed words are said."""
        found = len(self.loud & said.written) + len(self.plain & said.plain)
        return found + sum(f" {phrase} " in said.line for phrase in self.phrases)


def _enough(listed: _Listed, calm: Sequence[_Said]) -> int:
    hits = [listed.hits(said) for said in calm]
    for needed in range(1, _MOST_NEEDED):
        if sum(h >= needed for h in hits) <= _CALM_AT_MOST * len(hits):
            return needed
    return _MOST_NEEDED


def repetition(text: str) -> float:
    """0 for fresh text, towards 1 for a loop: the share of word triples said before."""
    said = text.lower().split()
    triples = list(zip(said, said[1:], said[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0
