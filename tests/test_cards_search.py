"""Finding cards: what people type is found, hostile input is just text, pages and sorts hold."""

from __future__ import annotations

import random
import sqlite3

import four_cards
import pytest
from four_cards import ALL, found

from dictionaries import cards_search
from dictionaries.cards import Card, Cards
from dictionaries.errors import DictionaryError

cards = four_cards.cards  # fixture


@pytest.mark.parametrize(
    ("q", "wanted"),
    [
        ("golden", [12, 4]),
        ("GOLD", [12, 4]),
        ("gold br", [12]),
        ("bridge golden", [12]),
        ("golden-gate", [12]),
        ("cafe", [4]),  # accents do not matter, either way
        ("CAFÉ", [4]),
        ("soder", [12]),  # promoted tokens
        ("latte gold", [4]),
        ("tea", [3]),
        ("golden tea", []),
        ("olden", []),  # words are matched from their beginning
    ],
)
def test_every_typed_word_must_begin_a_word_of_the_card(cards, q, wanted):
    assert sorted(found(cards, q)) == sorted(wanted)


@pytest.mark.parametrize(
    "q",
    [
        '"', '"golden', "gold*", "NOT golden", "golden OR", "AND", "NEAR(golden gate, 2)", "(", ")",
        "label:golden", "^golden", "{label slug}: x", "a + b", "-golden",
        "'; DROP TABLE features;--", "\0", "gol\0den", "\ud800", "*", "日本",
        "x" * 10_000, "a " * 5_000, "%", "_",
    ],
)  # fmt: skip
def test_hostile_search_syntax_is_harmless(cards, q):
    page, total = cards.search(q)
    assert total == len(page) <= len(ALL)
    assert len(cards) == len(ALL)


@pytest.mark.parametrize(
    ("q", "wanted"),
    [
        ("golden tea", [12, 4, 3]),
        ("nothing soder", [12]),
        ("NOT tea", [3]),
        ("nothing at-all", []),
        ('" *', []),
    ],
)
def test_one_word_may_be_enough(cards, q, wanted):
    assert sorted(found(cards, q, some=True)) == sorted(wanted)
    assert sorted(found(cards, q, some=True, sort="density")) == sorted(wanted)


def test_where_one_word_is_enough_a_rare_one_outweighs_a_frequent_one(tmp_path, monkeypatch):
    monkeypatch.setattr(cards_search, "COUNTED", 20)
    with Cards.create(tmp_path / "many.sqlite") as many:
        many.put(Card(i, f"the sea {i}") for i in range(100))
        many.put([Card(200, "a lion"), Card(201, "the lion")])
        page, total = many.search("the lion tamer", some=True)
        assert ([c.feature for c in page], total) == ([200, 201], 2)
        assert many.search("the sea tamer", some=True)[1] == 20


def test_punctuation_around_words_is_ignored_and_alone_finds_nothing(cards):
    assert found(cards, '"golden" (gate)') == [12]
    assert found(cards, "!!!") == []


def test_a_label_outweighs_a_promoted_token(cards):
    cards.put([Card(50, "stone arches", promoted=((" bridge", 9.0),)), Card(51, "a bridge")])
    assert found(cards, "bridge")[-1] == 50
    assert found(cards, "bridge", descending=False)[0] == 50


@pytest.mark.parametrize(
    ("sort", "ascending", "descending"),
    [
        ("feature", [3, 4, 12, 70_000], [70_000, 12, 4, 3]),
        ("label", [70_000, 4, 3, 12], [12, 3, 4, 70_000]),
        ("density", [12, 4, 3, 70_000], [3, 4, 12, 70_000]),
        ("maximum", [3, 12, 4, 70_000], [12, 3, 70_000, 4]),  # unknown last, both ways
        ("steerability", [3, 12, 4, 70_000], [12, 3, 70_000, 4]),
        ("output_score", [12, 3, 4, 70_000], [3, 12, 70_000, 4]),
    ],
)
def test_sorts_put_unknown_values_last(cards, sort, ascending, descending):
    assert found(cards, sort=sort, descending=False) == ascending
    assert found(cards, sort=sort, descending=True) == descending
    golden = [feature for feature in descending if feature in (12, 4)]
    assert found(cards, "golden", sort=sort, descending=True) == golden


def test_the_default_directions_are_best_first(cards):
    assert found(cards, sort="label")[0] == 70_000
    assert found(cards, sort="density")[0] == 3
    assert found(cards)[0] == 12, "with nothing typed, the most steerable card leads"


@pytest.mark.parametrize("sort", ["relevance", "label", "feature", "density", "maximum"])
@pytest.mark.parametrize("q", ["", "word"])
def test_pages_partition_the_results(tmp_path, sort, q):
    rng = random.Random(0)
    with Cards.create(tmp_path / "many.sqlite") as many:
        many.put(
            Card(i, f"word {rng.randint(0, 5)}", maximum=rng.choice([None, 1.0, 2.0]))
            for i in range(53)
        )
        pages = [many.search(q, sort=sort, limit=10, offset=at) for at in range(0, 70, 10)]
        assert {total for _, total in pages} == {53}
        seen = [card.feature for page, _ in pages for card in page]
        assert sorted(seen) == list(range(53))


@pytest.mark.parametrize(
    "sort", ["label", "feature", "density", "maximum", "steerability", "output_score"]
)
@pytest.mark.parametrize("direction", ["ASC", "DESC"])
def test_no_sort_of_the_whole_file_needs_more_than_an_index(cards, sort, direction):
    from dictionaries.cards_schema import page

    with sqlite3.connect(cards.path) as db:
        asked = f"EXPLAIN QUERY PLAN {page(sort, direction == 'DESC')}"
        plan = [row[3] for row in db.execute(asked, (20, 0))]
    db.close()
    assert len(plan) == 1, plan
    assert "TEMP B-TREE" not in plan[0]


def test_of_many_matches_a_bounded_number_is_ranked_sorted_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(cards_search, "COUNTED", 20)
    with Cards.create(tmp_path / "many.sqlite") as many:
        many.put(Card(i, f"nothing {i}", promoted=((" sea", 1.0),)) for i in range(100))
        many.put(Card(i, f"by the sea {i}", density=i / 1000) for i in range(100, 110))
        many.put([Card(200, "Sea lions", density=0.5), Card(201, "sea", density=0.9)])
        page, total = many.search("sea", limit=14)
        assert total == 20, "so many or more"
        assert [c.feature for c in page] == [201, 200, *range(100, 110), 0, 1]
        page, _ = many.search("sea", limit=50, offset=10)
        assert [c.feature for c in page] == [108, 109, *range(8)], "and no more"
        page, total = many.search("sea", sort="density", limit=3)
        assert [c.feature for c in page] == [201, 200, 109]
        assert many.search("sea", descending=False, limit=1)[0][0].feature == 7
        page, total = many.search("sea lion")
        assert ([c.feature for c in page], total) == ([200], 1)
        page, total = many.search("lion sea", sort="density")
        assert ([c.feature for c in page], total) == ([200], 1)
        assert many.search("109") == ([many.get(109)], 1), "a rare word is ranked as ever"


def test_labels_lead_however_much_of_a_frequent_word_is_typed(tmp_path, monkeypatch):
    monkeypatch.setattr(cards_search, "COUNTED", 20)
    tokens = ((" golden", 2.0), (" hour", 1.0))
    with Cards.create(tmp_path / "many.sqlite") as many:
        many.put(Card(i, f"nothing {i}", promoted=tokens[: 1 + (i < 3)]) for i in range(100))
        many.put([Card(200, "at the golden hour"), Card(201, "Golden hour")])
        many.put([Card(202, "hours"), Card(203, "a gold hour")])

        def found(q, **options):
            page, total = many.search(q, **options)
            return [card.feature for card in page], total

        assert found("gold", limit=5) == ([201, 203, 200, 0, 1], 20), (
            "whole words before begun ones"
        )
        assert found("golden", limit=3) == ([201, 200, 0], 20)
        assert found("golden hour") == ([201, 200, 0, 1, 2], 5)
        assert found("hour golden") == ([200, 201, 0, 1, 2], 5)
        assert found("golden hour", descending=False, limit=2) == ([2, 1], 5)
        assert found("gold hour", sort="label", limit=2) == ([203, 200], 6)


@pytest.mark.parametrize("options", [{"sort": "rank"}, {"limit": -1}, {"offset": -1}])
def test_a_page_that_cannot_be_is_refused(cards, options):
    with pytest.raises(DictionaryError):
        cards.search(**options)
