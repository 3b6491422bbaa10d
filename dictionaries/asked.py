"""A dictionary by name, with what its files do not say: `NAME?k=128&norm_scaling_factor=2.5`.

`id=…` gives it another name on the wire, for two that are called alike.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl

from .catalog import Pairing, pairing
from .dictionary import Dictionary
from .errors import DictionaryError
from .formats import Coder, open_coder, open_dictionary

_KEYS = ("k", "norm_scaling_factor", "id")


@dataclass(frozen=True, slots=True)
class Asked:
    """name: for `catalog.pairing` and `hub.find_files`. k, norm_scaling_factor, id: see
    `formats.open_coder`.
    """

    name: str
    k: int | None = None
    norm_scaling_factor: float | None = None
    id: str | None = None

    @property
    def facts(self) -> str:
        """What was said of the files, to stand behind their name; "" for nothing."""
        said = {"k": self.k, "norm_scaling_factor": self.norm_scaling_factor}
        told = "&".join(f"{key}={value}" for key, value in said.items() if value is not None)
        return f"?{told}" if told else ""

    def open(self, path: Path, id: str | None = None) -> Dictionary:
        """`open_dictionary` of its files. id: unless it was given one."""
        return open_dictionary(
            path,
            id=self.id or id,
            norm_scaling_factor=self.norm_scaling_factor,
            k=self.k,
        )

    def open_coder(self, path: Path) -> Coder:
        return open_coder(path, id=self.id, norm_scaling_factor=self.norm_scaling_factor, k=self.k)


def asked(name: str) -> Asked:
    """Raises DictionaryError for anything but known words and their numbers behind the "?"."""
    base, mark, rest = name.rpartition("?")
    if not mark or os.path.exists(os.path.expanduser(name)):
        return Asked(name)
    words = dict(parse_qsl(rest, keep_blank_values=True))
    if not words or not words.keys() <= {*_KEYS}:
        raise DictionaryError(
            f"{name!r}: behind the '?' stand {', '.join(_KEYS)}, such as {base}?k=128&id=own."
        )
    k, scale = words.get("k"), words.get("norm_scaling_factor")
    if k is not None and not (k.isascii() and k.isdigit() and len(k) < 10 and int(k)):
        raise DictionaryError(
            f"{base!r}: k should be a whole number from 1 to 999999999, not {k[:20]!r}."
        )
    return Asked(
        base,
        k=None if k is None else int(k),
        norm_scaling_factor=None if scale is None else _positive(scale, name),
        id=words.get("id"),
    )


def paired(want: Asked) -> tuple[Asked, Pairing | None]:
    """Where it is a name of the catalog: that entry's dictionary, and the entry."""
    found = pairing(want.name)
    return replace(want, name=found.dictionary) if found else want, found


def _positive(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise DictionaryError(
            f"{name!r}: norm_scaling_factor should be a number above 0, not {text!r}."
        )
    return value
