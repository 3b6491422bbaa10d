"""Feature cards in one SQLite file, with full-text search over what people type.

`cards_schema.py` says what the file looks like; any SQLite tool can read it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self, get_args

from . import cards_schema as schema
from .card import Card, Example, Histogram
from .cards_file import connect, fetch, version
from .cards_schema import utf8
from .cards_search import COUNTED, find
from .errors import Closed, DictionaryError

__all__ = ["COUNTED", "Card", "Cards", "Example", "Histogram", "Sort"]

Sort = Literal[
    "relevance", "label", "feature", "density", "maximum", "steerability", "output_score"
]

_REMEMBERED = 4096  # cards without their examples: whoever steers asks for the same ones again


class Cards:
    """An opened cards file. Reading is thread-safe; a file opened for writing has one writer.

    One that cannot be read any more (damaged, removed) raises DictionaryError, a closed one Closed.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._lock = threading.Lock()
        self._closed = False
        self._counted: tuple[int, int] | None = None
        self._known: dict[tuple[int, int], Card | None] = {}  # by (state of the file, feature)

    @classmethod
    def open(cls, path: Path | str, *, writable: bool = False) -> Self:
        """Open an existing file: read-only, so that it may lie on a read-only disk, or to `put`."""
        path = Path(path)
        if not path.is_file():
            raise DictionaryError(f"there is no cards file at {path}.")
        cards = cls(path, connect(path, "rw" if writable else "ro"))
        try:
            if version(cards._all, path) == 1:
                cards._db.executescript(schema.TO_VERSION_2 if writable else schema.AS_VERSION_2)
        except sqlite3.Error as error:
            cards.close()
            raise DictionaryError(f"{path} cannot be read as cards: {error}.") from error
        except DictionaryError:
            cards.close()
            raise
        return cards

    @classmethod
    def create(cls, path: Path | str) -> Self:
        """Make a new, empty file. An existing one is never overwritten."""
        path = Path(path)
        if path.exists():
            raise DictionaryError(
                f"{path} exists already: open it with writable=True to add cards, or move it away."
            )
        new = path.with_name(f"{path.name}.new")  # killed, it leaves none that cannot be opened
        try:
            new.write_bytes(b"")
            with closing(sqlite3.connect(new)) as db:
                db.executescript(schema.SCHEMA)
            new.rename(path)
        except (OSError, sqlite3.Error) as error:
            with suppress(OSError):
                new.unlink()
            raise DictionaryError(f"no cards file can be made at {path}: {error}.") from error
        return cls(path, connect(path, "rw"))

    @classmethod
    def in_memory(cls, path: Path, cards: Iterable[Card]) -> Self:
        """Of what `path` says by itself: nothing is written to disk."""
        made = cls(path, sqlite3.connect(":memory:", check_same_thread=False))
        with made._writing():
            made._db.executescript(schema.SCHEMA)
        made.put(cards)
        return made

    def put(self, cards: Iterable[Card]) -> None:
        """Add cards, or replace those of the same features: all of them, or on an error none."""
        with self._writing():
            for card in cards:
                self._put(card)

    def _put(self, card: Card) -> None:
        try:
            self._db.execute(schema.PUT, schema.to_row(card))
        except sqlite3.IntegrityError:
            raise DictionaryError(
                f"the slug {card.slug!r} of feature {card.feature} names another feature already; "
                "slugs are unique. No card of this batch was written."
            ) from None
        if card.examples:
            row = (card.feature, schema.pack(card.examples))
            self._db.execute("INSERT OR REPLACE INTO examples VALUES (?, ?)", row)
        else:
            self._db.execute("DELETE FROM examples WHERE feature = ?", (card.feature,))

    def get(self, feature: int, *, examples: bool = True) -> Card | None:
        """The card, whole or without its examples; None for a feature without one."""
        if not 0 <= feature < 2**62:
            return None
        if not examples:
            return self._summary(feature)
        rows = self._all(
            f"SELECT {schema.SUMMARY}, body FROM features LEFT JOIN examples USING (feature) "
            "WHERE feature = ?",
            feature,
        )
        return schema.from_row(rows[0][:-1], rows[0][-1]) if rows else None

    def _summary(self, feature: int) -> Card | None:
        key = self._state(), feature
        with suppress(KeyError):  # another thread may clear them at any time
            return self._known[key]
        rows = self._all(f"SELECT {schema.SUMMARY} FROM features WHERE feature = ?", feature)
        card = schema.from_row(rows[0]) if rows else None
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key] = card
        return card

    def _state(self) -> int:
        """Another number whenever the file has changed, whoever changed it."""
        with self._reading():
            told = fetch(self._db, self.path, "PRAGMA data_version", ())
            return int(told[0][0]) + self._db.total_changes

    def by_slug(self, slug: str, *, examples: bool = True) -> Card | None:
        """The card of the feature with exactly this name."""
        rows = self._all("SELECT feature FROM features WHERE slug = ?", utf8(slug))
        return self.get(rows[0][0], examples=examples) if rows else None

    def search(
        self,
        q: str = "",
        *,
        sort: Sort = "relevance",
        descending: bool | None = None,
        limit: int = 20,
        offset: int = 0,
        some: bool = False,
    ) -> tuple[list[Card], int]:
        """(one page, how many match in all). The cards come without their examples.

        q: every word (some: at least one) must begin a word of the label, the slug or the promoted
        tokens; letter case and accents do not matter, and FTS operators are just words. With
        nothing typed everything matches and relevance means steerability. Cards without the sorted
        value come last.
        descending None: best first (label and feature: ascending). A query with COUNTED matches
        or more is told as COUNTED, and only so many are ranked and sorted: see `cards_search`.
        """
        if sort not in get_args(Sort):
            raise DictionaryError(f"sort {sort!r} is not one of {', '.join(get_args(Sort))}.")
        if not (0 <= limit < 2**31 and 0 <= offset < 2**31):
            raise DictionaryError(f"limit {limit} and offset {offset} must lie in 0 .. 2**31 - 1.")
        if not q.strip() and sort == "relevance":
            sort = "steerability"
        if descending is None:
            descending = sort not in ("label", "feature")
        if q.strip():
            page, total = find(self._all, q, sort, descending, limit, offset, some=some)
        else:
            found = self._all(schema.page(sort, descending), limit, offset)
            page, total = [feature for (feature,) in found], len(self)
        rows = self._all(  # only the page's own rows are read whole
            f"SELECT {schema.SUMMARY} FROM json_each(?) AS id CROSS JOIN features "
            "ON feature = id.value ORDER BY id.key",
            json.dumps(page),
        )
        return [schema.from_row(row) for row in rows], total

    def __len__(self) -> int:
        """Counted once, and again only when the file has changed."""
        state = self._state()
        if self._counted is None or self._counted[0] != state:
            self._counted = state, self._all("SELECT count(*) FROM features")[0][0]
        return self._counted[1]

    @property
    def meta(self) -> dict[str, Any]:
        """How the cards came to be (maker, model, corpus tokens ...): JSON values."""
        return {key: json.loads(value) for key, value in self._all("SELECT * FROM meta")}

    def put_meta(self, facts: Mapping[str, Any]) -> None:
        """Add or replace facts; the others stay."""
        rows = [(key, json.dumps(value, allow_nan=False)) for key, value in facts.items()]
        with self._writing():
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def compact(self) -> None:
        """Merge the index and give free pages back: once, when a file is done."""
        with self._writing():
            self._db.execute("INSERT INTO search (search) VALUES ('optimize')")
            self._db.commit()  # SQLite refuses VACUUM within a transaction
            self._db.execute("VACUUM")

    def close(self) -> None:
        """Waits for who reads: where a query loses its connection, SQLite ends the process."""
        with self._lock:
            self._closed = True
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction."""
        with self._lock:
            try:
                with self._db:
                    yield
            except sqlite3.Error as error:
                raise DictionaryError(
                    f"nothing was written to {self.path} ({error}): it must be writable, its disk "
                    "have room, and no other process write to it."
                ) from error

    def _all(self, sql: str, *parameters: object) -> list[Any]:
        with self._reading():
            return fetch(self._db, self.path, sql, parameters)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """For all that asks the connection: another thread may have closed it."""
        with self._lock:
            if self._closed:
                raise Closed(f"{self.path} was closed: open it again.")
            try:
                yield
            except sqlite3.Error as error:
                raise DictionaryError(f"{self.path} cannot be read as cards: {error}.") from error
