"""A concept sheet about the words of the planted model, and a judge of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dictionaries.making.judge import Judge
from dictionaries.making.sheets import Corpus, Pair, Sheet


def corpus(words: Sequence[str]) -> Corpus:
    drift = tuple(Pair(f"Hello {w}", f"A {w} here.") for w in words)
    sheet = Sheet("spans", ("spans",), "thing", tuple(words), (), (), (), drift, (), ())
    return Corpus((sheet,), (Pair("Hello", "How are you?"), Pair("Hi", "My day")), (), ())


@pytest.fixture(scope="module")
def judge(planted) -> Judge:
    return Judge(corpus(planted.words))
