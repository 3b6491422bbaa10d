"""Which feature stands for which authored concept, by how well its firing tells the texts apart.

A feature *fires on a text* when its activation exceeds `level` times its maximum on any content
token; of the LEVELS the best is taken. For each concept and feature, over all texts,

    recall    = texts about the concept on which it fires / texts about the concept
    precision = texts about the concept on which it fires / texts on which it fires
    F1        = their harmonic mean

A text is about the concept in whose sheet it stands. Texts of other sheets that say the concept's
words are neither for nor against it, and are left out of its precision.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dictionary import Dictionary
from .arrays import Arrays
from .concept_sheets import Concepts, Labelled, labelled
from .firings import Peaks, firings, peaks, text_of
from .subject import Subject
from .text import Row, encoded, padded

LEVELS = (0.0, 0.1, 0.2, 0.35, 0.5)
CLEAN = 0.8  # F1
_CANDIDATES = 8  # best features a concept may fall back on
_BLOCK = 4096  # features ranked at a time


@dataclass(frozen=True, slots=True)
class Match:
    """A concept's best feature. texts: about the concept. level: see above."""

    slug: str
    feature: int
    precision: float
    recall: float
    f1: float
    level: float
    texts: int


class Counts:
    """How many texts of each kind every feature fires on, at every level; kept in a folder."""

    def __init__(self, folder: Path, concepts: int, d_sae: int) -> None:
        shape = (concepts, d_sae, len(LEVELS))
        self._arrays = Arrays(
            folder,
            {
                "about": (np.int32, shape),
                "named": (np.int32, shape),
                "all": (np.int32, shape[1:]),
                "texts": (np.int64, (concepts,)),
            },
        )
        self.state = self._arrays.state

    def keep(self, state: dict[str, Any]) -> None:
        self._arrays.keep(state)

    def count(self, texts: Sequence[Labelled]) -> None:
        """Texts, each once: how many there are about each concept."""
        for text in texts:
            if text.about is not None:
                self._arrays["texts"][text.about] += 1

    def add(
        self, found: Peaks, texts: Sequence[Labelled], maximum: npt.NDArray[np.float32]
    ) -> None:
        """One block of features on a batch of texts, row by row. maximum: [d_sae]."""
        above = maximum[found.feature, None] * np.array(LEVELS, np.float32)
        fires = (found.value[:, None] > above).astype(np.int32)
        for row, text in enumerate(texts):
            of_row = found.row == row
            feature, hit = found.feature[of_row], fires[of_row]
            self._arrays["all"][feature] += hit
            if text.about is not None:
                self._arrays["about"][text.about, feature] += hit
            for concept in text.named:
                self._arrays["named"][concept, feature] += hit

    def best(self, concept: int, slug: str, live: npt.NDArray[np.bool_]) -> list[Match]:
        """Its best features at their best levels, best first.

        live: [d_sae], which features fire in the corpus: the others get no card to bear a name.
        """
        ranked: list[Match] = []
        texts = int(self._arrays["texts"][concept])
        d_sae = self._arrays["all"].shape[0]
        for start in range(0, d_sae, _BLOCK):
            part = slice(start, start + _BLOCK)
            about = self._arrays["about"][concept, part] * live[part, None]
            fired = self._arrays["all"][part] - self._arrays["named"][concept, part]
            f1 = 2 * about / np.maximum(1, fired + texts)
            level = f1.argmax(1)
            best = f1.max(1)
            for at in np.argsort(-best, kind="stable")[:_CANDIDATES]:
                hit = int(about[at, level[at]])
                if hit:
                    ranked.append(
                        Match(
                            slug=slug,
                            feature=start + int(at),
                            precision=hit / int(fired[at, level[at]]),
                            recall=hit / texts,
                            f1=float(best[at]),
                            level=LEVELS[level[at]],
                            texts=texts,
                        )
                    )
        return sorted(ranked, key=lambda m: -m.f1)[:_CANDIDATES]


def batches_of(
    texts: Iterable[Labelled], tokenizer: Any, *, context: int, rows: int
) -> Iterator[list[tuple[Labelled, Row]]]:
    """The texts with their tokens, so many at a time; those without content are left out."""
    latest: list[Labelled] = []

    def documents() -> Iterator[Any]:
        for text in texts:
            latest[:] = [text]
            yield text.document

    # A text gives at most one row, and gives it before the next is asked for.
    pairs = ((latest[0], row) for row in encoded(documents(), tokenizer, context=context))
    while many := list(itertools.islice(pairs, rows)):
        yield many


def match(
    subject: Subject,
    dictionary: Dictionary,
    known: Concepts,
    maximum: npt.NDArray[np.float32],
    counts: Counts,
    *,
    limit: float,
    context: int,
    rows: int,
) -> Iterator[int]:
    """Fill `counts`, going on after what it has; after every batch, yields how many are done.

    limit: see `firings.limited`.
    """
    done = int(counts.state.get("batches", 0))
    batches = batches_of(labelled(known), subject.tokenizer, context=context, rows=rows)
    for number, batch in enumerate(itertools.islice(batches, done, None), start=done + 1):
        texts = [text for text, _ in batch]
        windows = padded([row for _, row in batch], 0)
        counts.count(texts)
        for fired in firings(subject, dictionary, windows, limit):
            counts.add(peaks(fired, text_of(windows)), texts, maximum)
        yield number


def chosen(ranked: Sequence[Sequence[Match]], *, least_f1: float) -> dict[int, Match]:
    """By feature: at most one concept each, and one feature a concept; the best matches first.

    ranked: for each concept its best features, as `Counts.best` gives them.
    """
    taken: dict[int, Match] = {}
    named: set[str] = set()
    for found in sorted(itertools.chain(*ranked), key=lambda m: (-m.f1, m.slug)):
        if found.f1 >= least_f1 and found.feature not in taken and found.slug not in named:
            taken[found.feature] = found
            named.add(found.slug)
    return taken


def report(
    known: Concepts, ranked: Sequence[Sequence[Match]], taken: Mapping[int, Match]
) -> dict[str, Any]:
    """JSON: for each concept its best feature, and the one that got its name (the same, unless
    that feature stands for another concept even better). clean: concepts with F1 of 0.8 or more.
    """
    names = {m.slug: asdict(m) for m in taken.values()}
    rows = [
        {
            "slug": concept.slug,
            "best": asdict(matches[0]) if matches else None,
            "labelled": names.get(concept.slug),
        }
        for concept, matches in zip(known.concepts, ranked, strict=True)
    ]
    f1 = [matches[0].f1 if matches else 0.0 for matches in ranked]
    return {
        "median_f1": float(np.median(f1)),
        "clean": sum(value >= CLEAN for value in f1),
        "levels": LEVELS,
        "concepts": rows,
    }
