"""Named sets of edits: those that come with a dictionary, and those users save.

Users' presets live in one JSON file that is only ever replaced whole, so that a crash or a full
disk leaves the old one. They belong to the model they were saved for: a feature's number means
something else in another dictionary.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .errors import BadRequest, NotFound, SteerdeckError
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
    """The presets beside a dictionary: a JSON list for `builtin`."""
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        log.warning("%s is not JSON (%s): its presets are left out", path, exc)
        return []
    return builtin(entries if isinstance(entries, list) else [], str(path))


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
        except (ValidationError, KeyError, TypeError, AttributeError) as exc:
            log.warning("%s: a preset is left out: %s", where, exc)
            continue
        presets.append(Preset(name, body, builtin=True))
    return presets


class Presets:
    """The presets of one model. Safe to use from several threads.

    Who reads waits for no one who writes: what is stored is replaced whole, and never changed.

    path: the users' file, shared by all models; None keeps them in memory only.
    """

    def __init__(self, model: str, builtin: Iterable[Preset], path: Path | None) -> None:
        self.model = model
        self._builtin = {preset.name: preset for preset in builtin}
        self._path = path
        self._lock = threading.Lock()
        self._stored = self._read()

    def all(self) -> list[Preset]:
        """Built-in ones first, in the dictionary's order; users' ones by name."""
        mine = self._stored.get(self.model, {})
        return [*self._builtin.values(), *(Preset(n, mine[n]) for n in sorted(mine))]

    def get(self, name: str) -> Preset:
        if name in self._builtin:
            return self._builtin[name]
        body = self._stored.get(self.model, {}).get(name)
        if body is None:
            raise NotFound(
                f"there is no preset {name!r} for {self.model}; GET /v1/presets lists them",
                param="preset",
            )
        return Preset(name, body)

    def has(self, name: str) -> bool:
        return name in self._builtin or name in self._stored.get(self.model, {})

    def put(self, name: str, body: PresetBody) -> Preset:
        """Save it; on disk when this returns. Raises BadRequest for a built-in one's name."""
        self._writable(name, "changed")
        with self._lock:
            self._stored = self._read()  # another process may have saved since
            mine = self._stored.get(self.model, {})
            if name not in mine and len(mine) >= MAX_PRESETS:
                raise BadRequest(f"there are {MAX_PRESETS} presets already: delete one first")
            self._write({**self._stored, self.model: {**mine, name: body}})
        return Preset(name, body)

    def delete(self, name: str) -> None:
        self._writable(name, "deleted")
        self.get(name)
        with self._lock:
            self._stored = self._read()
            mine = {k: v for k, v in self._stored.get(self.model, {}).items() if k != name}
            self._write({**self._stored, self.model: mine})

    def _writable(self, name: str, verb: str) -> None:
        if name in self._builtin:
            raise BadRequest(
                f"{name} comes with the dictionary and cannot be {verb}: "
                "save yours under another name",
                param="name",
            )

    def _read(self) -> dict[str, dict[str, PresetBody]]:
        """Raises BadRequest, naming the file: it is never overwritten unread."""
        if self._path is None or not self._path.exists():
            return {}
        try:
            stored: dict[str, dict[str, Any]] = json.loads(self._path.read_text(encoding="utf-8"))
            return {
                model: {name: PresetBody.model_validate(body) for name, body in entries.items()}
                for model, entries in stored.items()
            }
        except (ValueError, AttributeError, OSError) as exc:
            raise BadRequest(
                f"{self._path} cannot be read as presets ({str(exc).splitlines()[0]}): "
                "repair it, or move it away to begin anew"
            ) from exc

    def _write(self, stored: dict[str, dict[str, PresetBody]]) -> None:
        """Replace the file whole, then what is held in memory. The lock is held."""
        if self._path is not None:
            text = json.dumps(
                {
                    model: {name: body.model_dump(mode="json") for name, body in bodies.items()}
                    for model, bodies in stored.items()
                },
                indent=1,
                ensure_ascii=False,
            )
            try:
                replace_file(self._path, text)
            except OSError as exc:
                raise SteerdeckError(
                    f"the presets could not be written to {self._path} "
                    f"({exc.strerror or exc}): nothing was changed"
                ) from exc
        self._stored = stored


def replace_file(path: Path, text: str) -> None:
    """Write beside `path`, flush to disk, rename over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
