"""Directions of your own: vectors to add at one site, each under a label. Nothing encodes them.

`directions.json`: {"format": "directions", "version": 1, "model", "site": {"layer", "hook"},
"directions": [{"label", "slug"}, ..]}; model and slugs may be missing, and more may stand there.
`directions.safetensors`: the tensor `directions`, floats [n, d], a row for each entry.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ..card import Card
from ..dictionary import Dictionary
from ..errors import DictionaryError
from ..per_feature import Constant
from ..weights import Weights
from .common import NOTHING, Config, Given, assemble, name_of, read_config, section, text
from .packed import stated_site
from .tensor_file import Tensors

FORMAT, VERSION = "directions", 1
MANIFEST, ROWS, TENSOR = "directions.json", "directions.safetensors", "directions"
WHY_NOT = (
    "it is a direction of your own, which nothing encodes: it has no activation. Use the op 'add' "
    "with the unit 'raw', where 1 adds it as it is."
)


def recognise(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def open(folder: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    path = folder / MANIFEST
    config = read_config(path)
    said = (config.get("format"), config.get("version"))
    if said != (FORMAT, VERSION):
        raise DictionaryError(
            f"{path} says format {said[0]!r}, version {said[1]!r}; what is read is {FORMAT!r}, "
            f"{VERSION}."
        )
    known, tensors = _cards(config, path), Tensors(folder / ROWS)
    n, width = tensors.sides(TENSOR)
    if not width or n != len(known):
        raise DictionaryError(
            f"{tensors.path} has {n} directions of {width} numbers, and {path} has {len(known)} "
            "entries: each direction needs one, with a label."
        )
    rows = tensors.matrix(TENSOR, n, width, axis=0)
    length = rows.block(0, n).norm(dim=-1)
    for card, one in zip(known, length.tolist(), strict=True):
        if not 0 < one < float("inf"):
            wrong = "is all zeros, which steers nothing" if one == 0 else "holds NaN or infinity"
            raise DictionaryError(f"{tensors.path}: row {card.feature} ({card.label!r}) {wrong}.")
    return assemble(
        folder,
        [path, tensors.path],
        Weights(enc=None, dec=rows, b_dec=torch.zeros(width), gate=Constant(n, 0.0)),
        id=name_of(id, folder.absolute().name),
        format=FORMAT,
        architecture="directions",
        site=stated_site(section(config, "site"), path),
        model=text(config.get("model")),
        why_not=WHY_NOT,
    )


def cards(folder: Path) -> list[Card]:
    """One for each direction, in order: its label and slug. Raises DictionaryError."""
    return _cards(read_config(folder / MANIFEST), folder / MANIFEST)


def _cards(config: Config, path: Path) -> list[Card]:
    entries = config.get("directions")
    if not isinstance(entries, list) or not entries:
        raise DictionaryError(f"{path}: 'directions' should be a list with an entry a direction.")
    found: list[Card] = []
    for at, entry in enumerate(entries):
        label = text(entry.get("label")) if isinstance(entry, dict) else None
        if label is None or not label.strip():
            raise DictionaryError(f"{path}: directions[{at}] has no label: say what it stands for.")
        slug = entry.get("slug")
        if slug is not None and (not isinstance(slug, str) or slug in {one.slug for one in found}):
            raise DictionaryError(
                f"{path}: the slug of directions[{at}], {slug!r}, should be a word that no other "
                "has, or be left out."
            )
        found.append(Card(at, label, slug=slug))
    return found
