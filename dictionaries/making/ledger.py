"""Measurements on disk as they come: JSON lines, so that a stopped run loses at most one.

The first line holds the settings; every other line a record with its `key`, the last one counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DictionaryError


class Ledger:
    """Opens the file, or begins it.

    settings: JSON that two runs must share for one to go on with the other's records.
    Raises DictionaryError for a file of other settings, or one that is no ledger.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        settings = json.loads(json.dumps(settings))  # as they come back from a file
        self.settings = settings
        try:
            whole = path.read_bytes() if path.exists() else b""
            kept = whole[: whole.rfind(b"\n") + 1]  # a line cut short was being written
            if len(kept) < len(whole):
                path.write_bytes(kept)
            if kept:
                self._read(kept.decode("utf-8"), settings)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._append({"settings": settings})
        except DictionaryError:  # other settings; it is a ValueError, too
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DictionaryError(f"{path} cannot be gone on with: {error}.") from error

    def _read(self, text: str, settings: Mapping[str, Any]) -> None:
        # Not splitlines: it also splits at U+2028 and its like, which replies may hold.
        first, *rest = map(json.loads, text.removesuffix("\n").split("\n"))
        found = first["settings"]
        if found != settings:
            differ = [k for k in sorted({*found, *settings}) if found.get(k) != settings.get(k)]
            raise DictionaryError(
                f"{self.path} was measured with other settings ({', '.join(differ)}): give the "
                "same ones to go on with it, or move it away to measure anew."
            )
        self.records = {record["key"]: record for record in rest}

    def add(self, record: Mapping[str, Any]) -> None:
        """Write a record with its `key`, which replaces an earlier one of the same key.

        Numbers are kept to six digits that count.
        """
        kept = short(record)
        self._append(kept)
        self.records[kept["key"]] = json.loads(json.dumps(kept))

    def _append(self, value: Mapping[str, Any]) -> None:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)


def short(value: Any) -> Any:
    """The value as a ledger gives it back, to compare another with."""
    match value:
        case float():
            return float(f"{value:.6g}")
        case Mapping():
            return {key: short(v) for key, v in value.items()}
        case list() | tuple():
            return [short(v) for v in value]
    return value
