"""Model + dictionary pairings people actually use, by one short name each (catalog/*.toml)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_BUNDLED = "bundled:"  # in a TOML: a folder of this package


@dataclass(frozen=True, slots=True)
class Pairing:
    """What `steerdeck serve <name>` serves. model and dictionary are names for `hub.find_files`."""

    name: str
    model: str
    dictionary: str
    layer: int  # where the dictionary sits
    licence: str
    about: str
    cards: str | None = None  # a cards file; None: the one beside the dictionary, if any
    preset: str | None = None  # to show first


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
    return Pairing(**fields)
