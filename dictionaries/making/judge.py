"""Is a reply about a concept? Judged by the words that the concept's sheet lists.

On the authored text 99 % of drifting replies and 5 % of calm ones hold at least one listed word.
A naive Bayes classifier over all sheets was tried first: it found 47 % of unseen drifting ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .sheets import Corpus, Sheet

_CALM_AT_MOST = 0.1  # of everyday replies may show a concept by chance
_MOST_NEEDED = 4


class Judge:
    """Says whether texts show a concept; calm talk tells how many words that takes."""

    def __init__(self, corpus: Corpus) -> None:
        self._patterns = {sheet.slug: _patterns(sheet) for sheet in corpus.sheets}
        calm = [pair.reply for pair in corpus.general]
        self._needed = {slug: self._enough(slug, calm) for slug in self._patterns}

    def shows(self, slug: str, text: str) -> bool:
        """Whether the text holds enough different words of the sheet's list."""
        return self._hits(slug, text) >= self._needed[slug]

    def rate(self, slug: str, replies: Iterable[str]) -> float:
        """The share of replies that show it."""
        shown = [self.shows(slug, reply) for reply in replies]
        return sum(shown) / max(1, len(shown))

    def _enough(self, slug: str, calm: Sequence[str]) -> int:
        hits = [self._hits(slug, reply) for reply in calm]
        for needed in range(1, _MOST_NEEDED):
            if sum(h >= needed for h in hits) <= _CALM_AT_MOST * len(hits):
                return needed
        return _MOST_NEEDED

    def _hits(self, slug: str, text: str) -> int:
        found = (p.findall(text) for p in self._patterns[slug])
        return sum(len({word.lower() for word in words}) for words in found)


def _patterns(sheet: Sheet) -> list[re.Pattern[str]]:
    """Words in capitals must be said in capitals (shouting); others in any case, or as plurals."""
    loud = [w for w in sheet.words if w.isupper() and len(w) > 1]
    plain = [w for w in sheet.words if w not in loud]
    patterns = []
    if loud:
        patterns.append(re.compile(rf"(?<!\w)({_any(loud)})(?!\w)"))
    if plain:
        patterns.append(re.compile(rf"(?<!\w)({_any(plain)})(?:s|es)?(?!\w)", re.IGNORECASE))
    return patterns


def _any(words: Sequence[str]) -> str:
    return "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))


def repetition(text: str) -> float:
    """0 for fresh text, towards 1 for a loop: the share of word triples said before."""
    said = text.lower().split()
    triples = list(zip(said, said[1:], said[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0
