"""The cards file's tables, and how a card becomes a row and comes back.

`features` holds one small row a feature; `examples` lies apart, so that searching never touches
it (zlib-packed JSON); `search` is the FTS5 index over label, slug and promoted tokens, kept in
step by triggers. Every sort has an index, and SQLite indices hold the row id, so a page of a file
of millions is read by walking an index and never by sorting the table.

Version 2 added output scores, neighbours and who wrote the label. A file of version 1 is read
through a view that has the new columns empty, and becomes version 2 when it is written to.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from .card import Card, Example, Histogram
from .errors import DictionaryError

APPLICATION_ID = 0x53444B43  # "SDKC", so that a stranger's database is recognised as such
VERSION = 2

SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE features (
  feature INTEGER PRIMARY KEY, label TEXT NOT NULL, slug TEXT UNIQUE, density REAL, maximum REAL,
  onset REAL, breakdown REAL, op TEXT, strength REAL, histogram TEXT,
  promoted TEXT NOT NULL, suppressed TEXT NOT NULL,
  steerability REAL,   -- breakdown - onset; 0 with a recommended strength only
  words TEXT NOT NULL,  -- the promoted tokens, for the index
  output_score REAL, neighbours TEXT, labelled_by TEXT
);
CREATE TABLE examples (feature INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE INDEX by_label ON features (label COLLATE NOCASE);
CREATE INDEX by_density ON features (density);
CREATE INDEX by_maximum ON features (maximum);
CREATE INDEX by_steerability ON features (steerability);
CREATE INDEX by_output_score ON features (output_score);
CREATE VIRTUAL TABLE search USING fts5 (
  label, slug, words, content=features, content_rowid=feature,
  tokenize="unicode61 remove_diacritics 2", prefix="1 2 3"
);
INSERT INTO search (search, rank) VALUES ('rank', 'bm25(10, 10, 1)');  -- a label outweighs tokens
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
"""

AS_VERSION_2 = """
CREATE TEMP VIEW features AS SELECT *, NULL AS output_score, NULL AS neighbours,
  NULL AS labelled_by FROM main.features;
"""
TO_VERSION_2 = """
BEGIN;
ALTER TABLE features ADD COLUMN output_score REAL;
ALTER TABLE features ADD COLUMN neighbours TEXT;
ALTER TABLE features ADD COLUMN labelled_by TEXT;
CREATE INDEX by_output_score ON features (output_score);
PRAGMA user_version = 2;
COMMIT;
"""

SUMMARY = (
    "feature, label, slug, density, maximum, onset, breakdown, op, strength, output_score, "
    "labelled_by, histogram, promoted, suppressed, neighbours"
)
_COLUMNS = f"{SUMMARY}, steerability, words".split(", ")

PUT = f"""
INSERT INTO features ({", ".join(_COLUMNS)}) VALUES ({", ".join("?" for _ in _COLUMNS)})
ON CONFLICT (feature) DO UPDATE SET {", ".join(f"{c} = excluded.{c}" for c in _COLUMNS[1:])}
"""


def page(sort: str, descending: bool) -> str:
    """The ids of one page of all cards, which an index has in order; parameters: limit, offset."""
    return f"SELECT feature FROM features ORDER BY {order(sort, descending)} LIMIT ? OFFSET ?"


def order(sort: str, descending: bool) -> str:
    """The ORDER BY terms. Ties go by id in the same direction, which is the index's own order."""
    direction = "DESC" if descending else "ASC"
    if sort == "relevance":  # bm25 is the smaller, the more relevant
        return "rank" if descending else "rank DESC"
    if sort == "feature":
        return f"feature {direction}"
    column = "label COLLATE NOCASE" if sort == "label" else sort
    return f"{column} {direction} NULLS LAST, feature {direction}"


def to_row(card: Card) -> list[object]:
    """The values of one `PUT`."""
    h = card.histogram
    return [
        card.feature,
        utf8(card.label),
        card.slug,
        card.density,
        card.maximum,
        card.onset,
        card.breakdown,
        card.op,
        card.strength,
        card.output_score,
        card.labelled_by and utf8(card.labelled_by),
        _json([h.edges, h.counts]) if h else None,
        _json(card.promoted),
        _json(card.suppressed),
        _json(card.neighbours) if card.neighbours else None,
        card.steerability,
        utf8(" ".join(token for token, _ in card.promoted)),
    ]


def from_row(row: tuple[Any, ...], examples: bytes | None = None) -> Card:
    """A card from a row of SUMMARY and, if wanted, its packed examples."""
    *plain, output_score, labelled_by, histogram, promoted, suppressed, neighbours = row
    feature, label, slug, density, maximum, onset, breakdown, op, strength = plain
    try:
        return Card(
            feature,
            label,
            slug,
            density,
            maximum,
            Histogram(*map(tuple, json.loads(histogram))) if histogram else None,
            tuple(map(tuple, json.loads(promoted))),
            tuple(map(tuple, json.loads(suppressed))),
            unpack(examples) if examples else (),
            onset,
            breakdown,
            op,
            strength,
            output_score,
            tuple(map(tuple, json.loads(neighbours))) if neighbours else (),
            labelled_by,
        )
    except (ValueError, TypeError, zlib.error) as error:
        raise DictionaryError(f"the card of feature {feature} is damaged: {error}") from error


def pack(examples: tuple[Example, ...]) -> bytes:
    plain = [[e.tokens, e.activations, *([e.interval] if e.interval else ())] for e in examples]
    return zlib.compress(_json(plain).encode(), 9)


def unpack(body: bytes) -> tuple[Example, ...]:
    parts = json.loads(zlib.decompress(body))  # [tokens, activations] or with an interval
    return tuple(Example(*map(tuple, part)) for part in parts)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def utf8(text: str) -> str:
    """Lone surrogates cannot be stored, so they cannot be found either."""
    return text.encode("utf-8", "replace").decode()
