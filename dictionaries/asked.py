"""A dictionary by name, with what its files do not say: `NAME?k=128&norm_scaling_factor=2.5`.

`id=…` gives it another name on the wire, for two that are called alike.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from .catalog import Pairing, pairing
from .dictionary import Dictionary
from .errors import DictionaryError
from .formats import Coder, open_coder, open_dictionary

_KEYS = ("k", "norm_scaling_factor", "id", "layer")


@dataclass(frozen=True, slots=True)
class Asked:
    """name: for `catalog.pairing` and `hub.find_files`. k, norm_scaling_factor, id, layer: see
    `formats.open_coder`.
    """

    name: str
    k: int | None = None
    norm_scaling_factor: float | None = None
    id: str | None = None
    layer: int | None = None

    @property
    def facts(self) -> str:
        """What was said of the files, to stand behind their name; "" for nothing."""
        said = self._said.items()
        told = "&".join(f"{key}={value}" for key, value in said if value is not None)
        return f"?{told}" if told else ""

    @property
    def _said(self) -> dict[str, Any]:
        return {
            "k": self.k,
            "norm_scaling_factor": self.norm_scaling_factor,
            "layer": self.layer,
        }

    def open(self, path: Path, id: str | None = None) -> Dictionary:
        """`open_dictionary` of its files. id: unless it was given one."""
        return open_dictionary(path, id=self.id or id, **self._said)

    def open_coder(self, path: Path) -> Coder:
        return open_coder(path, id=self.id, **self._said)


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
    scale = words.get("norm_scaling_factor")
    return Asked(
        base,
        k=_whole(words.get("k"), "k", 1, base),
        norm_scaling_factor=None if scale is None else _positive(scale, name),
        id=words.get("id"),
        layer=_whole(words.get("layer"), "layer", 0, base),
    )


def paired(want: Asked) -> tuple[Asked, Pairing | None]:
    """Where it is a name of the catalog: that entry's dictionary, and the entry."""
    found = pairing(want.name)
    return replace(want, name=found.dictionary) if found else want, found


def _whole(text: str | None, word: str, least: int, base: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise DictionaryError(
            f"{base!r}: {word} should be a whole number from {least} to 999999999, not "
            f"{text[:20]!r}."
        )
    return int(text)


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
