"""Named sets of edits: those that come with a dictionary, and those users save.

Users' presets lie in one file (`presets_file.py`). They belong to the model they were saved for: a
feature's number means something else in another dictionary.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .errors import BadRequest, NotFound
from .presets_file import PresetsFile
from .schemas.steering import PresetBody

log = logging.getLogger("steerdeck.presets")

MAX_PRESETS = 1000


@dataclass(frozen=True)
class Preset:
    """`builtin` ones cannot be changed over the API."""

    name: str
    body: PresetBody
    builtin: bool = False


def read_builtin(path: Path) -> list[Preset]:
    """The presets beside a dictionary: a JSON list for `builtin`, or one object of it, as
    `steerdeck presets export` writes.
    """
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as exc:
        log.warning("%s is not JSON (%s): its presets are left out", path, exc)
        return []
    if isinstance(entries, dict) and "edits" in entries:
        entries = [entries]
    if not isinstance(entries, list):
        log.warning(
            "%s holds no list of presets, and is left out: beside a dictionary it is "
            '[{"name": "…", "title": "…", "edits": […]}], each as `steerdeck presets export` '
            "writes it",
            path,
        )
        return []
    return builtin(entries, str(path))


def builtin(entries: Iterable[Any], where: str) -> list[Preset]:
    """Presets from objects with a name, a preset's fields and perhaps a `source`.

    A broken entry is told in the log and left out: it must not keep the model from being served.
    """
    presets = []
    for entry in entries:
        try:
            name = str(entry["name"])
            fields = {k: v for k, v in entry.items() if k not in ("name", "source")}
            body = PresetBody.model_validate(fields)
        except (ValidationError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            log.warning("%s: a preset is left out: %s", where, exc)
            continue
        presets.append(Preset(name, body, builtin=True))
    return presets


class Presets:
    """The presets of one model. Safe to use from several threads, and beside other servers.

    Who reads waits for no one who writes: what is stored is replaced whole, and never changed. A
    user's preset that cannot be read is told in the log and left out, and stays in the file.

    path: the users' file, shared by all models; None keeps them in memory only.
    """

    def __init__(self, model: str, builtin: Iterable[Preset], path: Path | None) -> None:
        self.model = model
        self._builtin = {preset.name: preset for preset in builtin}
        self._file = PresetsFile(path)
        self._known: tuple[object, dict[str, PresetBody]] = None, {}
        self._mine()

    def all(self) -> list[Preset]:
        """Built-in ones first, in the dictionary's order; users' ones by name."""
        mine = self._mine()
        return [*self._builtin.values(), *(Preset(n, mine[n]) for n in sorted(mine))]

    def get(self, name: str) -> Preset:
        if name in self._builtin:
            return self._builtin[name]
        body = self._mine().get(name)
        if body is None:
            raise NotFound(
                f"there is no preset {name!r} for {self.model}; GET /v1/presets lists them",
                param="preset",
            )
        return Preset(name, body)

    def has(self, name: str) -> bool:
        return name in self._builtin or name in self._mine()

    def put(self, name: str, body: PresetBody) -> Preset:
        """Save it; on disk when this returns. Raises BadRequest for a built-in one's name."""
        self._writable(name, "changed")
        with self._file.changing():
            stored = self._file.read()
            mine = stored.get(self.model, {})
            if name not in mine and len(mine) >= MAX_PRESETS:
                raise BadRequest(f"there are {MAX_PRESETS} presets already: delete one first")
            mine = {**mine, name: body.model_dump(mode="json")}
            self._file.write({**stored, self.model: mine})
        return Preset(name, body)

    def delete(self, name: str) -> None:
        self._writable(name, "deleted")
        self.get(name)
        with self._file.changing():
            stored = self._file.read()
            mine = {k: v for k, v in stored.get(self.model, {}).items() if k != name}
            self._file.write({**stored, self.model: mine})

    def _writable(self, name: str, verb: str) -> None:
        if name in self._builtin:
            raise BadRequest(
                f"{name} comes with the dictionary and cannot be {verb}: "
                "save yours under another name",
                param="name",
            )

    def _mine(self) -> dict[str, PresetBody]:
        """The users', read anew where another server, or this one, has saved since."""
        state, (known, mine) = self._file.state(), self._known
        if state != known:
            try:
                mine = self._valid(self._file.read().get(self.model, {}))
            except BadRequest as exc:
                log.warning("%s", exc)
            self._known = state, mine
        return mine

    def _valid(self, entries: Mapping[str, Any]) -> dict[str, PresetBody]:
        found = {}
        for name, fields in entries.items():
            try:
                found[name] = PresetBody.model_validate(fields)
            except (ValidationError, RecursionError) as exc:
                log.warning("preset %r of %s is left out: %s", name, self.model, exc)
        return found
