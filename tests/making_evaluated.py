"""Two concepts about the planted model, and their cards: one recommends a strength."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from dictionaries.cards import Card, Cards
from dictionaries.making.neutral import EVALUATION
from dictionaries.making.sheets import Corpus, Pair, Sheet

SPANS, DAYS = "spans", "days"
MAXIMUM = float(np.float32(2.1))  # as `describe` measures it: more digits than a ledger keeps


def sheet(slug: str, words: Sequence[str]) -> Sheet:
    drift = tuple(Pair(f"Hello {w}", f"A {w} of a day") for w in words)
    return Sheet(slug, (slug,), "thing", tuple(words), (), (), (), drift, (), ())


@pytest.fixture(scope="module")
def corpus(planted) -> Corpus:
    calm = tuple(Pair(prompt, "How are you?") for prompt in EVALUATION)
    return Corpus((sheet(SPANS, planted.words), sheet(DAYS, ["weekday"])), calm, (), ())


@pytest.fixture(scope="module")
def cards(planted, tmp_path_factory) -> Iterator[Cards]:
    with Cards.create(tmp_path_factory.mktemp("cards") / "cards.sqlite") as made:
        band = {"onset": 0.8, "breakdown": 3.5, "op": "clamp", "strength": 3.1}
        made.put([Card(planted.feature, "spans", slug=SPANS, maximum=MAXIMUM, **band)])
        made.put([Card(9, "days", slug=DAYS, maximum=2.0)])
        yield made
