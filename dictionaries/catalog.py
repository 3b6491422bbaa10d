"""Model + dictionary pairings people actually use, by one short name each (catalog/*.toml)."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_BUNDLED = "bundled:"  # in a TOML: a folder of this package
_COMMIT = re.compile(r"@[0-9a-f]{40}(/|$)")


@dataclass(frozen=True, slots=True)
class Pairing:
    """What `steerdeck serve <name>` serves. model and dictionary are names for `hub.find_files`.

    A name on the hub that holds no commit ("org/repo@<40 hex digits>") is not pinned: none could be
    established, and it is kept at that of its first download (`hub_pins`).
    """

    name: str
    model: str
    dictionary: str
    layer: int  # where the dictionary sits
    hook: str
    features: int
    gb: float  # of the download, 10^9 bytes, at most
    size: str  # the same in words
    licence: str
    gated: bool  # whether the hub wants a token of an account that accepted the licence
    about: str
    l0: float | None = None  # features that fire on a token, as published
    neuronpedia: str | None = None  # "model/source": where its features can be looked at
    cards: str | None = None  # a cards file; None: the one beside the dictionary, if any
    preset: str | None = None  # to show first
    # Beside those that lie with the dictionary. Each has a name, the fields of a preset, and in
    # `source` where its feature and strength were published.
    presets: tuple[Mapping[str, Any], ...] = ()

    @property
    def unpinned(self) -> tuple[str, ...]:
        """Which of "model" and "dictionary" come as the hub has them on the first day."""
        parts = {"model": self.model, "dictionary": self.dictionary}
        return tuple(
            part
            for part, name in parts.items()
            if not _COMMIT.search(name) and not os.path.isabs(name)
        )


def pairing(name: str) -> Pairing | None:
    """The pairing of that name; None if there is none."""
    return _all().get(name)


def names() -> list[str]:
    """Every pairing there is, the bundled one first."""
    return list(_all())


@cache
def _all() -> dict[str, Pairing]:
    found = [
        _read(entry.read_text("utf-8"))
        for entry in files("dictionaries").joinpath("catalog").iterdir()
        if entry.name.endswith(".toml")
    ]
    found.sort(key=lambda p: (p.name != "foghorn", p.name))
    return {p.name: p for p in found}


def _read(toml: str) -> Pairing:
    fields = tomllib.loads(toml)
    for key in ("model", "dictionary", "cards"):
        value = fields.get(key, "")
        if value.startswith(_BUNDLED):
            fields[key] = str(files("dictionaries").joinpath(value.removeprefix(_BUNDLED)))
    return Pairing(**{**fields, "presets": tuple(fields.get("presets", ()))})
