"""Which cards match what was typed, and in which order: in a time that files of millions bear.

FTS5 walks through matches one by one, merges all that a long prefix begins before it gives the
first, and bm25 looks at all matches of every word. Each is done only while they are few. Of COUNTED
matches or more, of the query or of one of its words, those come first whose label begins with what
was typed, then those that have it in their label, then others as they come; beyond COUNTED nothing
is ranked, sorted or counted: whoever looks for one of them types another word.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from . import cards_schema as schema

COUNTED = 1000  # matches of a query that are looked at
_MOST_WORDS = 16  # of a query; more would narrow nothing and cost time

Ask = Callable[..., list[Any]]  # (SQL, *parameters) -> rows


def find(
    ask: Ask, q: str, sort: str, descending: bool, limit: int, offset: int, *, some: bool = False
) -> tuple[list[int], int]:
    """(the features of one page, how many match: COUNTED means so many or more).

    sort: a column of `features`, "label" or "relevance". q holds more than white space. some: one
    of its words is enough; frequent ones count only where there is no other.
    """
    # Quoted phrases, each a prefix: operators are just words, and the index's own tokenizer splits
    # them, so that "golden-gate" finds what it would index. An empty phrase matches nothing.
    quoted = schema.utf8(q).replace("\0", " ").replace('"', " ").split()[:_MOST_WORDS]
    words = [f'"{word}"' for word in quoted]
    if some:
        words = [word for word in words if 0 < _begun(ask, word) < COUNTED] or words
    joint = " OR " if some else " "
    whole, begun = joint.join(words) or '""', joint.join(f"{word} *" for word in words) or '""'
    begin = _beginning(ask, q)
    found = _frequent(ask, begin, whole, begun)
    if len(found) < COUNTED and sort == "relevance":
        if _rare(ask, words):
            rank = schema.order(sort, descending)
            page = f"SELECT rowid FROM search(?) ORDER BY {rank} LIMIT ? OFFSET ?"
            return _ids(ask(page, begun, limit, offset)), len(found)
        all_ = set(found)  # a label may begin with what is no word to the index, such as "("
        begin = [feature for feature in begin if feature in all_]
        found = _first(begin, _matches(ask, _in_label(begun)), found)
    if sort == "relevance":
        return (found if descending else found[::-1])[offset : offset + limit], len(found)
    page = (  # CROSS JOIN: from the matches to their cards, never through an index of all cards
        "SELECT feature FROM json_each(?) AS id CROSS JOIN features ON feature = id.value "
        f"ORDER BY {schema.order(sort, descending)} LIMIT ? OFFSET ?"
    )
    return _ids(ask(page, json.dumps(found), limit, offset)), len(found)


def _beginning(ask: Ask, q: str) -> list[int]:
    """Cards whose label begins with what was typed."""
    typed = schema.utf8(q).strip()
    return _ids(
        ask(
            "SELECT feature FROM features WHERE label COLLATE NOCASE >= ? "
            f"AND label COLLATE NOCASE < ? ORDER BY label COLLATE NOCASE LIMIT {COUNTED}",
            typed,
            typed + "\U0010ffff",
        )
    )


def _frequent(ask: Ask, begin: list[int], whole: str, begun: str) -> list[int]:
    """COUNTED matches by what is cheapest to find, best places first; if there are fewer, all."""
    if len(begin) == COUNTED:
        return begin
    exact = _matches(ask, whole)
    if len(exact) == COUNTED:
        return _first(begin, _matches(ask, _in_label(whole)), exact)
    matches = _matches(ask, begun)
    if len(matches) < COUNTED:
        return matches
    return _first(begin, *(_matches(ask, _in_label(q)) for q in (whole, begun)), matches)


def _in_label(expression: str) -> str:
    return f"{{label slug}} : ({expression})"


def _rare(ask: Ask, words: list[str]) -> bool:
    """Whether bm25 may look at all matches of each word."""
    return len(words) == 1 or all(_begun(ask, word) < COUNTED for word in words)


def _begun(ask: Ask, word: str) -> int:
    return len(_matches(ask, f"{word} *"))


def _first(*lists: list[int]) -> list[int]:
    """COUNTED of them at most, each once, in order."""
    return list(dict.fromkeys(id for ids in lists for id in ids))[:COUNTED]


def _matches(ask: Ask, expression: str) -> list[int]:
    """The first of an FTS5 expression's matches, by id."""
    return _ids(ask(f"SELECT rowid FROM search(?) LIMIT {COUNTED}", expression))


def _ids(rows: list[Any]) -> list[int]:
    return [feature for (feature,) in rows]
