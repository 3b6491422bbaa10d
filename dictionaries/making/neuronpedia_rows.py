"""The rows of a folder of Neuronpedia's export: JSON lines in batches, which need not be whole."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DictionaryError


class Row(dict[str, Any]):
    """A JSON line with its feature and where it stands."""

    feature: int
    where: str


def read_rows(folder: Path) -> Iterator[Row]:
    """Of all batches of one kind; an export need not have every kind."""
    files = sorted(folder.glob("batch-*.jsonl*"), key=lambda file: (len(file.name), file.name))
    for file in files:
        unpacked = gzip.open if file.suffix == ".gz" else open
        try:
            with unpacked(file, "rt", encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield _row(line, f"line {number} of {file}")
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise DictionaryError(f"{file} cannot be read ({error}). Download it again.") from error


def _row(line: str, where: str) -> Row:
    try:
        row = Row(json.loads(line))
        row.feature, row.where = int(row["index"]), where  # published as a string
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise DictionaryError(
            f"{where} is no JSON object with an index ({error}): it is no export of Neuronpedia's."
        ) from error
    return row


def zipped(row: Row, left: str, right: str) -> list[tuple[Any, Any]]:
    """Two lists of a row side by side; a missing one is empty."""
    return list(zip(row.get(left) or (), row.get(right) or (), strict=True))
