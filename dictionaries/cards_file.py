"""The file of cards as SQLite sees it: opened, read, and mended after a writer that was cut off."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from . import cards_schema as schema
from .errors import DictionaryError


def connect(path: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    """For any thread, one at a time. Raises DictionaryError."""
    try:
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}", uri=True, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise DictionaryError(f"{path} cannot be opened: {error}.") from error


def fetch(db: sqlite3.Connection, path: Path, sql: str, parameters: Sequence[object]) -> list[Any]:
    """What a query finds, even where a writer was killed in the middle of a transaction: what it
    left half done has to be undone first, which a connection that only reads may not.

    Raises sqlite3.Error, and DictionaryError where nobody may write here either.
    """
    try:
        return db.execute(sql, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
        _roll_back(path)
    return db.execute(sql, parameters).fetchall()


def version(ask: Callable[[str], list[Any]], path: Path) -> int:
    """That of the schema. Raises DictionaryError for one that is none of ours, or newer."""
    ((found,),), ((number,),) = ask("PRAGMA application_id"), ask("PRAGMA user_version")
    if found != schema.APPLICATION_ID or not 1 <= number <= schema.VERSION:
        raise DictionaryError(
            f"{path} holds no feature cards that this version reads: its application id and "
            f"version are {found:#x}, {number}, not {schema.APPLICATION_ID:#x}, 1 to "
            f"{schema.VERSION}."
        )
    return int(number)


def _roll_back(path: Path) -> None:
    try:
        with closing(connect(path, "rw")) as db:
            db.execute("SELECT 1 FROM sqlite_master").fetchone()  # reading is what does it
    except (sqlite3.Error, DictionaryError) as error:
        raise DictionaryError(
            f"whoever wrote to {path} was cut off, and {path.name}-journal has to mend it "
            f"({error}): make both and their folder writable, then try again."
        ) from error
