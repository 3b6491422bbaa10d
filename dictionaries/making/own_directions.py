"""A folder of directions of your own, a row more: what `formats.directions` opens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..errors import DictionaryError
from ..formats import open_dictionary
from ..formats.common import read_config
from ..formats.directions import FORMAT, MANIFEST, ROWS, TENSOR, VERSION, cards
from ..info import Site


class Folder:
    """The directions that are there, for a model and a site.

    facts: of the model, such as its name; those that the folder states, too, must be the same.
    Raises DictionaryError for a folder that holds others, or something else.
    """

    def __init__(self, path: Path, site: Site, facts: Mapping[str, str]) -> None:
        self.path = path
        self.rows, self.labels = torch.empty(0, 0), list[str]()
        self._slugs: set[str | None] = set()
        self._said: dict[str, Any] = {"format": FORMAT, "version": VERSION, **facts}
        self._said |= {"site": asdict(site), "directions": []}
        if (path / MANIFEST).exists():
            self._read(site, facts)
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise DictionaryError(f"{path} exists and holds no {MANIFEST}: name another folder.")

    def _read(self, site: Site, facts: Mapping[str, str]) -> None:
        opened = open_dictionary(self.path)
        self._said = read_config(self.path / MANIFEST)
        here, there = {**facts, "site": site}, {**self._said, "site": opened.info.site}
        for word, value in here.items():
            if there.get(word, value) != value:
                raise DictionaryError(
                    f"{self.path} holds directions of {word} {there[word]}, not {value}: name "
                    "another folder for these."
                )
        known = cards(self.path)
        self.rows = opened.rows(range(opened.info.d_sae)).dec
        self.labels, self._slugs = [one.label for one in known], {one.slug for one in known}

    def check(self, name: str) -> None:
        """Raise DictionaryError for a name that no new row can have."""
        if not name.strip():
            raise DictionaryError("the name of a direction is empty: say what it stands for.")
        if name in self.labels or (slug_of(name) or "") in self._slugs:
            raise DictionaryError(
                f"{self.path} has a direction called {name!r} already: give another name."
            )

    def cosines(self, direction: Tensor) -> list[tuple[str, float]]:
        """(label, cosine) with every row that is there."""
        if not self.labels:
            return []
        self._check_width(direction)
        near = cosine_similarity(self.rows, direction[None]).tolist()
        return list(zip(self.labels, near, strict=True))

    def add(self, name: str, direction: Tensor, made: Mapping[str, Any]) -> int:
        """Write it as the last row and give its number. made: how, as JSON, for who reads it."""
        self.check(name)
        self._check_width(direction)
        at, slug = len(self.labels), slug_of(name)
        entry = {"label": name, **({"slug": slug} if slug else {}), "made": dict(made)}
        rows = torch.cat([self.rows.view(-1, len(direction)), direction[None]])
        said = {**self._said, "directions": [*self._said["directions"], entry]}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            new = [self.path / f"{file}.new" for file in (ROWS, MANIFEST)]
            save_file({TENSOR: rows.contiguous()}, new[0])
            new[1].write_text(json.dumps(said, indent=1, ensure_ascii=False), encoding="utf-8")
            for file in new:
                file.replace(file.with_suffix(""))
        except OSError as error:
            raise DictionaryError(f"{self.path} cannot be written: {error}.") from error
        self.rows, self._said = rows, said
        self.labels, self._slugs = [*self.labels, name], {*self._slugs, slug}
        return at

    def _check_width(self, direction: Tensor) -> None:
        if self.labels and self.rows.shape[1:] != direction.shape:
            raise DictionaryError(
                f"{self.path} holds directions of {self.rows.shape[1]} numbers, and one of "
                f"{len(direction)} came: name another folder for it."
            )


def slug_of(name: str) -> str | None:
    """Its words in small letters, joined by hyphens; None for a name without a plain letter."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return slug if re.search("[a-z]", slug) else None
