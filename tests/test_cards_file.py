"""The file of cards: killed writers, read-only, broken, damaged, and of other versions."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import four_cards
import pytest
from four_cards import ALL, TEA, found

from dictionaries import cards_schema
from dictionaries.cards import Card, Cards, Example
from dictionaries.cards_file import fetch
from dictionaries.errors import DictionaryError

cards = four_cards.cards  # fixture

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


def test_closing_waits_for_who_reads(cards, monkeypatch):
    """The process would die of a query whose connection is closed under it."""
    reading, go_on = threading.Event(), threading.Event()

    def slow(*query):
        reading.set()
        assert go_on.wait(20)
        return fetch(*query)

    monkeypatch.setattr("dictionaries.cards.fetch", slow)
    with ThreadPoolExecutor(2) as pool:
        card = pool.submit(cards.get, 3)
        assert reading.wait(20)
        closing = pool.submit(cards.close)
        try:
            with pytest.raises(TimeoutError):
                closing.result(0.1)
        finally:
            go_on.set()
        assert card.result(20) == TEA
        closing.result(20)
