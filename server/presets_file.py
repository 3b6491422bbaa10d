"""The users' presets on disk: one JSON file for all models, and for every server of a data folder.

It is only ever replaced whole, so that a crash or a full disk leaves the old one. What it holds of
other models, or of a newer version, is carried over as it is.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import BadRequest, SteerdeckError

try:
    import fcntl
except ImportError:  # not on every system
    fcntl = None  # type: ignore[assignment]

Stored = dict[str, dict[str, Any]]  # by model, by name: a preset's fields


class PresetsFile:
    """path None: in memory only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._held: Stored = {}

    def state(self) -> object:
        """Another one after every change, whoever made it."""
        if self._path is None:
            return self._held
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else writes within, in this process or another."""
        with self._lock:
            if self._path is None or fcntl is None:
                yield
                return
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                folder = os.open(self._path.parent, os.O_RDONLY)
            except OSError as exc:
                raise self._unwritten(exc) from exc
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                yield
            finally:
                os.close(folder)

    def read(self) -> Stored:
        """Raises BadRequest, naming the file: it is never overwritten unread."""
        if self._path is None:
            return self._held
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            if not isinstance(stored, dict) or any(type(v) is not dict for v in stored.values()):
                raise ValueError("it is no object of objects, one for each model")
        except FileNotFoundError:
            return {}
        except (ValueError, OSError, RecursionError) as exc:
            raise BadRequest(
                f"{self._path} cannot be read as presets ({exc}): "
                "repair it, or move it away to begin anew"
            ) from exc
        return stored

    def write(self, stored: Stored) -> None:
        """Within `changing`. Raises SteerdeckError, and the old file stays."""
        if self._path is None:
            self._held = stored
            return
        try:
            replace_file(self._path, json.dumps(stored, indent=1, ensure_ascii=False))
        except OSError as exc:
            raise self._unwritten(exc) from exc

    def _unwritten(self, exc: OSError) -> SteerdeckError:
        return SteerdeckError(
            f"the presets could not be written to {self._path} "
            f"({exc.strerror or exc}): nothing was changed"
        )


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
