"""Feature cards: what is put comes back, and what no feature can have is refused."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import suppress
from dataclasses import replace

import four_cards
import pytest
from four_cards import ALL, BRIDGE, found

from dictionaries.cards import Card, Cards, Example, Histogram
from dictionaries.errors import DictionaryError

cards = four_cards.cards  # fixture


@pytest.mark.parametrize("card", ALL, ids=lambda card: str(card.feature))
def test_a_card_comes_back_whole_from_a_reopened_file(cards, card):
    with Cards.open(cards.path) as reread:
        assert reread.get(card.feature) == card
        assert reread.get(card.feature + 100) is None
        assert len(reread) == len(ALL)


def test_a_card_is_found_by_its_exact_slug_only(cards):
    assert cards.by_slug("golden-gate-bridge") == BRIDGE
    assert cards.by_slug("golden-gate") is None
    assert cards.by_slug("\ud800") is None
    assert cards.get(10**30) is None
    assert cards.get(-1) is None


def test_a_card_without_its_examples_is_the_same_otherwise(cards):
    short = replace(BRIDGE, examples=())
    assert cards.get(12, examples=False) == short != BRIDGE
    assert cards.by_slug("golden-gate-bridge", examples=False) == short
    assert cards.get(999, examples=False) is None


def test_a_remembered_card_is_forgotten_when_anyone_changes_the_file(cards):
    assert cards.get(12, examples=False).label == BRIDGE.label
    with Cards.open(cards.path, writable=True) as other:
        other.put([replace(BRIDGE, label="A bridge elsewhere"), Card(999, "New")])
        assert cards.get(12, examples=False).label == "A bridge elsewhere"
        other.put([replace(BRIDGE, label="Another")])
        assert other.get(12, examples=False).label == "Another"
    assert cards.get(999, examples=False) == Card(999, "New")


def test_search_pages_carry_no_examples_but_the_rest(cards):
    card = cards.search("bridge")[0][0]
    assert card.examples == ()
    assert (card.promoted, card.histogram) == (BRIDGE.promoted, BRIDGE.histogram)


def test_putting_a_card_again_replaces_it_and_its_words(cards):
    cards.put([Card(12, "harbour", "harbour")])
    assert cards.get(12) == Card(12, "harbour", "harbour")
    assert found(cards, "bridge") == []
    assert found(cards, "harb") == [12]
    assert len(cards) == len(ALL)
    cards.put([BRIDGE, Card(99, "new")])
    assert cards.get(12) == BRIDGE
    assert len(cards) == len(ALL) + 1


def test_a_slug_names_one_feature_and_a_refused_batch_writes_nothing(cards):
    with pytest.raises(DictionaryError, match=r"'tea' of feature 8 names another feature"):
        cards.put([Card(7, "fine"), Card(8, "second tea", "tea")])
    assert cards.get(7) is None
    with pytest.raises(DictionaryError, match="density 7"):
        cards.put(Card(i, "x", density=i) for i in (0, 7))
    assert cards.get(0) is None
    assert len(cards) == len(ALL)


@pytest.mark.parametrize(
    "wrong",
    [
        {"feature": -1},
        {"slug": "Golden Gate"},
        {"slug": "12"},
        {"slug": "a/b"},
        {"slug": ""},
        {"density": 1.5},
        {"density": float("nan")},
        {"output_score": 1.01},
        {"neighbours": ((3, float("nan")),)},
        {"examples": (Example(("a",), (1.0,), (0.0, float("inf"))),)},
        {"maximum": float("inf")},
        {"op": "explode"},
        {"histogram": Histogram((0.0,), (1,))},
        {"examples": (Example(("a",), ()),)},
        {"examples": (Example(("a",), (float("nan"),)),)},
        {"promoted": ((" a", float("inf")),)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_card_that_no_feature_can_have_is_refused(wrong):
    with pytest.raises(DictionaryError):
        Card(**{"feature": 1, "label": "x", **wrong})


def test_meta_is_kept_and_added_to(cards):
    cards.put_meta({"maker": "recipe 1", "corpus_tokens": 7})
    cards.put_meta({"corpus_tokens": 8})
    with Cards.open(cards.path) as reread:
        assert reread.meta == {"maker": "recipe 1", "corpus_tokens": 8}


def test_reads_from_many_threads_agree(cards):
    wrong = []

    def read():
        for _ in range(40):
            if cards.get(12) != BRIDGE or cards.search("gold")[1] != 2:
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_who_reads_while_the_file_is_closed_is_refused_and_no_more(cards):
    db = cards._db

    class Closed:
        """By another thread, between two looks at the connection."""

        def __getattr__(self, name):
            if name == "total_changes":
                closing = threading.Thread(target=cards.close)
                closing.start()
                closing.join(0.1)
            return getattr(db, name)

    cards._db = Closed()
    with suppress(DictionaryError):  # the reader may come first
        cards.get(12, examples=False)
    cards.close()
    with pytest.raises(DictionaryError, match="closed"):
        len(cards)


def test_the_file_is_plain_sqlite_that_any_tool_reads(cards):
    db = sqlite3.connect(cards.path)
    label, promoted = db.execute("SELECT label, promoted FROM features WHERE feature=12").fetchone()
    db.close()
    assert (label, json.loads(promoted)[0]) == (BRIDGE.label, [" bridge", 7.25])
