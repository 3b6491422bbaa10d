"""Feature cards: what is put comes back, what people type is found, hostile input is just text."""

import json
import random
import sqlite3
import subprocess
import sys
import threading
import zlib
from dataclasses import replace

import pytest

from dictionaries import cards_schema, cards_search
from dictionaries.cards import Card, Cards, Example, Histogram
from dictionaries.errors import DictionaryError

BRIDGE = Card(
    feature=12,
    label="The Golden Gate Bridge",
    slug="golden-gate-bridge",
    density=0.0013,
    maximum=41.5,
    histogram=Histogram((0.0, 1.0, 2.5), (3, 9)),
    promoted=((" bridge", 7.25), ("\nGate", 3.5), (" Söder", 1.0)),
    suppressed=((' "no', -2.0),),
    examples=(Example(("The", " Golden", " Gate"), (0.0, 3.5, 41.5)), Example((), ())),
    onset=0.4,
    breakdown=2.0,
    op="clamp",
    strength=1.2,
    output_score=0.25,
    neighbours=((3, 0.5), (70_000, -0.125)),
    labelled_by="concept",
)
TEA = Card(
    3,
    "tea and coffee",
    "tea",
    density=0.25,
    maximum=9.0,
    op="add",
    strength=0.5,
    output_score=0.75,
    examples=(Example((" tea",), (9.0,), (8.0, 9.0)), Example((" cup",), (1.0,), (0.0, 2.0))),
)
BLANK = Card(70_000, "")
CAFE = Card(4, "Café au lait, golden hour", density=0.02, promoted=((" latte", 2.0),))
ALL = [BRIDGE, TEA, BLANK, CAFE]


@pytest.fixture
def cards(tmp_path):
    with Cards.create(tmp_path / "cards.sqlite") as written:
        written.put(ALL)
        yield written


KILLED = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("PRAGMA cache_size = 1")
db.execute("UPDATE features SET label = 'half', promoted = zeroblob(200000)")
db.execute("INSERT INTO meta VALUES (1, zeroblob(200000))")
os._exit(9)
"""


class TestAWriterWasKilled:
    @pytest.fixture
    def read(self, cards):
        """Opened before it was."""
        with Cards.open(cards.path) as reading:
            assert subprocess.run([sys.executable, "-c", KILLED, cards.path]).returncode == 9
            assert cards.path.with_name("cards.sqlite-journal").exists()
            yield reading

    def test_who_reads_goes_on_with_what_was_there_before(self, read):
        assert (read.get(3), found(read, "tea")) == (TEA, [3])
        read.close()

    def test_who_comes_later_too(self, read):
        with Cards.open(read.path) as later:
            assert later.get(3) == TEA

    def test_where_nobody_may_write_it_says_how_to_go_on(self, read, monkeypatch):
        def refuse(*_):
            raise sqlite3.OperationalError("unable to open database file")

        monkeypatch.setattr("dictionaries.cards_file.connect", refuse)
        with pytest.raises(DictionaryError, match=r"cut off.*-journal .*make both .* writable"):
            read.get(3)


def found(cards, q="", **options):
    page, total = cards.search(q, **options)
    assert total == len(page)
    return [card.feature for card in page]


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


def test_an_existing_file_is_never_overwritten_but_may_be_added_to(cards):
    with pytest.raises(DictionaryError, match="exists already"):
        Cards.create(cards.path)
    with Cards.open(cards.path, writable=True) as more:
        more.put([Card(5, "five")])
        more.compact()
    assert len(cards) == len(ALL) + 1, "another connection's writes are seen"


@pytest.mark.parametrize(
    "write",
    [lambda c: c.put([Card(5, "five")]), lambda c: c.put_meta({"a": 1}), lambda c: c.compact()],
    ids=["put", "put_meta", "compact"],
)
def test_a_served_file_is_read_only(cards, write):
    with Cards.open(cards.path) as served, pytest.raises(DictionaryError, match="readonly"):
        write(served)


def test_a_file_whose_making_broke_off_stands_in_nobodys_way(tmp_path, monkeypatch):
    path = tmp_path / "cards.sqlite"
    with monkeypatch.context() as patch:
        patch.setattr(cards_schema, "SCHEMA", cards_schema.SCHEMA + "such as a full disk;")
        with pytest.raises(DictionaryError, match="no cards file can be made at"):
            Cards.create(path)
    assert not any(tmp_path.iterdir())
    path.with_name("cards.sqlite.new").write_bytes(b"of one that was killed")
    Cards.create(path).close()
    assert [file.name for file in tmp_path.iterdir()] == ["cards.sqlite"]


def test_what_is_no_cards_file_is_refused(tmp_path, cards):
    with pytest.raises(DictionaryError, match="there is no cards file"):
        Cards.open(tmp_path / "nothing.sqlite")
    (tmp_path / "text.sqlite").write_text("hello " * 500)
    with pytest.raises(DictionaryError, match="cannot be read as cards"):
        Cards.open(tmp_path / "text.sqlite")
    with sqlite3.connect(tmp_path / "other.sqlite") as db:
        db.execute("CREATE TABLE features (a)")
    db.close()
    with pytest.raises(DictionaryError, match="no feature cards that this version reads"):
        Cards.open(tmp_path / "other.sqlite")
    with pytest.raises(DictionaryError, match="no cards file can be made"):
        Cards.create(tmp_path / "no such folder" / "cards.sqlite")


def test_a_damaged_file_ends_in_a_sentence(cards):
    content = cards.path.read_bytes()
    cards.path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with Cards.open(cards.path) as damaged, pytest.raises(DictionaryError, match="cannot be read"):
        damaged.search("golden")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE features SET promoted = '[[1'",
        "UPDATE features SET promoted = '7'",
        "UPDATE features SET histogram = '[[1, 2], [3, 4]]'",
        "UPDATE features SET density = 'often'",
        "UPDATE examples SET body = x'00'",
    ],
)
def test_a_damaged_card_is_named(cards, damage):
    db = sqlite3.connect(cards.path)
    with db:
        db.execute(damage)
    db.close()
    with pytest.raises(DictionaryError, match="card of feature 12 is damaged"):
        cards.get(12)


OLD = """
PRAGMA application_id = 0x53444B43;
PRAGMA user_version = 1;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE features (
  feature INTEGER PRIMARY KEY, label TEXT NOT NULL, slug TEXT UNIQUE, density REAL, maximum REAL,
  onset REAL, breakdown REAL, op TEXT, strength REAL, histogram TEXT,
  promoted TEXT NOT NULL, suppressed TEXT NOT NULL, steerability REAL, words TEXT NOT NULL
);
CREATE TABLE examples (feature INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE INDEX by_maximum ON features (maximum);
CREATE VIRTUAL TABLE search USING fts5 (
  label, slug, words, content=features, content_rowid=feature,
  tokenize="unicode61 remove_diacritics 2", prefix="1 2 3"
);
CREATE TRIGGER features_added AFTER INSERT ON features BEGIN
  INSERT INTO search (rowid, label, slug, words)
    VALUES (new.feature, new.label, new.slug, new.words);
END;
CREATE TRIGGER features_changed AFTER UPDATE ON features BEGIN
  INSERT INTO search (search, rowid, label, slug, words)
    VALUES ('delete', old.feature, old.label, old.slug, old.words);
  INSERT INTO search (rowid, label, slug, words)
    VALUES (new.feature, new.label, new.slug, new.words);
END;
INSERT INTO features VALUES (
  7, 'fog on the bay', 'fog', 0.5, 2.0, 0.5, 1.5, 'clamp', 1.0, NULL, '[[" mist",1.0]]', '[]', 1.0,
  ' mist'
);
INSERT INTO features VALUES (9, 'sea', NULL, 0.1, 3.0, NULL, NULL, NULL, NULL, NULL, '[]', '[]',
  NULL, '');
"""
FOG = Card(
    7,
    "fog on the bay",
    "fog",
    density=0.5,
    maximum=2.0,
    promoted=((" mist", 1.0),),
    examples=(Example((" fog",), (2.0,)),),
    onset=0.5,
    breakdown=1.5,
    op="clamp",
    strength=1.0,
)


def test_a_file_of_version_1_is_read_as_it_is_and_grows_when_it_is_written(tmp_path):
    path = tmp_path / "old.sqlite"
    db = sqlite3.connect(path)
    with db:
        db.executescript(OLD)
        body = zlib.compress(json.dumps([[[" fog"], [2.0]]]).encode())
        db.execute("INSERT INTO examples VALUES (7, ?)", (body,))
    db.close()
    before = path.read_bytes()
    with Cards.open(path) as old:
        assert old.get(7) == old.by_slug("fog") == FOG
        assert found(old, "mist") == [7]
        assert found(old, sort="maximum") == [9, 7]
        assert found(old, sort="output_score") == [9, 7], "nobody has one"
        assert len(old) == 2
    assert path.read_bytes() == before
    with Cards.open(path, writable=True) as grown:
        assert grown.get(7) == FOG
        scored = replace(FOG, output_score=0.5, neighbours=((9, 0.25),))
        grown.put([scored])
        assert grown.get(7) == scored
        assert found(grown, sort="output_score") == [7, 9]
        assert found(grown, "fog") == [7]
    with Cards.open(path) as reread:
        assert reread.get(7) == scored


def test_a_file_of_a_later_version_is_refused(cards):
    with sqlite3.connect(cards.path) as db:
        db.execute("PRAGMA user_version = 3")
    db.close()
    with pytest.raises(DictionaryError, match="3, not 0x53444b43, 1 to 2"):
        Cards.open(cards.path)


@pytest.mark.parametrize("options", [{"sort": "rank"}, {"limit": -1}, {"offset": -1}])
def test_a_page_that_cannot_be_is_refused(cards, options):
    with pytest.raises(DictionaryError):
        cards.search(**options)


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


def test_the_file_is_plain_sqlite_that_any_tool_reads(cards):
    db = sqlite3.connect(cards.path)
    label, promoted = db.execute("SELECT label, promoted FROM features WHERE feature=12").fetchone()
    db.close()
    assert (label, json.loads(promoted)[0]) == (BRIDGE.label, [" bridge", 7.25])
