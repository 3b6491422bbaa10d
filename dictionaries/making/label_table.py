"""A table of labels, a row a feature -> feature cards.

Goodfire publishes those of its DeepSeek-R1 SAEs so: `autointerp.csv`, columns `feature_id` and
`label`, at <https://goodfire-r1-features.s3.us-east-1.amazonaws.com/> under `math/` and `logic/`.
A table does not say whose it is; only a feature that the dictionary does not have tells.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..card import Card
from ..cards import Cards
from ..dictionary import Dictionary
from ..errors import DictionaryError
from .imported import BATCH, BY_TOKENS, cards_file, in_range

_FEATURE, _LABEL = "feature_id", "label"


def recognise(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and path.is_file()


def import_table(source: Path, dictionary: Dictionary, path: Path) -> int:
    """Fill the cards file at `path` and say how many features the table has a label for.

    A label that was written here stays, one that was made of tokens is replaced; of several for
    one feature the first counts. Memory does not grow with the table. Raises DictionaryError for
    what is no such table, naming the line, and for another dictionary's as far as it shows; the
    cards are then as they were.
    """
    seen = bytearray(dictionary.info.d_sae)
    rows = _rows(source, dictionary)
    with cards_file(path, dictionary) as cards:
        while batch := list(itertools.islice(rows, BATCH)):
            _put(batch, cards, seen, source.stem)
        cards.put_meta({"labels": {"from": source.name}})
        cards.compact()
    return sum(seen)


def _put(rows: list[tuple[int, str]], cards: Cards, seen: bytearray, by: str) -> None:
    new: dict[int, Card] = {}
    for feature, label in rows:
        if seen[feature]:
            continue
        seen[feature] = 1
        own = cards.get(feature)
        if own is None or not own.label or own.labelled_by == BY_TOKENS:
            new[feature] = replace(own or Card(feature, ""), label=label, labelled_by=by)
    cards.put(new.values())


def _rows(source: Path, dictionary: Dictionary) -> Iterator[tuple[int, str]]:
    """(feature, label) of every row that has a label."""
    with source.open(encoding="utf-8-sig", newline="") as lines:
        table = csv.DictReader(lines)
        try:
            if not {_FEATURE, _LABEL} <= set(table.fieldnames or ()):
                raise DictionaryError(
                    f"{source} has the columns {', '.join(table.fieldnames or ()) or 'none'}; a "
                    f"table of labels has {_FEATURE} and {_LABEL}."
                )
            for row in table:
                label = " ".join((row[_LABEL] or "").split())
                if not (row[_FEATURE] or "").strip().isdecimal():
                    raise ValueError(f"{_FEATURE} is {row[_FEATURE]!r}, not a whole number")
                if label:
                    yield in_range(int(row[_FEATURE]), dictionary), label
        except (csv.Error, ValueError) as error:
            if isinstance(error, DictionaryError):
                raise
            raise DictionaryError(
                f"{source}, line {table.line_num}, is no row of a table of labels: {error}."
            ) from error
