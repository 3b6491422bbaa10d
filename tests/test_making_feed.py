"""The residuals that a training is fed: of which documents, how many, and none out of bounds."""

from __future__ import annotations

from typing import Any

import making_trained
import pytest
import torch
from making_trained import text

from dictionaries.errors import DictionaryError
from dictionaries.making.feed import Feed, held_out, limit_of, usual
from dictionaries.making.sources import LONGEST
from dictionaries.making.subject import Windows

model, tiny = making_trained.model, making_trained.tiny  # fixtures


def test_held_out_documents_are_never_trained_on_and_the_rest_all_are(tiny, monkeypatch):
    """Residuals that are their token's number tell which documents they come from."""
    numbered = [chr(65 + i) * 3 for i in range(60)]
    copied = [*numbered, *reversed(numbered)]
    number = dict(
        zip(tiny.tokenizer("".join(numbered))["input_ids"], "".join(numbered), strict=False)
    )
    monkeypatch.setattr(
        tiny,
        "residual",
        lambda w: w.ids[..., None].float().expand(-1, -1, 32),
    )
    feed = Feed(tiny, lambda: iter(copied), context=8, rows=4, size=900, seed=0)
    seen = {number[int(v)] for v in feed.round()[:, 0]}
    out = [document[0] for document in held_out(lambda: iter(copied))]
    assert 2 < len(set(out)) < 10
    assert all(out.count(document) == 2 for document in out), "copies are on one side"
    assert seen == {document[0] for document in numbered} - set(out)
    assert feed.place.epoch == 2  # some 340 tokens a pass


@pytest.mark.parametrize("sources", [1, 2, 3, 4, 5, 10, 20])
def test_every_source_is_trained_on_and_measured_on(sources):
    """However many take turns; and the shortest text has something to measure on."""
    every = [f"{i % sources} {i}" for i in range(200 * sources)]
    out = set(held_out(lambda: iter(every)))
    for source in range(sources):
        own = {document for document in every if document.split()[0] == str(source)}
        assert 1 <= len(own & out) <= 25  # some 10 of 200
    assert next(held_out(lambda: iter(["one"]))) == "one"


def test_the_first_held_out_tokens_are_not_all_of_the_first_document():
    book = "once upon a time " * (9 * LONGEST // 17)
    held = list(held_out(lambda: iter([book, *map(str, range(2000))])))
    of_it = [len(document) > 9 for document in held]
    assert sum(of_it) >= 9
    assert sum(of_it[:9]) < 5


def test_a_round_holds_no_more_than_its_buffer_and_no_attention_sinks(tiny, monkeypatch):
    def sunk(w: Any) -> torch.Tensor:
        x = torch.ones(*w.ids.shape, 32)
        x[:, 0] = 500.0
        return x

    monkeypatch.setattr(tiny, "residual", sunk)
    feed = Feed(tiny, text, context=32, rows=8, size=200, seed=0)
    first, second = feed.round(), feed.round()
    assert 150 < len(first) < 200
    assert len(second) == 200
    assert first.max() == second.max() == 1.0


def test_a_round_is_of_many_long_documents(tiny, monkeypatch):
    """Books of some hundred rows each: of those trained on, most are in the first few rows."""
    books = [chr(65 + i) * (12 * LONGEST) for i in range(12)]
    monkeypatch.setattr(tiny, "residual", lambda w: w.ids[..., None].float().expand(-1, -1, 32))
    feed = Feed(tiny, lambda: iter(books), context=512, rows=8, size=16 * LONGEST, seed=0)
    out = {document[0] for document in held_out(lambda: iter(books))}
    assert len(feed.round()[:, 0].unique()) >= 0.6 * (12 - len(out))


def test_a_residual_that_overflowed_is_left_out_and_many_are_refused(tiny, monkeypatch):
    x = torch.ones(9, 32)
    x[4, 3], x[5] = float("nan"), float("inf")
    assert limit_of(x) == pytest.approx(10 * 32**0.5)
    assert usual(x, limit_of(x)).sum() == 7
    x[:6] = float("inf")
    with pytest.raises(DictionaryError, match="6 of the model's 9 residuals are not finite"):
        limit_of(x)

    bad = [False]

    def overflowing(w: Windows) -> torch.Tensor:
        return torch.full((*w.ids.shape, 32), float("nan") if bad[0] else 1.0)

    monkeypatch.setattr(tiny, "residual", overflowing)
    feed = Feed(tiny, text, context=32, rows=8, size=200, seed=0)
    assert len(feed.round()) == 200
    bad[0] = True
    with pytest.raises(DictionaryError, match=r"no residual to learn from.*bfloat16"):
        feed.round()
