"""Which concept is a reply about? A naive Bayes judge, trained on the sheets, of words and marks.

It judges styles too (capital letters, question marks and pirates' words are tokens like others),
which counting a sheet's `words` cannot.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from .sheets import Corpus, Sheet

_TOKENS = re.compile(r"[A-Za-z']+|[0-9]+|[?!]")
CALM = ""  # the class of everyday talk


def words(text: str) -> list[str]:
    """Words and marks; only words of two or more letters may keep their capitals (shouting)."""
    found = _TOKENS.findall(text)
    return [w if w.isupper() and len(w) > 1 else w.lower() for w in found]


class Judge:
    """Trained on own lines, drift, questions and facts of each sheet against everyday talk."""

    def __init__(self, corpus: Corpus, *, calm_prior: float = 0.5) -> None:
        texts = {sheet.slug: _texts(sheet) for sheet in corpus.sheets}
        texts[CALM] = [p.reply for p in corpus.general] + [t for c in corpus.chats for t in c]
        counts = {slug: Counter(w for t in ts for w in words(t)) for slug, ts in texts.items()}
        vocabulary = set().union(*counts.values())
        self._scores = {slug: _logs(c, vocabulary) for slug, c in counts.items()}
        other = math.log((1 - calm_prior) / max(1, len(counts) - 1))
        self._prior = {slug: other if slug else math.log(calm_prior) for slug in counts}

    def verdict(self, text: str) -> str:
        """The slug whose texts most likely hold these words, or CALM."""
        return max(self._prior, key=lambda slug: self._score(slug, text))

    def rate(self, slug: str, replies: Iterable[str]) -> float:
        """How often the verdict is that slug."""
        verdicts = [self.verdict(r) == slug for r in replies]
        return sum(verdicts) / max(1, len(verdicts))

    def _score(self, slug: str, text: str) -> float:
        known = self._scores[slug]
        unseen = known[None]
        return self._prior[slug] + sum(known.get(w, unseen) for w in words(text))


def _texts(sheet: Sheet) -> list[str]:
    pairs = (*sheet.drift, *sheet.questions)
    return [*sheet.own, *sheet.facts, *(p.reply for p in pairs)]


def _logs(counts: Counter[str], vocabulary: set[str]) -> dict[str | None, float]:
    """Log-probabilities with Laplace smoothing; None: a word this class never had."""
    total = math.log(sum(counts.values()) + 0.3 * len(vocabulary))
    logs: dict[str | None, float] = {w: math.log(n + 0.3) - total for w, n in counts.items()}
    logs[None] = math.log(0.3) - total
    return logs


def repetition(text: str) -> float:
    """0 for fresh text, towards 1 for a loop: the share of word triples said before."""
    said = text.lower().split()
    triples: Sequence[tuple[str, ...]] = list(zip(said, said[1:], said[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0
