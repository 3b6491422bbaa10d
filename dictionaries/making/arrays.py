"""Arrays on disk that many small changes go into and that a killed process finds whole again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DictionaryError

Shape = tuple[int, ...]


class Arrays:
    """Memory-mapped arrays in a folder, and the last copy of them that was kept.

    Changes go to `live/`, which a kill leaves half changed; so what is opened is always the copy
    `kept-N/` that the last `keep` made, with the state it was given. RAM holds only the pages that
    the system cares to cache.
    """

    def __init__(self, folder: Path, spec: Mapping[str, tuple[Any, Shape]]) -> None:
        """spec: dtype and shape by name. New arrays are all zero.

        Raises DictionaryError where the disk is full or the folder cannot be written.
        """
        self.folder = folder
        self._live = folder / "live"
        self.state: dict[str, Any] = {}
        try:
            self._restore(spec)
        except OSError as error:
            raise DictionaryError(f"no working files can be made in {folder}: {error}.") from error

    def _restore(self, spec: Mapping[str, tuple[Any, Shape]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for debris in (self._live, self.folder / "new"):
            shutil.rmtree(debris, ignore_errors=True)
        kept = self._kept()
        if kept is None:
            self._live.mkdir()
        else:
            shutil.copytree(kept, self._live)
            self.state = json.loads((kept / "state.json").read_text(encoding="utf-8"))
        self._arrays: dict[str, npt.NDArray[Any]] = {
            name: np.lib.format.open_memmap(
                self._live / f"{name}.npy",
                mode="w+" if kept is None else "r+",
                **({"dtype": dtype, "shape": shape} if kept is None else {}),
            )
            for name, (dtype, shape) in spec.items()
        }

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]

    def keep(self, state: Mapping[str, Any]) -> None:
        """From now on this is what a killed process comes back to."""
        new = self.folder / "new"
        try:
            new.mkdir()
            for name in self._arrays:
                shutil.copyfile(self._live / f"{name}.npy", new / f"{name}.npy")
            (new / "state.json").write_text(json.dumps(dict(state)), encoding="utf-8")
            for file in new.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            before = self._kept()
            number = 1 + (int(before.name.removeprefix("kept-")) if before else 0)
            new.rename(self.folder / f"kept-{number}")
            if before:
                shutil.rmtree(before)
        except OSError as error:
            raise DictionaryError(
                f"the work so far could not be kept in {self.folder}: {error}."
            ) from error
        self.state = dict(state)

    def _kept(self) -> Path | None:
        """The newest copy; an older one beside it is what a kill left behind."""
        found = sorted(self.folder.glob("kept-*"), key=lambda p: int(p.name.removeprefix("kept-")))
        for old in found[:-1]:
            shutil.rmtree(old)
        return found[-1] if found else None
