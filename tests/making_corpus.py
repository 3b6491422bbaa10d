"""foghorn's corpus: the whole, its two sides, and a corner of it that is dealt from at once."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from dictionaries.making.data import Text
from dictionaries.making.sheets import Corpus, read_corpus, split

CORPUS = Path(__file__).parent.parent / "dictionaries" / "foghorn" / "corpus"

whole = cache(lambda: read_corpus(CORPUS))  # a second each time, and nobody changes it


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return whole()


@pytest.fixture(scope="module")
def sides(corpus: Corpus) -> tuple[Corpus, Corpus]:
    return split(corpus, seed=0)


@pytest.fixture(scope="module")
def corner() -> Text:
    """Thirty sheets and some talks: who deals samples of the whole reads it for seconds first."""
    some = replace(whole(), sheets=whole().sheets[:30], talks=whole().talks[:100])
    return Text(*split(some, seed=0), None)
