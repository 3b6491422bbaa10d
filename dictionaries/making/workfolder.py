"""The folder `OUT.making`, where a run keeps its unfinished work; it goes when `OUT` is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cards import Cards
from ..errors import DictionaryError


class WorkFolder:
    """settings: JSON that two runs must share for one to go on with the other's work."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out = out
        self.path = out.with_name(out.name + ".making")
        self._settings = json.loads(json.dumps(dict(settings)))  # as they come back from a file

    def finished(self) -> bool:
        """Whether `out` is what this run would make. Raises DictionaryError if it is another's."""
        if not self.out.exists():
            return False
        with Cards.open(self.out) as cards:
            meta = cards.meta
        if any(meta.get(key) != value for key, value in self._settings.items()):
            raise DictionaryError(
                f"{self.out} exists already and was made from other text or settings: move it "
                "away, or write to another file."
            )
        self.remove()
        return True

    def begin(self) -> None:
        """Make the folder, or go on in it. Raises DictionaryError if it is another run's."""
        stated = self.path / "settings.json"
        try:
            if stated.is_file():
                found = json.loads(stated.read_text(encoding="utf-8"))
                if found != self._settings:
                    self._refuse(found)
                return
            self.path.mkdir(parents=True, exist_ok=True)
            new = self.path / "settings.new"
            new.write_text(json.dumps(self._settings, indent=1), encoding="utf-8")
            new.rename(stated)
        except (OSError, ValueError) as error:
            raise DictionaryError(f"{self.path} cannot be worked in: {error}.") from error

    def _refuse(self, found: Mapping[str, Any]) -> None:
        differ = sorted(
            k for k in {*found, *self._settings} if found.get(k) != self._settings.get(k)
        )
        raise DictionaryError(
            f"{self.path} holds a run that was begun with other settings ({', '.join(differ)}): "
            "give the same ones to go on with it, or remove that folder."
        )

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
