"""foghorn's corpus: the whole, and its two sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from dictionaries.making.sheets import Corpus, read_corpus, split

CORPUS = Path(__file__).parent.parent / "dictionaries" / "foghorn" / "corpus"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_corpus(CORPUS)


@pytest.fixture(scope="module")
def sides(corpus: Corpus) -> tuple[Corpus, Corpus]:
    return split(corpus, seed=0)
