"""Which cards match what was typed, and in which order: in a time that files of millions bear.

FTS5 walks through matches one by one, and bm25 walks through all matches of every word. Both are
done to the end only while they are few. Of more than COUNTED matches, those come first whose label
begins with what was typed, then those that have it in their label, then the others as they come;
the rest is neither ranked, sorted nor counted: whoever looks for one of them types another word.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from . import cards_schema as schema

COUNTED = 5000  # matches of a query that are looked at
_MOST_WORDS = 16  # of a query; more would narrow nothing and cost time

Ask = Callable[..., list[Any]]  # (SQL, *parameters) -> rows


def find(
    ask: Ask, q: str, sort: str, descending: bool, limit: int, offset: int
) -> tuple[list[int], int]:
    """(the features of one page, how many match: COUNTED means so many or more).

    sort: a column of `features`, "label" or "relevance". q holds more than white space.
    """
    # Quoted phrases, each a prefix: operators are just words, and the index's own tokenizer splits
    # them, so that "golden-gate" finds what it would index.
    words = [f'"{word}" *' for word in utf8(q).replace("\0", " ").replace('"', " ").split()]
    every = " ".join(words[:_MOST_WORDS]) or '""'  # an empty phrase matches nothing
    matches = _matches(ask, every)
    all_seen = len(matches) < COUNTED
    if sort == "relevance":
        alone = words[:_MOST_WORDS] if len(words) > 1 else []
        if all_seen and all(len(_matches(ask, word)) < COUNTED for word in alone):
            rank = schema.order("relevance", descending)
            page = f"SELECT rowid FROM search(?) ORDER BY {rank} LIMIT ? OFFSET ?"
            return _ids(ask(page, every, limit, offset)), len(matches)
        found = _labels_first(ask, q, every, matches, all_seen)
        return (found if descending else found[::-1])[offset : offset + limit], len(found)
    if not all_seen:
        matches = _labels_first(ask, q, every, matches, all_seen)
    page = (  # CROSS JOIN: from the matches to their cards, never through an index of all cards
        "SELECT feature FROM json_each(?) AS id CROSS JOIN features ON feature = id.value "
        f"ORDER BY {schema.order(sort, descending)} LIMIT ? OFFSET ?"
    )
    return _ids(ask(page, json.dumps(matches), limit, offset)), len(matches)


def _labels_first(ask: Ask, q: str, every: str, matches: list[int], all_seen: bool) -> list[int]:
    """No more than COUNTED matches, the best places of the typed words first."""
    typed = utf8(q).strip()
    begin = ask(
        "SELECT feature FROM features WHERE label COLLATE NOCASE >= ? "
        f"AND label COLLATE NOCASE < ? ORDER BY label COLLATE NOCASE LIMIT {COUNTED}",
        typed,
        typed + "\U0010ffff",
    )
    inside = _matches(ask, f"{{label slug}} : ({every})")
    found = list(dict.fromkeys([*_ids(begin), *inside, *matches]))
    if all_seen:
        known = set(matches)
        return [feature for feature in found if feature in known]
    return found[:COUNTED]


def _matches(ask: Ask, expression: str) -> list[int]:
    """The first of an FTS5 expression's matches, by id."""
    return _ids(ask(f"SELECT rowid FROM search(?) LIMIT {COUNTED}", expression))


def _ids(rows: list[Any]) -> list[int]:
    return [feature for (feature,) in rows]


def utf8(text: str) -> str:
    """Lone surrogates cannot be stored, so they cannot be found either."""
    return text.encode("utf-8", "replace").decode()
